"""From a block's signals to candidate intervals, each with a verdict: micro, or why it is none.

1. Every signal is compared with itself a little earlier and later (``bump``): what stays or drifts cancels, what rises
   and falls back within the longest duration remains.
2. Blinks: eyes that shut stand out far above what an expression does to them.  The pull of the lid on the skin around
   is one spatial pattern, learnt from those very frames; it is projected out around each blink.
3. Head: what patches do along with the head's pose in this block, the parallax of a turn above all, is taken out by
   ridge regression.  Motion of the head that the registration followed never gets this far.
4. A patch's energy is counted in units of its own noise: its lower quartile in the block.
5. At a peak of the strongest patches' energy, their pattern is the template; its time course around the peak gives
   onset, apex and offset: where it leaves and regains its level.
6. Verdicts: micro; too long, too short; step (it does not come back); blink, head (no more than their rest).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mepipe.spot.config import SpotConfig
from mepipe.spot.motion import Motion, part_of

BLUR_S = 0.03  # s, sigma: shorter than the rise of the shortest micro-expression
LAG = 0.6  # of the longest duration: one of that length, rising and falling, is back at rest this far from its apex
RIDGE = 10.0  # px^2 frames: a pose that moves less than that in a block is no reason for anything
SHUT = 0.12  # of the eye's own contrast: an eye that moves with an expression stays below 0.05, a blink is 0.5
BLINK_PAD = 0.1  # s around the frames with shut eyes in which the lid still moves
BLINK_REST = 0.03  # of a blink's energy may be left of it
HEAD_REST = 0.1  # of the energy that went along with the head
QUARTILE = 0.5754  # lower quartile of a squared radius of two normal numbers of variance 1
STRONGEST = 0.2  # share of the patches that make the score: an expression moves a fifth of a face
EDGE = 0.15  # of the course's height, where onset and offset are set: below lies noise
LEVEL, LEVEL_STEP = 0.05, 0.15  # a course that falls by less than 5 % of its height in 0.15 lags has gone level
RETURN = 0.4  # least rise over fall, or fall over rise: below it is a step
SLACK = 1.1  # on the longest duration: onset and offset are known to a few frames


@dataclass(frozen=True)
class Candidate:
    """Frames counted from the block's first. score: energy over noise.  verdict: micro, or why it is none."""

    onset: int
    apex: int
    offset: int
    score: float
    verdict: str
    part: str


@dataclass(frozen=True)
class Signals:
    """A block, cleaned. patches, bumps (T, P, 2): smoothed motion without blinks and head, and its bumps.

    score, with_head, with_blinks (T,): energy over noise without either, with the head's, with both.
    shut (T,): how far the eyes are shut, in their contrast; blink (T,) bool: in or near a blink.
    """

    patches: np.ndarray
    bumps: np.ndarray
    score: np.ndarray
    with_head: np.ndarray
    with_blinks: np.ndarray
    shut: np.ndarray
    blink: np.ndarray


def clean(motion: Motion, fps: float, config: SpotConfig) -> Signals:
    """The signals of a block without what blinks and the head do to the skin."""
    lag = lag_of(fps, config)
    raw = smoothed(motion.patches, BLUR_S * fps)
    shut = np.maximum(motion.eyes - np.median(motion.eyes, 0), 0).min(1)  # both eyes: a wink is an expression
    blink = widened(shut > SHUT, round(BLINK_PAD * fps))
    still = without_blinks(raw, blink, shut > SHUT)
    patches = without_head(still, smoothed(motion.poses, BLUR_S * fps), lag)
    bumps = bump(patches, lag)
    noise = np.maximum(np.percentile((bumps**2).sum(-1), 25, axis=0) / QUARTILE, 1e-9)
    with_head, with_blinks = (strength(bump(signal, lag), noise) for signal in (still, raw))
    return Signals(patches, bumps, strength(bumps, noise), with_head, with_blinks, shut, blink)


def lag_of(fps: float, config: SpotConfig) -> int:
    return max(round(LAG * config.max_duration * fps), 2)


def smoothed(signal: np.ndarray, sigma: float) -> np.ndarray:
    """``signal`` (T, ...) under a Gaussian of ``sigma`` frames along time, ends repeated."""
    import cv2

    flat = np.ascontiguousarray(signal.reshape(len(signal), -1), np.float32)
    size = 2 * max(int(np.ceil(3 * sigma)), 1) + 1
    out = cv2.GaussianBlur(flat, (1, size), sigmaX=1e-3, sigmaY=max(sigma, 1e-3), borderType=cv2.BORDER_REPLICATE)
    return out.reshape(signal.shape)


def bump(signal: np.ndarray, lag: int) -> np.ndarray:
    """signal[t] less the mean of signal[t - lag] and signal[t + lag]; ends repeated."""
    padded = np.concatenate([np.repeat(signal[:1], lag, 0), signal, np.repeat(signal[-1:], lag, 0)])
    return signal - 0.5 * (padded[: len(signal)] + padded[2 * lag :])


def widened(mask: np.ndarray, by: int) -> np.ndarray:
    """``mask`` (T,) bool, true also up to ``by`` frames from a true one."""
    return np.convolve(mask, np.ones(2 * by + 1), "same") > 0


