"""Made-up people: the photograph reshaped, recoloured and relit until it is somebody else.

``identity(camera, seed, corpus, subject)`` draws one person before one camera.  ``canvas_of`` paints what
every frame of that person is sampled from: the picture enlarged, warped once, at SUPERSAMPLE times the
resolution of the frames, so that a frame is one bilinear look-up of it, without visible blur.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from mepipe.synth import photo
from mepipe.synth.fields import Bumps, points_before, sampled, weighted_sum
from mepipe.synth.seeds import stream

SUPERSAMPLE = 2  # canvas px per frame px: bilinear look-up then loses under 2 % of the finest texture drawn
MARGIN = 16  # frame px of canvas around the frame: drift and expression together stay below 6 px
_ENLARGE = 4  # the picture is enlarged by this before it is warped, near the scale of a canvas

# How faces differ in shape. Points of the picture's right half (image left), of its left half, the push
# (outward, down) in picture px for a draw of 1, the radius in px, and the range of the draw.
# Ranges were chosen by eye: the extremes still look like faces and dlib's HOG detector still finds them.
_SHAPES = (
    ((3, 4, 5), (11, 12, 13), (1, 0), 16, (-3.5, 4)),  # jaw width
    ((1, 2), (14, 15), (1, 0), 16, (-2.5, 3)),  # cheek width
    ((7, 8, 9), (), (0, 1), 18, (-3.5, 4)),  # chin length
    ((31,), (35,), (1, 0), 7, (-1.2, 1.6)),  # nose width
    ((30, 33), (), (0, 1), 10, (-2, 2)),  # nose length
    ((36, 39), (42, 45), (1, 0), 13, (-1.6, 1.6)),  # distance of the eyes
    ((37, 38), (43, 44), (0, -1), 6, (-0.8, 0.5)),  # eye opening
    ((17, 19, 21), (22, 24, 26), (0, 1), 13, (-2, 1.6)),  # height of the brows
    ((21,), (22,), (0.5, 1), 8, (-1.2, 1.2)),  # slant of the brows
    ((48,), (54,), (1, 0), 10, (-2.5, 1.5)),  # width of the mouth
    ((48,), (54,), (0, 1), 9, (0, 2.6)),  # corners of the mouth, down from the picture's smile
    ((57,), (), (0, 1), 9, (-2.5, 0.5)),  # lower lip, up from the picture's open smile
)
_HAIR_PUSHES = (((160, 85), (-1, 0)), ((293, 85), (1, 0)), ((225, 50), (0, -1)))  # each by -4..5 px, radius 30

# Gains (blue, green, red) on the picture's own colours, and how much of the colour is kept.
_SKIN_TONES = ((1.0, 1.0, 1.0), (0.86, 0.93, 1.0), (0.74, 0.83, 0.92), (0.6, 0.68, 0.8), (1.08, 1.05, 1.02))
_HAIR_TONES = (
    ((0.22, 0.22, 0.24), 0.4),  # black
    ((0.45, 0.42, 0.45), 0.7),  # dark brown
    ((0.7, 0.68, 0.78), 0.9),  # brown
    ((1.0, 1.0, 1.0), 1.0),  # as it is
    ((0.55, 0.6, 0.95), 1.0),  # red
    ((1.0, 0.97, 0.97), 0.15),  # grey
)


@dataclass(frozen=True)
class Camera:
    """What a corpus was filmed with.

    size: frame width and height in px.  scale: range of frame px per picture px; the face box of the
    picture is 87 px wide.  noise: range of the sensor noise's sigma in grey levels.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    noise: tuple[float, float] = (1.0, 2.0)
    grey: bool = False


