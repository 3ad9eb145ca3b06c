"""How a made-up face moves: action units as displacement fields, their time course, the drift of the head.

Fields are anchored at the person's own landmarks and measured in that person's eye distance, so an
expression looks alike on every face and camera.  They imitate where facial muscles pull (FACS, Ekman and
Friesen 1978) and not how skin folds: no wrinkles appear, no teeth show that were hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mepipe.synth.fields import Bumps, lattice
from mepipe.synth.identity import Identity

AMPLITUDE = (0.3, 2.0)  # peak motion in px of a 224x224 face crop: from TV-L1's noise up to a plain ME
DRIFT = (0.1, 0.8)  # most that the head's centre moves within a clip, in frame px
TURN = np.radians(0.15)  # most that the head rolls within a clip: 0.3 px at the jaw
ONE_SIDED = 0.12  # share of unilateral expressions among the mouth's; real corpora code them L or R


class Pull(NamedTuple):
    """One push of a unit: at the mean of ``points`` (image left, the subject's right side) and mirrored.

    out, down: direction, away from the face's midline and down.  radius: one sigma, in eye distances.
    ``other`` holds the mirrored points; empty for a push on the midline.
    """

    points: tuple[int, ...]
    other: tuple[int, ...]
    out: float
    down: float
    radius: float


UNITS: dict[str, tuple[Pull, ...]] = {
    "1": (Pull((20, 21), (22, 23), 0, -1, 0.22),),  # inner brow raiser
    "2": (Pull((17, 18, 19), (24, 25, 26), 0.1, -1, 0.25),),  # outer brow raiser
    "4": (Pull((20, 21), (22, 23), -0.6, 0.8, 0.22),),  # brow lowerer
    "5": (Pull((37, 38), (43, 44), 0, -0.6, 0.09),),  # upper lid raiser
    "6": (Pull((41, 48, 2), (46, 54, 14), 0, -0.7, 0.28),),  # cheek raiser
    "7": (Pull((40, 41), (46, 47), 0, -0.4, 0.10),),  # lid tightener
    "9": (Pull((31, 39), (35, 42), -0.1, -0.8, 0.18), Pull((21,), (22,), -0.2, 0.3, 0.15)),  # nose wrinkler
    "10": (Pull((49, 50), (52, 53), 0, -0.8, 0.17),),  # upper lip raiser
    "12": (Pull((48,), (54,), 0.75, -0.75, 0.25), Pull((2, 48), (14, 54), 0.2, -0.4, 0.30)),  # lip corner puller
    "14": (Pull((48,), (54,), 0.9, 0, 0.18),),  # dimpler
    "15": (Pull((48,), (54,), 0.1, 1, 0.20),),  # lip corner depressor
    "17": (Pull((8, 57), (), 0, -0.9, 0.28),),  # chin raiser
    "20": (Pull((48, 59), (54, 55), 1, 0.2, 0.25),),  # lip stretcher
    "24": (Pull((51,), (), 0, 0.5, 0.18), Pull((57,), (), 0, -0.5, 0.18)),  # lip pressor
    "25": (Pull((57,), (), 0, 0.6, 0.18),),  # lips part
    "26": (Pull((8, 57), (), 0, 1, 0.35),),  # jaw drop
}
NEUTRAL = "neutral"  # a face that shows nothing
_MOUTH = frozenset({"10", "12", "14", "15", "20"})  # what people do with one side of the face

# Which units make which expression: each clip draws one line. The first unit leads, the rest follow weaker.
EXPRESSIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "happiness": (("12",), ("12", "6"), ("12", "25")),
    "surprise": (("1", "2"), ("1", "2", "5"), ("1", "2", "25"), ("1", "2", "26")),
    "disgust": (("9", "4"), ("10", "4"), ("9", "10"), ("4", "7", "9")),
    "repression": (("14",), ("15",), ("15", "17"), ("14", "17")),
    "anger": (("4", "7"), ("4", "24")),
    "contempt": (("14",),),
    "fear": (("1", "4", "5"), ("20", "1", "4")),
    "sadness": (("1", "4"), ("15", "1"), ("15", "17")),
    "others": (("4",), ("24",), ("7", "24")),
}


@dataclass(frozen=True)
class Expression:
    """What one clip shows: the field at the apex, and the units as an annotator would write them."""

    bumps: Bumps  # forward motion at the apex, frame px
    amplitude: float  # longest displacement of it anywhere in the frame, frame px
    units: str  # "6+12", "R14"


def draw_expression(
    rng: np.random.Generator, name: str, who: Identity, strength: tuple[float, float] = AMPLITUDE
) -> Expression:
    """One clip's expression ``name`` on the face of ``who``: units, strength, asymmetry, place all vary.

    strength: bounds of its peak motion, px of a 224x224 face crop.
    """
    if name == NEUTRAL:
        return Expression(Bumps(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)), 0.0, "")
    units = EXPRESSIONS[name][rng.integers(len(EXPRESSIONS[name]))]
    side = _one_sided(rng, name, units)
    bumps = _place(rng, units, side, who)
    field = bumps.on_grid(*lattice(who.camera.size))
    amplitude = rng.uniform(*strength) * who.side / 224
    bumps = bumps._replace(vectors=bumps.vectors * (amplitude / np.sqrt((field**2).sum(-1).max())))
    return Expression(bumps, float(amplitude), "+".join(_spelled(unit, side) for unit in sorted(units, key=int)))


def _one_sided(rng: np.random.Generator, name: str, units: tuple[str, ...]) -> str:
    """``"L"`` or ``"R"`` (the subject's own left or right) for a unilateral expression, else ``""``."""
    lot, side = rng.random(), "LR"[rng.integers(2)]
    if name == "contempt" or (lot < ONE_SIDED and units[0] in _MOUTH):
        return side
    return ""


def _spelled(unit: str, side: str) -> str:
    return f"{side}{unit}" if unit in _MOUTH else unit


def _place(rng: np.random.Generator, units: tuple[str, ...], side: str, who: Identity) -> Bumps:
    """The pushes of ``units`` on this face, not yet scaled."""
    across = who.landmarks[42:48].mean(0) - who.landmarks[36:42].mean(0)
    right = across / np.linalg.norm(across)  # image right along the tilted face
    down = np.array([-right[1], right[0]])
    lean = rng.uniform(-0.3, 0.3)  # one side of a face moves more than the other
    bumps = []
    for rank, unit in enumerate(units):
        strength = rng.uniform(0.8, 1.0) if rank == 0 else rng.uniform(0.4, 0.9)
        for pull in UNITS[unit]:
            radius = pull.radius * who.eye_distance * rng.uniform(0.85, 1.2)
            for sign, points in ((-1, pull.points), (1, pull.other)):
                if not points:
                    continue
                weight = strength * (1 + sign * lean if pull.other else 1)
                if side and unit in _MOUTH and side != ("R" if sign < 0 else "L"):
                    weight *= 0.1
                centre = who.landmarks[list(points)].mean(0) + rng.normal(0, 0.03, 2) * who.eye_distance
                bumps.append((centre, weight * (sign * pull.out * right + pull.down * down), radius))
    return Bumps(*(np.array(column, float) for column in zip(*bumps, strict=True)))


@dataclass(frozen=True)
class TimeCourse:
    """How much of an expression shows at a frame: 0 up to the onset, 1 at the apex, ``rest`` at the offset.

    It rises strictly from onset to apex and falls strictly to the offset.  Half of it is a cosine ramp
    and half a straight one, so that the apex is a definite frame and not the middle of a plateau.
    """

    onset: int
    apex: int
    offset: int
    haste: float  # exponent on the time of the rise
    rest: float  # what is left at the offset

    def __call__(self, number: int) -> float:
        if number <= self.apex:
            return _ramp(max(number - self.onset, 0) / (self.apex - self.onset)) ** self.haste
        fallen = _ramp(min(number - self.apex, self.offset - self.apex) / (self.offset - self.apex))
        return 1 - (1 - self.rest) * fallen


def _ramp(t: float) -> float:
    return 0.5 * t + 0.25 * (1 - np.cos(np.pi * t))


def draw_time_course(rng: np.random.Generator, onset: int, apex: int, offset: int) -> TimeCourse:
    return TimeCourse(onset, apex, offset, rng.uniform(0.8, 1.3), rng.uniform(0.2, 0.6))


@dataclass(frozen=True)
class Drift:
    """The slow motion of the whole head: x and y in frame px, roll in radians, all 0 at the onset."""

    onset: int
    length: int
    reach: np.ndarray  # (3,) x, y, roll
    bends: np.ndarray  # (3,) cycles per clip
    phases: np.ndarray  # (3,)

    def __call__(self, number: int) -> np.ndarray:
        t = (number - self.onset) / self.length
        wave = np.sin(2 * np.pi * self.bends * t + self.phases) - np.sin(self.phases)
        return 0.5 * self.reach * wave


def draw_drift(rng: np.random.Generator, onset: int, offset: int) -> Drift:
    heading, far = rng.uniform(0, 2 * np.pi), rng.uniform(*DRIFT)
    reach = np.array([far * np.cos(heading), far * np.sin(heading), rng.uniform(-TURN, TURN)])
    return Drift(onset, offset - onset, reach, rng.uniform(0.2, 0.7, 3), rng.uniform(0, 2 * np.pi, 3))
