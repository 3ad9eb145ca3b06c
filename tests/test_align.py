from __future__ import annotations

import cv2
import numpy as np
import pytest

from mepipe.faces import align


def turned(points, scale, angle, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return points @ np.array([[c, -s], [s, c]]).T + shift


def test_similarity_recovers_a_known_motion():
    points = align.mean_face()
    matrix = align.similarity(turned(points, 1.7, 0.2, [30, -4]), points)
    back = turned(points, 1.7, 0.2, [30, -4]) @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(back - points).max() < 1e-9
    assert align.scale_of(matrix) == pytest.approx(1 / 1.7)


def test_similarity_never_mirrors():
    points = align.mean_face()
    mirrored = points * [-1, 1] + np.random.default_rng(0).normal(0, 5, points.shape)
    assert np.linalg.det(align.similarity(mirrored, points)[:, :2]) > 0


def test_template_has_the_stated_eyes_and_mouth_and_is_symmetric():
    face = align.mean_face()
    np.testing.assert_allclose(face[36:42].mean(0), (68, 60), atol=0.1)
    np.testing.assert_allclose(face[42:48].mean(0), (156, 60), atol=0.1)
    np.testing.assert_allclose(face[48:60].mean(0), (112, 153.7), atol=0.2)
    np.testing.assert_allclose(face[8], (112, 207.9), atol=0.1)
    assert face.min() > 8
    assert face.max() < 216


def test_five_points_give_nearly_the_transform_of_68():
    points = turned(align.mean_face(), 1.4, 0.1, [100, 50])
    np.testing.assert_allclose(
        align.matrix_from_landmarks(points[align.FIVE_FROM_68]), align.matrix_from_landmarks(points), atol=1e-6
    )


def test_real_landmarks_land_on_the_template(real_data):
    """577 real landmark sets: eyes, nose and mouth within a few pixels of where the crop promises them."""
    sets = np.load(real_data / "slstt_landmarks.npz")["landmarks"].astype(float)
    apart = np.linalg.norm(sets[:, 42:48].mean(1) - sets[:, 36:42].mean(1), axis=1)
    faces = sets[apart > 40]  # one is a false detection, with eyes 25 px apart
    assert len(faces) >= 576
    off = []
    for points in faces:
        m = align.matrix_from_landmarks(points)
        off.append(points @ m[:, :2].T + m[:, 2] - align.mean_face())
    eyes = np.array([[o[36:42].mean(0), o[42:48].mean(0)] for o in off])
    mouth = np.array([o[48:60].mean(0) for o in off])
    assert np.abs(eyes).max() < 16
    assert np.percentile(np.linalg.norm(eyes, axis=-1), 95) < 7
    assert np.percentile(np.linalg.norm(mouth, axis=-1), 95) < 8
    inside = np.array([np.abs(o + align.mean_face() - 112).max() for o in off])
    assert (inside < 112 + 25).all(), "the whole face stays in or near the crop"


def test_real_false_detection_is_not_plausible(real_data):
    from mepipe.faces.detect import Face
    from mepipe.faces.find import plausible

    data = np.load(real_data / "slstt_landmarks.npz")
    sets = dict(zip(data["keys"], data["landmarks"].astype(float), strict=True))
    usual = Face((0, 0, 230, 230), 1.0)
    assert not plausible(sets["smic/s2/s2_po_01"], usual)
    assert plausible(sets["smic/s2/s2_po_02"] if "smic/s2/s2_po_02" in sets else sets["casme2/sub01/EP02_01f"], usual)


def smooth_image(shape=(480, 640), seed=0):
    noise = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 6)
    return np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)


def test_crop_equals_sampling_the_source_where_the_matrix_points():
    image = smooth_image()
    matrix = np.array([[0.9, 0.1, -200.0], [-0.1, 0.9, -80.0]])
    got = align.crop(image, matrix).astype(float)
    inverse = np.linalg.inv(matrix[:, :2])
    for x, y in ((20, 30), (112, 112), (200, 190)):
        sx, sy = inverse @ (np.array([x, y]) - matrix[:, 2])
        want = cv2.getRectSubPix(image.astype(np.float32), (1, 1), (float(sx), float(sy)))[0, 0]
        assert abs(got[y, x] - want) < 3


def test_crop_of_a_large_face_is_free_of_aliasing():
    """A checkerboard finer than the crop can hold becomes grey, not a moire."""
    board = np.indices((900, 900)).sum(0) % 2 * 255
    small = align.crop(board.astype(np.uint8), np.array([[0.25, 0, 0.0], [0, 0.25, 0.0]]))
    assert small[20:-20, 20:-20].std() < 3
    assert abs(small[20:-20, 20:-20].mean() - 127.5) < 2


def test_crop_repeats_the_border_outside_the_source():
    image = np.full((100, 100, 3), 77, np.uint8)
    assert (align.crop(image, np.array([[1.0, 0, 60.0], [0, 1.0, 60.0]])) == 77).all()


def test_the_same_matrix_moves_nothing_between_frames():
    """Two crops of one image by one matrix are the same bytes: alignment adds no motion within a clip."""
    image = smooth_image()
    matrix = np.array([[0.61, 0.02, -80.0], [-0.02, 0.61, -30.0]])
    assert (align.crop(image, matrix) == align.crop(image.copy(), matrix)).all()


def test_box_alignment_puts_the_face_about_where_landmarks_do(made):
    import csv
    import json

    off = []
    for r in csv.DictReader((made.work / "prepared/casme2/clips.csv").open()):
        facts = json.loads((made.work / "prepared/casme2" / r["subject"] / r["clip"] / "clip.json").read_text())
        by_box = align.matrix_from_box(tuple(facts["record"]["box"]))
        points = np.array(facts["landmarks"])
        off.append((points @ by_box[:, :2].T + by_box[:, 2] - align.mean_face())[align.USED_68].mean(0))
    assert np.abs(np.median(off, axis=0)).max() < 8