@dataclass(frozen=True)
class Pose:
    """Where the reshaped picture lies in the frame: a mirrored or plain similarity with uneven axes."""

    centre: tuple[float, float]  # frame px of FACE_CENTRE
    scale: tuple[float, float]  # frame px per picture px, along the face's x and y
    roll: float  # radians, clockwise positive (y points down)
    mirrored: bool

    @property
    def matrix(self) -> np.ndarray:
        """(2, 2): picture offsets from FACE_CENTRE to frame offsets from ``centre``."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        flip = -1.0 if self.mirrored else 1.0
        return np.array([[cos, -sin], [sin, cos]]) @ np.diag([flip * self.scale[0], self.scale[1]])

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        return (points - photo.FACE_CENTRE) @ self.matrix.T + self.centre

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre) @ np.linalg.inv(self.matrix).T + photo.FACE_CENTRE


@dataclass(frozen=True, eq=False)
class Identity:
    """One made-up person before one camera: the geometry; ``canvas_of`` paints the picture."""

    camera: Camera
    pose: Pose
    shape: Bumps  # how far each part of the face lies from where the picture has it, picture px
    key: tuple[int | str, ...]  # of the random stream that chooses the colours

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(68, 2) float64, frame px, dlib's order; true up to how well the picture's own are known."""
        points = self.pose.to_frame(points_before(self.shape, photo.LANDMARKS))
        return points[photo.MIRROR] if self.pose.mirrored else points

    @property
    def face_box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in frame px: the picture's HOG box moved and scaled, upright and square."""
        left, top, right, bottom = photo.FACE_BOX
        x, y = self.pose.to_frame(np.array([(left + right) / 2, (top + bottom) / 2]))
        return (float(x - self.side / 2), float(y - self.side / 2), float(x + self.side / 2), float(y + self.side / 2))

    @property
    def side(self) -> float:
        """Side of the face box in frame px: the length that a 224x224 face crop shows as 224."""
        return (photo.FACE_BOX[2] - photo.FACE_BOX[0]) * float(np.sqrt(self.pose.scale[0] * self.pose.scale[1]))

    @property
    def eye_distance(self) -> float:
        """Frame px between the centres of the eyes: the unit of length of every expression."""
        return float(np.linalg.norm(self.landmarks[36:42].mean(0) - self.landmarks[42:48].mean(0)))


@lru_cache(maxsize=64)
def identity(camera: Camera, seed: int, corpus: str, subject: int) -> Identity:
    """Person number ``subject`` of a made-up corpus.  The same arguments give the same person."""
    rng = stream(seed, corpus, subject, "identity")
    pose = _draw_pose(rng, camera, mirrored=bool((subject + seed) % 2))
    return Identity(camera, pose, _draw_shape(rng), (seed, corpus, subject, "colours"))


@lru_cache(maxsize=8)  # at most a few people are drawn at a time; a canvas takes some 4 to 10 MB
def canvas_of(who: Identity) -> np.ndarray:
    """What all frames of ``who`` are sampled from; uint8, (h, w, 3) BGR or (h, w) where the camera is grey.

    The frame's pixel (x, y) lies at ((x + MARGIN) * SUPERSAMPLE, (y + MARGIN) * SUPERSAMPLE).
    """
    rng = stream(*who.key)
    where = _picture_positions(who)
    image = _sample(_enlarged(), where, _ENLARGE).astype(np.float32)
    _recolour(rng, image, where)
    _relight(rng, image)
    _roughen(rng, image, where)
    curve = 255 * np.linspace(0, 1, 256) ** rng.uniform(0.85, 1.2)  # the camera's contrast
    canvas = cv2.LUT(cv2.convertScaleAbs(image), np.round(curve).astype(np.uint8))
    return cv2.cvtColor(canvas, cv2.COLOR_BGR2GRAY) if who.camera.grey else canvas


def _draw_pose(rng: np.random.Generator, camera: Camera, mirrored: bool) -> Pose:
    width, height = camera.size
    scale, narrow = rng.uniform(*camera.scale), rng.uniform(0.95, 1.05)
    centre = (width * rng.uniform(0.47, 0.53), height * rng.uniform(0.53, 0.58))
    return Pose(centre, (scale * narrow, scale / narrow), np.radians(rng.uniform(-3, 3)), mirrored)


def _draw_shape(rng: np.random.Generator) -> Bumps:
    """How far each part of the face lies from where the picture has it, in picture px."""
    bumps = []
    for right, left, (out, down), radius, limits in _SHAPES:
        draw = rng.uniform(*limits)
        for side, points in ((-1, right), (1, left)):
            if points:
                bumps.append((photo.LANDMARKS[list(points)].mean(0), (side * out * draw, down * draw), radius))
    for centre, (x, y) in _HAIR_PUSHES:
        draw = rng.uniform(-4, 5)
        bumps.append((centre, (x * draw, y * draw), 30))
    return Bumps(*(np.array(column, float) for column in zip(*bumps, strict=True)))


