from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from mepipe.datasets.base import Clip
from mepipe.errors import DataError, UsageError
from mepipe.faces.detect import Face, best_face, get_detector
from mepipe.faces.find import eye_distance, find_face, overlap, plausible
from mepipe.faces.landmarks import ENVIRONMENT, ShapePredictor, find_predictor

CLIP = Clip("casme2", "sub01", "c", 1, 2, 3, 200, "others")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph of a face, NASA, public domain; its HOG box is (179, 83, 87, 87)."""
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)


@pytest.fixture(scope="module")
def hog():
    return get_detector("dlib")


@pytest.fixture(scope="module")
def predictor() -> ShapePredictor:
    path = find_predictor()
    assert path, "the extra dlib brings the landmark files"
    return ShapePredictor(path)


def test_the_face_of_a_photograph_is_found(photo, hog):
    (face,) = hog.detect(photo)
    np.testing.assert_allclose(face.box, (179, 83, 87, 87), atol=8)
    assert face.how == ""


def test_a_small_face_is_found_enlarged_and_a_tight_one_padded(photo, hog):
    small = cv2.resize(photo, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)
    (face,) = hog.detect(small)
    assert face.how == "enlarged"
    assert face.box[2] == pytest.approx(48, abs=8)
    tight = photo[92:172, 182:262]
    faces = hog.detect(cv2.resize(tight, None, fx=2, fy=2))
    assert faces
    assert "padded" in faces[0].how
    assert faces[0].box[0] < 25


def test_landmarks_lie_in_the_box_in_dlibs_order(photo, hog, predictor):
    (face,) = hog.detect(photo)
    points = predictor.points(photo, face.box)
    assert points.shape == (68, 2)
    assert plausible(points, face)
    assert points[36:42, 0].mean() < points[42:48, 0].mean()
    assert points[8, 1] == points[:, 1].max()
    assert eye_distance(points) == pytest.approx(42, abs=5)


def test_the_five_point_file_gives_nearly_the_same_alignment(photo, hog, predictor):
    from mepipe.faces.align import matrix_from_landmarks

    five = predictor.path.with_name("shape_predictor_5_face_landmarks.dat")
    (face,) = hog.detect(photo)
    a = matrix_from_landmarks(predictor.points(photo, face.box))
    b = matrix_from_landmarks(ShapePredictor(five).points(photo, face.box))
    centre = np.array([222, 126, 1.0])
    np.testing.assert_allclose(a @ centre, b @ centre, atol=12)
    assert abs(np.linalg.det(a[:, :2]) / np.linalg.det(b[:, :2]) - 1) < 0.25


def test_no_face_refuses_the_clip_and_says_what_to_do(hog):
    blank = np.full((480, 640, 3), 128, np.uint8)
    with pytest.raises(
        DataError, match="no face found on onset frame 1; check the picture; prepare takes boxes by --detector given"
    ):
        find_face(blank, CLIP, hog)


def test_of_two_faces_the_large_central_one_is_the_clips(photo):
    background, subject = Face((10, 10, 60, 60), 2.0), Face((190, 150, 250, 250), 0.4)
    assert best_face([background, subject], np.zeros((480, 640, 3))) is subject
    assert best_face([background, subject], np.zeros((480, 640, 3)), expected_width=70) is background
    assert best_face([], photo) is None


def test_a_second_look_takes_the_face_of_the_expected_size(photo, hog, predictor):
    """The right face is small and is only found enlarged; a larger one elsewhere is not this subject's."""
    scene = np.full((480, 640, 3), 90, np.uint8)
    scene[60:340, 20:300] = cv2.resize(photo[40:240, 120:320], (280, 280), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(photo[40:240, 120:320], (110, 110), interpolation=cv2.INTER_AREA)
    scene[200:310, 480:590] = small
    large, _ = find_face(scene, CLIP, hog, predictor)
    assert large.box[2] > 90
    face, _ = find_face(scene, CLIP, hog, predictor, expected_width=48)
    assert face.box[0] > 470
    with pytest.raises(DataError, match="no face, where this subject's faces are about 400 px wide"):
        find_face(scene, CLIP, hog, predictor, expected_width=400)


def test_of_several_candidates_the_one_that_another_frame_shows_too_is_kept(photo, hog):
    """A large false face that the other frame does not show loses to the clip's own."""
    scene = np.full((480, 640, 3), 90, np.uint8)
    scene[180:380, 400:600] = photo[40:240, 120:320]
    onset = scene.copy()
    onset[20:320, 20:320] = cv2.resize(photo[40:240, 120:320], (300, 300), interpolation=cv2.INTER_CUBIC)
    large, _ = find_face(onset, CLIP, hog)
    assert large.box[0] < 320
    face, _ = find_face(onset, CLIP, hog, witness=lambda: scene)
    assert face.box[0] > 400


def test_overlap_of_boxes():
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (5, 5, 2, 2)) == 0
    assert overlap((0, 0, 2, 2), (1, 0, 2, 2)) == pytest.approx(1 / 3)


def test_a_named_landmark_file_must_exist(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="--landmarks: no such file"):
        find_predictor("absent.dat")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "absent.dat"))
    with pytest.raises(UsageError, match="MEPIPE_SHAPE_PREDICTOR: no such file"):
        find_predictor()
    (tmp_path / "absent.dat").write_bytes(b"x")
    assert find_predictor() == tmp_path / "absent.dat"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("subject,clip,x,y\ns,c,1,2\n", "row 2 is not a box"),
        ("subject,clip,x,y,width,height\ns,c,1,2,0,5\n", "width and height must be positive"),
        ("subject,clip,x,y,width,height\ns,c,1,2,nan,5\n", "row 2"),
    ],
)
def test_a_damaged_boxes_file_names_its_row(tmp_path, text, says):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        get_detector("given", str(tmp_path / "boxes.csv"))


def test_detectors_that_need_a_file_say_so(tmp_path):
    for name in ("yunet", "given"):
        with pytest.raises(UsageError, match=f"--detector {name} needs"):
            get_detector(name)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError, match="no YuNet model"):
        get_detector("yunet", str(tmp_path / "bad.onnx"))
