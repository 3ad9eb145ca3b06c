from __future__ import annotations

import cv2
import numpy as np
import pytest

from mepipe.errors import DataError
from mepipe.frames import FrameFolder, VideoFile, nearest, open_frames, read_image


@pytest.fixture
def picture(rng):
    return cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frames_are_numbered_by_the_last_integer_and_sorted_by_it(tmp_path, picture):
    for name in ("img2.jpg", "img10.jpg", "img0009.JPG", "006_05562.png", "reg_img46.bmp"):
        cv2.imwrite(str(tmp_path / name), picture)
    for stray in ("Desktop - Shortcut 3.lnk", ".DS_Store", "notes12.txt", "noNumber.jpg", "Thumbs.db"):
        (tmp_path / stray).write_bytes(b"stray")
    assert FrameFolder(tmp_path).numbers == [2, 9, 10, 46, 5562]


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no numbered image"):
        FrameFolder(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_truncated_image_is_refused_not_half_grey(tmp_path, picture, suffix):
    path = tmp_path / f"img1{suffix}"
    cv2.imwrite(str(path), picture)
    assert read_image(path).shape == (60, 80, 3)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"truncated|not an image|decoded|hole"):
            read_image(path)


def test_a_jpeg_with_a_hole_is_refused_and_a_flat_one_is_not(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "img1.jpg"
    cv2.imwrite(str(path), rng.integers(0, 256, (300, 400, 3), np.uint8))
    whole = path.read_bytes()
    third, half = len(whole) // 3, len(whole) // 2
    path.write_bytes(whole[:third] + bytes(half - third) + whole[half:])
    with pytest.raises(DataError, match="with a hole"):
        read_image(path)
    for quality in (30, 95, 100):
        flat = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        cv2.imwrite(str(path), np.full((480, 640, 3), 128, np.uint8), flat)
        assert read_image(path).shape == (480, 640, 3)


@pytest.mark.parametrize("data", [b"", b"hello, I am a text", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM"])
def test_what_is_no_image_is_refused(tmp_path, data):
    (tmp_path / "img1.jpg").write_bytes(data)
    with pytest.raises(DataError, match=r"img1\.jpg"):
        read_image(tmp_path / "img1.jpg")


def test_a_decompression_bomb_is_refused_without_its_memory(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "img1.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"cannot be decoded"):
        read_image(tmp_path / "img1.png")


def test_grey_and_16_bit_images_become_bgr_8_bit(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a1.png"), picture[:, :, 0])
    cv2.imwrite(str(tmp_path / "a2.png"), picture.astype(np.uint16) * 257)
    grey = read_image(tmp_path / "a1.png")
    assert (grey == picture[:, :, :1]).all()
    deep = read_image(tmp_path / "a2.png")
    assert deep.dtype == np.uint8
    assert np.abs(deep.astype(int) - picture).max() <= 1


def test_nearest_frame_prefers_the_earlier_of_two():
    assert [nearest([3, 5, 9], n) for n in (0, 4, 6, 8, 99)] == [3, 3, 5, 9, 9]


@pytest.fixture
def video(tmp_path, rng):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 100, (80, 60))
    for n in range(12):
        writer.write(np.full((60, 80, 3), 20 * n, np.uint8))
    writer.release()
    return path


def test_video_frames_are_exact_in_any_order(video):
    frames = VideoFile(video)
    assert list(frames.numbers) == list(range(12))
    assert frames.fps == 100
    for n in (5, 5, 2, 11, 0):
        assert abs(int(frames.read(n).mean()) - 20 * n) <= 3


def test_a_file_that_is_no_video_is_one_line(tmp_path):
    (tmp_path / "x.avi").write_bytes(b"not a video")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        open_frames(tmp_path / "x.avi")
    (tmp_path / "x.txt").write_bytes(b"not a video")
    with pytest.raises(DataError, match="neither a folder of frames nor a video"):
        open_frames(tmp_path / "x.txt")
    with pytest.raises(DataError, match="does not exist"):
        open_frames(tmp_path / "absent")