# --- painting --------------------------------------------------------------------------------------


def _picture_positions(who: Identity) -> np.ndarray:
    """For each canvas pixel the picture position that it shows; (h, w, 2) float32.

    The shape's field is summed once per picture pixel and interpolated, which is many times faster
    than summing it at every canvas pixel and exact to 0.01 px.
    """
    width, height = ((side + 2 * MARGIN) * SUPERSAMPLE for side in who.camera.size)
    corners = np.array([(0, 0), (1, 0), (0, 1)]) / SUPERSAMPLE - MARGIN
    origin, right, down = who.pose.to_picture(corners).astype(np.float32)
    x, y = np.arange(width, dtype=np.float32)[None, :, None], np.arange(height, dtype=np.float32)[:, None, None]
    rest = origin + x * (right - origin) + y * (down - origin)
    lattice = np.arange(512, dtype=np.float32)
    moved = who.shape.on_grid(lattice, lattice)
    where = rest - sampled(moved, rest)
    left, right = photo.WALL
    where[..., 0] = right - np.abs(right - (left + np.abs(where[..., 0] - left)))
    return where


@lru_cache(maxsize=1)
def _enlarged() -> np.ndarray:
    """The picture at _ENLARGE times its size; the blur removes what little Lanczos rings at edges."""
    big = cv2.resize(photo.photograph(), None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_LANCZOS4)
    return cv2.GaussianBlur(big, (0, 0), 0.3 * _ENLARGE)


def _sample(image: np.ndarray, where: np.ndarray, enlarged: int) -> np.ndarray:
    """``image``, ``enlarged`` times the picture's size, at picture positions; mirrored beyond its border."""
    centred = (where + 0.5) * enlarged - 0.5  # pixel centres of the picture on the grid of the enlarged one
    return sampled(image, centred.astype(np.float32), cv2.BORDER_REFLECT_101)


def _recolour(rng: np.random.Generator, image: np.ndarray, where: np.ndarray) -> None:
    """Skin, hair, clothes and wall get the colours of this person, in place."""
    skin_tone = np.array(_SKIN_TONES[rng.integers(len(_SKIN_TONES))]) * rng.uniform(0.94, 1.04, 3)
    hair_tone, colour_kept = _HAIR_TONES[rng.integers(len(_HAIR_TONES))]
    suit_tone = rng.uniform(0.4, 1.0) * rng.uniform(0.75, 1.1, 3)
    wall_tone = rng.uniform(0.7, 1.05) * rng.uniform(0.94, 1.04, 3)
    region = photo.regions()
    tones = ((region.skin, skin_tone), (region.hair, hair_tone), (region.suit, suit_tone), (region.wall, wall_tone))
    gain = region.clear[..., None] + sum(mask[..., None] * np.array(tone, np.float32) for mask, tone in tones)
    faded = _sample((1 - colour_kept) * region.hair, where, 1)[..., None]
    image += faded * (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] - image)
    image *= _sample(gain, where, 1)


def _relight(rng: np.random.Generator, image: np.ndarray) -> None:
    """A lamp from some side, in place: up to 15 % brighter or darker towards an edge of the frame."""
    height, width = image.shape[:2]
    across, down = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.05)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    gain = rng.uniform(0.85, 1.05) * (1 + across * x[None] + down * y[:, None])
    image *= gain[..., None].astype(np.float32)


def _roughen(rng: np.random.Generator, image: np.ndarray, where: np.ndarray) -> None:
    """Pores and fine lines, in place: the picture is enlarged threefold and lacks them.

    The texture moves with the face and gives optical flow something to hold on to, as skin does.
    """
    height, width = image.shape[:2]
    small = (width // SUPERSAMPLE, height // SUPERSAMPLE)
    fine = rng.standard_normal((small[1], small[0]), dtype=np.float32)
    # blurs of 1 and 3 frame px, each scaled back to unit variance (2 sqrt(pi) sigma)
    texture = weighted_sum((w * 3.545 * s, cv2.GaussianBlur(fine, (0, 0), s)) for w, s in ((0.8, 1.0), (0.6, 3.0)))
    texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC)
    strength = rng.uniform(0.015, 0.03)  # of the local brightness
    person = 1 - _sample(photo.regions().wall, where, 1)
    image *= (1 + strength * texture * person)[..., None]
