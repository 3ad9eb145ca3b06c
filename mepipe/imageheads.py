"""What the first and last bytes of an image say: is it whole, how many pixels does it claim to have?

Nothing is decoded here.  JPEG, PNG, BMP and TIFF are known; a file that is none of them is never given to a decoder.
"""

from __future__ import annotations

from typing import Literal

from mepipe.limits import IMAGE_PIXELS, IMAGE_SCANS

# Zero bytes in a row that a frame with a face in it cannot have: at best (optimised Huffman codes) they would be an
# area of one colour of 350,000 px.  OpenCV decodes such a file to noise and says so only on the console.
HOLE = bytes(2048)

JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame header; ITU-T T.81, table B.1
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags; TIFF 6.0, section 8


def damage(data: bytes) -> str:
    """Why these bytes are no whole image, or ''. Knows JPEG, PNG and BMP; others are left to the decoder."""
    if not data:
        return "is empty"
    if data[:2] == b"\xff\xd8":
        # inside the scan 0xFF is always stuffed, so an end marker after the last start of scan is the real end
        scan = data.rfind(b"\xff\xda")
        if data.rfind(b"\xff\xd9") < scan:
            return "is a truncated JPEG"
        return "is a JPEG with a hole, as an interrupted copy leaves it" if data.find(HOLE, scan) >= 0 else ""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "" if b"IEND" in data[-64:] else "is a truncated PNG"
    if data[:2] == b"BM":
        return "is a truncated BMP" if len(data) < int.from_bytes(data[2:6], "little") else ""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return ""
    return "is not an image (no JPEG, PNG, BMP or TIFF header)"


def broken_chunk(data: bytes) -> str:
    """Why the chunks of a PNG do not fill the file, or ''. data: the whole file.

    OpenCV 5 never comes back from a chunk that says it has 2 GB and more; others that do not fit are damage too.
    """
    place = 8 if data[:8] == b"\x89PNG\r\n\x1a\n" else len(data)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return "is a PNG with a chunk that is longer than the file"
        if data[place + 4 : place + 8] == b"IEND":
            return ""
        place = end
    return "is a PNG without an end" if data[:4] == b"\x89PNG" else ""


def bomb(data: bytes) -> str:
    """Why decoding would take more memory or time than the limits allow, or ''. data: from the file's beginning on."""
    size = picture_size(data)
    if size is not None and size[0] * size[1] > IMAGE_PIXELS():
        what = f"cannot be decoded, {size[0]} x {size[1]}"
        return str(IMAGE_PIXELS.exceeded(what, size[0] * size[1]))
    scans = data.count(b"\xff\xda") if data[:2] == b"\xff\xd8" else 0
    return str(IMAGE_SCANS.exceeded("cannot be decoded", scans)) if scans > IMAGE_SCANS() else ""


def picture_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in px as the header of a PNG, BMP, JPEG or TIFF says; None where ``data`` does not tell."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:2] == b"BM":
        return _bmp_size(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    return _tiff_size(data) if data[:4] in (b"II*\0", b"MM\0*") else None


def _bmp_size(data: bytes) -> tuple[int, int]:
    if data[14:18] == b"\x0c\0\0\0":  # the header of OS/2 has sizes of 16 bits
        return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
    width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
    return abs(width), abs(height)  # a negative height: the rows run from top to bottom


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in JPEG_SIZE:
            height, width = (int.from_bytes(data[place + i : place + i + 2], "big") for i in (5, 7))
            return width, height
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
        else:
            place += 2 + max(int.from_bytes(data[place + 2 : place + 4], "big"), 2)
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Of the first image in the file, the one that is decoded."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    first = number(4, 4)
    found = {}
    for place in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        tag, short = number(place, 2), number(place + 2, 2) == 3
        found[tag] = number(place + 8, 2 if short else 4)
    sizes = found.get(TIFF_WIDTH), found.get(TIFF_HEIGHT)
    return None if None in sizes else (sizes[0] or 0, sizes[1] or 0)
