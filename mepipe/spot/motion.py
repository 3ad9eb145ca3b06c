"""What moves in a stretch of followed crops besides the head and the light, patch by patch.

The motion is that of the apex spotter ``residual`` (mepipe/apex/residual.py): of each crop's difference to the mean of
the block, what head motion and light explain is projected out, and the products with the gradient are summed in windows
of 12 px and whitened, so that noise has the same variance in every patch and direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mepipe.apex.residual import STEP, WINDOW, mask, patch_motion, rigid_terms
from mepipe.faces.align import mean_face
from mepipe.spot.tracking import HALF, eye_masks

CHUNK = 128  # crops worked on at once: 6 MB of float32 for each intermediate
SEEN = 0.3  # share of a patch's window that must lie on the face
PARTS = {  # landmarks around each part of the face, in dlib's order
    "brows": range(17, 27), "nose": range(27, 36), "mouth": range(48, 68), "cheeks": (2, 3, 13, 14), "chin": (7, 8, 9),
}  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """A block's signals. patches (T, P, 2): whitened motion.  eyes (T, 2): how unlike the block's mean each eye is, in
    units of the eye's own contrast.  poses (T, 6): as ``Tracked``.
    """

    patches: np.ndarray
    eyes: np.ndarray
    poses: np.ndarray


def block_motion(crops: np.ndarray, poses: np.ndarray) -> Motion:
    """The signals of crops (T, 112, 112) float32 of one stretch, T >= 2."""
    root = np.sqrt(mask())
    reference = crops.mean(0, dtype=np.float32)
    basis, _ = np.linalg.qr(rigid_terms(reference) * root.reshape(-1, 1))
    patches, eyes = [], []
    for first in range(0, len(crops), CHUNK):
        difference = crops[first : first + CHUNK].astype(np.float32) - reference
        eyes.append(np.stack([_unlike(difference, reference, eye) for eye in eye_masks()], -1))
        flat = (difference * root).reshape(len(difference), -1)
        left = (flat - (flat @ basis) @ basis.T).reshape(difference.shape)
        patches.append(patch_motion(left, reference).reshape(len(left), -1, 2)[:, seen()])
    return Motion(np.concatenate(patches), np.concatenate(eyes), poses)


def _unlike(difference: np.ndarray, reference: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """(T,): mean absolute difference inside ``eye`` over the eye's own contrast in the reference."""
    return np.abs(difference[:, eye]).mean(1) / max(float(reference[eye].std()), 1.0)


@lru_cache(maxsize=1)
def centres() -> np.ndarray:
    """(P, 2): x, y of the patches that are looked at, in px of the 224 x 224 crop."""
    along = np.arange(WINDOW / STEP / 2, HALF, WINDOW / STEP)
    x, y = np.meshgrid(along, along)
    return STEP * np.stack([x, y], -1).reshape(-1, 2)[seen()]


@lru_cache(maxsize=1)
def seen() -> np.ndarray:
    """(all patches,) bool: those whose window lies mostly on the face without the eyes."""
    along = np.arange(WINDOW / STEP / 2, HALF, WINDOW / STEP)
    window = np.exp(-0.5 * ((along[:, None] - np.arange(HALF)) / (WINDOW / STEP)) ** 2)
    share = (window @ mask() @ window.T) / np.outer(window.sum(1), window.sum(1))
    return (share > SEEN).ravel()


@lru_cache(maxsize=1)
def near_eyes() -> np.ndarray:
    """(P,) bool: the patches that a blink reaches: those closest to an eye, above it up to the brow."""
    eyes = np.stack([mean_face()[a : a + 6].mean(0) for a in (36, 42)])
    return np.linalg.norm(centres()[:, None] - eyes, axis=-1).min(1) < 36  # px: two fifths of the eyes' distance


def part_of(energy: np.ndarray) -> str:
    """The part of the face with the most of ``energy`` (P,)."""
    strongest = centres()[energy >= 0.5 * energy.max()].mean(0) if energy.max() > 0 else centres().mean(0)
    points = mean_face()
    away = {n: float(np.linalg.norm(points[list(p)] - strongest, axis=1).min()) for n, p in PARTS.items()}
    return min(away, key=lambda n: away[n])
