"""Made-up aligned clips of a chosen amplitude, to measure spotters on: the crop is drawn directly.

    trial(seed=3, amplitude=1.5).crops            (N, 224, 224) uint8 and .apex, its true index

People, expressions, time courses and drift are those of ``mepipe.synth``; what differs from its corpora
is that the peak motion is exact and that light and noise can be as bad as they are in real clips:
flicker 1 % (corpora: 0.2 %), and the apex where real annotations have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mepipe.faces.align import SIZE, crop, matrix_from_landmarks, scale_of
from mepipe.synth.fields import sampled
from mepipe.synth.identity import MARGIN, SUPERSAMPLE, Camera, Identity, canvas_of, identity
from mepipe.synth.motion import EXPRESSIONS, Expression, draw_expression, draw_time_course
from mepipe.synth.seeds import stream

CAMERA = Camera(size=(640, 480), scale=(2.6, 3.0), grey=True)  # CASME II's face size
LENGTHS = (24, 100)  # frames after the onset: the range of nine in ten CASME II and SAMM clips
POSITIONS = (0.2, 0.8)  # apex between onset (0) and offset (1): same mean and spread as 413 annotated clips (0.17)
DRIFT = 0.8  # px of the crop, most that the head moves within a clip
ROLL = np.radians(0.15)
FLICKER = 0.01  # sigma of the light's strength: fluorescent lamps under a 200 fps camera
NOISE = 2.0  # sigma, grey levels
QUALITY = 92  # of the JPEG that every frame goes through, as real frames do
STEP = 4  # crop px between points where motion is computed
PEOPLE = 24  # distinct identities; painting one takes 0.3 s, the rest of a clip as long


@dataclass(frozen=True)
class Trial:
    """crops (N, 224, 224) uint8, crop 0 the onset, N-1 the offset; apex: true index; course (N,): 0 to 1."""

    crops: np.ndarray
    apex: int
    course: np.ndarray


Course = Callable[[np.random.Generator, int, int], np.ndarray]  # (rng, frames, apex) -> strength per frame


def ramps(rng: np.random.Generator, frames: int, apex: int) -> np.ndarray:
    """The time course of ``mepipe.synth``: (frames,) rising to 1 at ``apex``, falling to 0.2..0.6."""
    course = draw_time_course(rng, 0, apex, frames - 1)
    return np.array([course(i) for i in range(frames)])


def trial(
    seed: int,
    amplitude: float,
    *,
    lengths: tuple[int, int] = LENGTHS,
    drift: float = DRIFT,
    flicker: float = FLICKER,
    noise: float = NOISE,
    course: Course = ramps,
) -> Trial:
    """One clip. amplitude: peak motion of the expression in crop px, without the head's.

    lengths: bounds of the frames after the onset.  drift: crop px.  flicker: sigma, share of the light.
    noise: sigma, grey levels, before JPEG.  The same arguments give the same pixels.
    """
    rng = stream(seed, "apex-trial")
    who = identity(CAMERA, 0, "apex-trial", seed % PEOPLE)
    last = int(rng.integers(lengths[0], lengths[1] + 1))
    apex = min(max(round(float(rng.uniform(*POSITIONS)) * last), 1), last)
    expression = draw_expression(rng, list(EXPRESSIONS)[rng.integers(len(EXPRESSIONS))], who)
    strength = course(rng, last + 1, apex)
    face, field = _drawing(who, expression, amplitude)
    heads = _head_motion(rng, last + 1, drift)
    fields = strength[:, None, None, None].astype(np.float32) * field + heads
    crops = [_frame(rng, face, f, flicker, noise) for f in fields]
    return Trial(np.stack(crops), apex, strength)


def _drawing(who: Identity, expression: Expression, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
    """The still face, twice the crop's resolution, and its backward field at the apex on the lattice."""
    matrix = matrix_from_landmarks(who.landmarks)
    x = np.mgrid[0:SIZE:STEP, 0:SIZE:STEP][::-1].reshape(2, -1).T + (STEP - 1) / 2
    source = (x - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    moved = expression.bumps.at(source) @ matrix[:, :2].T
    longest = expression.amplitude * scale_of(matrix)
    side = SIZE // STEP
    return _still(who), (-amplitude / longest * moved).reshape(side, side, 2).astype(np.float32)


@lru_cache(maxsize=PEOPLE)
def _still(who: Identity) -> np.ndarray:
    """The motionless face at SUPERSAMPLE times the crop's resolution, with a border of MARGIN crop px."""
    linear, shift = np.hsplit(matrix_from_landmarks(who.landmarks), [2])
    canvas_to_frame = np.full((2, 1), -float(MARGIN))
    # crop = linear (canvas / SUPERSAMPLE - MARGIN) + shift; the picture holds (crop + MARGIN) * SUPERSAMPLE
    large = np.hstack([linear, SUPERSAMPLE * (linear @ canvas_to_frame + shift + MARGIN)])
    return crop(canvas_of(who), large, SUPERSAMPLE * (SIZE + 2 * MARGIN))


def _head_motion(rng: np.random.Generator, frames: int, drift: float) -> np.ndarray:
    """Backward field of the head's slow sway, (frames, side, side, 2) px, zero in frame 0."""
    t = np.linspace(0, 1, frames)[:, None]
    wave = np.sin(2 * np.pi * rng.uniform(0.2, 0.7, 3) * t + rng.uniform(0, 2 * np.pi, 3))
    heading = rng.uniform(0, 2 * np.pi)
    reach = np.array([drift * np.cos(heading), drift * np.sin(heading), rng.uniform(-ROLL, ROLL)])
    x, y, roll = (0.5 * reach * (wave - wave[0])).T[:, :, None, None]
    away = np.mgrid[0:SIZE:STEP, 0:SIZE:STEP] + (STEP - 1) / 2 - SIZE / 2
    head = np.clip(2.2 - np.hypot(*away) / (0.42 * SIZE), 0, 1)  # fades out behind the ears
    return np.stack([-head * (x - roll * away[0]), -head * (y + roll * away[1])], -1).astype(np.float32)


def _frame(rng: np.random.Generator, face: np.ndarray, field: np.ndarray, flicker: float, noise: float) -> np.ndarray:
    at = cv2.resize(field, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    clean = sampled(face, _grid() + SUPERSAMPLE * at, cv2.BORDER_CONSTANT).astype(np.float32)
    noisy = clean * (1 + flicker * rng.standard_normal()) + noise * rng.standard_normal(clean.shape, dtype=np.float32)
    grey = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    shown = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert shown is not None, "OpenCV reads what it has just written"
    return shown


@lru_cache(maxsize=1)
def _grid() -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return (np.stack([x, y], -1) + MARGIN) * SUPERSAMPLE
