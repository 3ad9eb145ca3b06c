"""One made-up clip: its frames, drawn one by one, and the true motion between them.

A frame is one bilinear look-up of the person's canvas at positions that hold the expression and the
head's drift, then flicker of the light and sensor noise.  The truth is the same positions, inverted.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import cv2
import numpy as np

from mepipe.synth.corpora.base import ClipPlan
from mepipe.synth.fields import forward_of, grid, lattice, sampled, weighted_sum
from mepipe.synth.identity import MARGIN, SUPERSAMPLE, Camera, Identity, canvas_of, identity
from mepipe.synth.motion import AMPLITUDE, draw_drift, draw_expression, draw_time_course
from mepipe.synth.seeds import stream

_NOISE_UNIT = 20.0  # how the noise bank stores one sigma: 8 bits then reach to 6 sigma
_NOISE_SLACK = (61, 67)  # rows and columns of noise beyond a frame: 4087 different cut-outs
FLICKER = 0.002  # sigma of the light's strength from frame to frame: 0.4 grey levels on skin, below the noise


class SyntheticClip:
    """A clip of a made-up corpus with everything that is true about it.

    Attributes: ``plan`` (names, labels, where its files lie), ``onset``, ``apex``, ``offset`` (frame
    numbers as annotated), ``numbers`` (all frames on disk), ``emotion`` (the corpus's word), ``label3``,
    ``amplitude`` (peak motion of the expression without the head's drift, frame px) and ``amplitude_224``
    (the same at face scale), ``units`` (action units, ``"6+12"``), ``landmarks`` ((68, 2) float64, frame
    px in the onset frame, dlib's order), ``face_box`` (left, top, right, bottom in frame px).
    """

    def __init__(self, plan: ClipPlan, camera: Camera) -> None:
        self.plan = plan
        self.onset, self.apex, self.offset = plan.onset, plan.apex, plan.offset
        self.numbers = range(plan.first, plan.last + 1)
        self.emotion, self.label3 = plan.emotion, plan.label3
        self._camera = camera
        self._key = (plan.seed, plan.corpus, plan.subject_index, plan.clip_index)
        rng = stream(*self._key, "motion")
        self._expression = draw_expression(rng, plan.expression, self._who, plan.amplitude or AMPLITUDE)
        self._course = draw_time_course(rng, plan.onset, plan.apex, plan.offset)
        self._drift = draw_drift(rng, plan.onset, plan.offset)
        self._noise = rng.uniform(*camera.noise)

    @property
    def _who(self) -> Identity:
        return identity(self._camera, *self._key[:3])

    @property
    def landmarks(self) -> np.ndarray:
        return self._who.landmarks.copy()

    @property
    def face_box(self) -> tuple[float, float, float, float]:
        return self._who.face_box

    @property
    def amplitude(self) -> float:
        return self._expression.amplitude

    @property
    def amplitude_224(self) -> float:
        """The amplitude in px of a 224x224 crop of the face box, whatever the camera."""
        return self.amplitude * 224 / self._who.side

    @property
    def units(self) -> str:
        return self._expression.units

    def strength(self, number: int) -> float:
        """How much of the expression shows in frame ``number``: 0 at the onset, 1 at the apex."""
        return self._course(number)

    def frame(self, number: int) -> np.ndarray:
        """Frame ``number`` before compression, (H, W, 3) uint8 BGR; a grey camera gives three equal channels."""
        image = self.sensor(number)
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image

    def sensor(self, number: int) -> np.ndarray:
        """Frame ``number`` as the camera stores it: uint8, (H, W, 3) BGR, or (H, W) from a grey camera."""
        positions = cv2.scaleAdd(self._backward(number), SUPERSAMPLE, canvas_grid(self._camera.size))
        clean = sampled(canvas_of(self._who), positions)
        rng = stream(*self._key, "frame", number)
        light = 1 + FLICKER * rng.standard_normal()
        sigma = self._noise / _NOISE_UNIT
        noise = cut(noise_bank(clean.shape), clean.shape, rng)
        return cv2.addWeighted(clean, light, noise, sigma, -128 * sigma)

    def displacement(self, number: int) -> np.ndarray:
        """True motion of every pixel from the onset frame to frame ``number``; (H, W, 2) float32, px.

        On the onset frame's grid, u positive right, v positive down: ``frame(onset)`` at x shows what
        ``frame(number)`` shows at x + displacement.  Drift of the head included.
        """
        return forward_of(self._backward(number))

    def _backward(self, number: int) -> np.ndarray:
        """Where each pixel of frame ``number`` looks, as an offset from itself; (H, W, 2) float32 px."""
        weights = (self._course(number), *self._drift(number))
        coarse = weighted_sum(zip(weights, self._fields, strict=True))
        return cv2.resize(coarse, self._camera.size, interpolation=cv2.INTER_LINEAR)

    @cached_property
    def _fields(self) -> tuple[np.ndarray, ...]:
        """Backward fields on the lattice: the full expression, the head 1 px right, 1 px down, 1 rad of roll."""
        x, y = lattice(self._camera.size)
        return (-self._expression.bumps.on_grid(x, y), *drift_fields(self._who))


@lru_cache(maxsize=4)
def drift_fields(who: Identity) -> tuple[np.ndarray, ...]:
    x, y = lattice(who.camera.size)
    away = np.stack(np.meshgrid(x, y), -1) - who.landmarks[27:36].mean(0).astype(np.float32)
    head = _head(away, who.side)
    still = np.zeros_like(head)
    turn = np.stack([head * away[..., 1], -head * away[..., 0]], -1)  # backward of (-y, x)
    return np.stack([-head, still], -1), np.stack([still, -head], -1), turn


def _head(away: np.ndarray, side: float) -> np.ndarray:
    """1 on the head, falling smoothly to 0 on the wall behind it; (H, W) float32, from offsets to the nose.

    The head reaches about 1 face-box side up and down from a point above the nose, 0.85 to either side.
    """
    far = np.hypot(away[..., 0] / (0.85 * side), (away[..., 1] + 0.15 * side) / side)
    t = np.clip((far - 0.8) / 0.7, 0, 1)
    return (1 - t * t * (3 - 2 * t)).astype(np.float32)


@lru_cache(maxsize=4)
def canvas_grid(size: tuple[int, int]) -> np.ndarray:
    """The canvas position of every frame pixel of a motionless frame, (H, W, 2) float32."""
    return (grid(*size) + MARGIN) * SUPERSAMPLE


@lru_cache(maxsize=4)
def noise_bank(shape: tuple[int, ...]) -> np.ndarray:
    """Sensor noise, uint8 around 128, one sigma = _NOISE_UNIT; larger than a frame by _NOISE_SLACK.

    Frames take cut-outs of it: drawing a million normal numbers per frame would cost more than all else.
    """
    rows, columns = shape[0] + _NOISE_SLACK[0], shape[1] + _NOISE_SLACK[1]
    normal = stream("noise").standard_normal((rows, columns, *shape[2:]), dtype=np.float32)
    return np.clip(np.round(128 + _NOISE_UNIT * normal), 0, 255).astype(np.uint8)


def cut(bank: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(_NOISE_SLACK[0] + 1), rng.integers(_NOISE_SLACK[1] + 1)
    return bank[top : top + shape[0], left : left + shape[1]]