def spans(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of true in ``mask`` (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def without_blinks(patches: np.ndarray, blink: np.ndarray, shut: np.ndarray) -> np.ndarray:
    """``patches`` (T, P, 2) with each blink's spatial pattern projected out, from all frames.

    blink, shut (T,) bool: in or near a blink; eyes shut.  The pattern is what shut eyes add to the straight line from
    before the blink to after it, so that a head that moves meanwhile is no part of it.  Taking it out of some frames
    only would leave steps.
    """
    out = patches.reshape(len(patches), -1).copy()
    rest = np.median(out[~blink] if (~blink).any() else out, 0)
    for first, last in spans(blink):
        along = np.linspace(0, 1, last - first + 1, dtype=out.dtype)[:, None]
        added = out[first : last + 1] - (1 - along) * out[first] - along * out[last]
        _, _, patterns = np.linalg.svd(added[shut[first : last + 1]], full_matrices=False)
        out -= np.outer((out - rest) @ patterns[0], patterns[0])
    return out.reshape(patches.shape)


def without_head(patches: np.ndarray, poses: np.ndarray, lag: int) -> np.ndarray:
    """``patches`` (T, P, 2) less what follows ``poses`` (T, 6), judged by their bumps."""
    x, y = bump(poses, lag), bump(patches, lag).reshape(len(patches), -1)
    beta = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return patches - ((poses - poses.mean(0)) @ beta).reshape(patches.shape)


def strength(bumps: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """(T,): mean energy of the strongest patches, in units of their ``noise`` (P,)."""
    energy = (bumps**2).sum(-1) / noise
    count = max(round(STRONGEST * energy.shape[1]), 1)
    return np.partition(energy, energy.shape[1] - count, axis=1)[:, -count:].mean(1)


# --- intervals ---------------------------------------------------------------------------------------


def candidates(signals: Signals, fps: float, config: SpotConfig) -> list[Candidate]:
    """Peaks of the score above the threshold, the highest first, none within reach of a higher one."""
    lag = lag_of(fps, config)
    free = signals.score.copy()
    found: list[Candidate] = []
    while len(free) and (top := int(np.argmax(free))) and free[top] > config.threshold:
        one = interval(signals, top, fps, config)
        # the flanks of what was found, where its own echo is weak enough to stand out: no event
        echo = one.verdict == "step" and any(m.verdict == "micro" and abs(m.apex - one.apex) <= 2 * lag for m in found)
        found += [] if echo else [one]
        reach = round(1.3 * lag)  # the bump of an expression repeats upside down a lag before and after
        free[max(top - reach, 0) : top + reach + 1] = 0
    return found


def interval(signals: Signals, peak: int, fps: float, config: SpotConfig) -> Candidate:
    """Onset, apex and offset of what peaks at ``peak``, and the verdict."""
    pattern = signals.bumps[peak]
    reach = round(1.6 * config.max_duration * fps)
    first = max(peak - reach, 0)
    course = np.tensordot(signals.patches[first : peak + reach + 1], pattern, 2) / np.linalg.norm(pattern)
    onset, apex, offset, rise, fall = shape(course, peak - first, lag_of(fps, config))
    energy = (pattern**2).sum(-1)
    verdict = _verdict(signals, peak, (offset - onset) / fps, rise, fall, config)
    return Candidate(first + onset, first + apex, first + offset, float(signals.score[peak]), verdict, part_of(energy))


def shape(course: np.ndarray, peak: int, lag: int) -> tuple[int, int, int, float, float]:
    """(onset, apex, offset, rise, fall) of the hill of ``course`` (N,) at ``peak``.

    The level on either side is the lowest within two lags; from the apex down, onset and offset are where the course
    has EDGE of its height above that level left, or, below half of it, goes level.
    """
    near = slice(max(peak - lag // 2, 0), peak + lag // 2 + 1)
    apex = near.start + int(np.argmax(course[near]))
    before, rise = _foot(course[max(apex - 2 * lag, 0) : apex + 1][::-1], lag)
    after, fall = _foot(course[apex : apex + 2 * lag + 1], lag)
    return apex - before, apex, apex + after, rise, fall


def _foot(slope: np.ndarray, lag: int) -> tuple[int, float]:
    """Of ``slope`` (N,), the top first: how many frames down its foot is, and how far down its lowest point."""
    height = float(slope[0] - slope.min())
    down = (slope[0] - slope) / max(height, 1e-9)
    step = max(round(LEVEL_STEP * lag), 1)
    ahead = np.array([down[i : i + step + 1].max() for i in range(len(down))])
    there = (down >= 1 - EDGE) | ((down > 0.5) & (ahead - down < LEVEL))
    return int(np.argmax(there)), height


def _verdict(s: Signals, peak: int, seconds: float, rise: float, fall: float, config: SpotConfig) -> str:
    if s.blink[peak] and s.score[peak] < BLINK_REST * s.with_blinks[peak]:
        return "blink"
    if s.score[peak] < HEAD_REST * s.with_head[peak]:
        return "head"
    if min(rise, fall) < RETURN * max(rise, fall):
        return "step"
    if seconds < config.min_duration:
        return "too short"
    return "too long" if seconds > SLACK * config.max_duration else "micro"
