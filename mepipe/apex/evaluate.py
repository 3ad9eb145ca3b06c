"""How far each spotter is from the annotated apexes of a corpus on disk.

Every clip whose apex is annotated and usable is aligned as ``prepare`` aligns it, from onset to offset,
and each method is asked for its apex without being told.  Clips left out are listed with the reason.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mepipe.apex import SPOTTERS, spot
from mepipe.clipwork import Context, Tools, align_clip, grey, needed_frames, settle_frames
from mepipe.datasets.base import Clip, Corpus
from mepipe.errors import DataError, UsageError
from mepipe.executors import WorkerDied, process_map
from mepipe.frames import FrameFolder
from mepipe.limits import TABLE_BYTES, read_file
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig, cores

WITHIN = (1, 2, 5)  # frames
BASELINE = "midpoint"


T = TypeVar("T")


@dataclass(frozen=True)
class Spotted:
    """One clip as the spotters saw it. errors: frames too early (-) or too late (+), by method.

    kind: '' for a clip that counts, else why it does not, in a word; reason: in full.
    """

    clip: str
    fps: float
    errors: dict[str, int]
    kind: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Score:
    """One method over all clips. frames, ms: mean absolute error.  within: share of clips at most n frames off.

    late: mean signed error in frames, positive when the method comes too late.
    """

    frames: float
    ms: float
    late: float
    within: dict[int, float]

    @classmethod
    def of(cls, errors: Sequence[int], fps: Sequence[float]) -> Score:
        """Of errors (n,) in frames and fps (n,) in frames per second, n >= 1."""
        off = np.abs(np.asarray(errors, float))
        within = {n: float((off <= n).mean()) for n in WITHIN}
        return cls(
            float(off.mean()), float((1000 * off / np.asarray(fps, float)).mean()), float(np.mean(errors)), within
        )


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_corpus`` found: every clip of the annotation is in ``used`` or in ``left_out``,
    unless a limit was set.
    """

    corpus: str
    scores: dict[str, Score]
    used: tuple[Spotted, ...]
    left_out: tuple[Spotted, ...]
    seconds: float

    def lines(self, most: int = 10) -> list[str]:
        """The result as text: the table, best method first, then at most ``most`` of the clips left out."""
        out = [f"{self.corpus}: {len(self.used)} clips with an annotated apex, {self.seconds:.1f} s"]
        head = "".join(f"{f'+-{n}':>7}" for n in WITHIN)
        out.append(f"  {'method':12} {'frames':>7} {'ms':>7} {'late':>7}{head}  nearer than {BASELINE}")
        middle = self.scores[BASELINE].frames
        for name, s in sorted(self.scores.items(), key=lambda pair: pair[1].frames):
            shares = "".join(f"{share:7.0%}" for share in s.within.values())
            times = f"{middle / s.frames:.1f} times" if s.frames else "exact"
            out.append(f"  {name:12} {s.frames:7.2f} {s.ms:7.1f} {s.late:+7.2f}{shares}  {times}")
        counts = Counter(s.kind for s in self.left_out)
        out += [f"  left out: {count} {kind}" for kind, count in counts.items()]
        out += [f"    {s.clip}  {s.reason}" for s in self.left_out[:most]]
        if len(self.left_out) > most:
            out.append(f"    ... and {len(self.left_out) - most} more, see --json")
        return out

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine, every clip with its errors."""
        return {
            "corpus": self.corpus,
            "clips": len(self.used),
            "methods": {
                name: {
                    "mae_frames": s.frames,
                    "mae_ms": s.ms,
                    "mean_error_frames": s.late,
                    "within": {str(n): share for n, share in s.within.items()},
                }
                for name, s in self.scores.items()
            },
            "errors_frames": {s.clip: s.errors for s in self.used},
            "left_out": [{"clip": s.clip, "kind": s.kind, "reason": s.reason} for s in self.left_out],
            "left_out_counts": dict(Counter(s.kind for s in self.left_out)),
            "seconds": self.seconds,
        }


def evaluate_corpus(
    corpus: Corpus,
    raw: Path,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    config: PrepareConfig | None = None,
) -> Evaluation:
    """Spot the apex of every clip of ``corpus`` in ``raw`` whose apex is annotated, and compare.

    Parameters
    ----------
    corpus
        From ``get_corpus``.
    raw
        The folder that holds the corpus as distributed.
    methods
        Spotters to compare, the midpoint is always among them; None or none: all.
    limit
        Use this many clips, spread evenly over the annotation.
    jobs
        Worker processes; None: all cores.
    progress
        progress(done, total) is called after every clip.
    config
        How faces are found, as for ``prepare_corpus``.

    Returns
    -------
    Evaluation
        Errors in frames and ms of each method, and the clips left out with their reasons.

    Raises
    ------
    UsageError
        An unknown method or a number below 1.
    DataError
        No clip can be used.
    """
    started = time.monotonic()
    config = config or PrepareConfig()
    names = tuple(dict.fromkeys([BASELINE, *(methods or SPOTTERS.names())]))
    for name in names:
        SPOTTERS.get(name)
    for option, value in (("--limit", limit), ("--jobs", jobs)):
        if value is not None and value < 1:
            raise UsageError(f"{option} is {value}", do="give 1 or more")
    context = Context.of(config)
    clips = with_truth(corpus.clips(raw, sheet=config.sheet, corrections=config.corrections), raw)
    unusable = [s for c in clips if (s := _unusable(c))]
    wanted = spread([c for c in clips if not _unusable(c)], limit)
    results = _work(wanted, names, config, context, jobs, progress)
    used = tuple(s for s in results if not s.kind)
    left_out = (*unusable, *(s for s in results if s.kind))
    if not used:
        first = f"; the first: {left_out[0].clip}, {left_out[0].reason}" if left_out else ""
        raise DataError(f"{corpus.name}: no clip has an apex to compare with{first}",
                        do="evaluate on a corpus with annotated apexes")  # fmt: skip
    fps = [s.fps for s in used]
    scores = {name: Score.of([s.errors[name] for s in used], fps) for name in names}
    return Evaluation(corpus.name, scores, used, left_out, time.monotonic() - started)


def with_truth(clips: Sequence[Clip], raw: Path) -> list[Clip]:
    """``clips``; of a made-up corpus those without an annotated apex get that of its truth.csv."""
    path = raw / "truth.csv"
    if not path.is_file():
        return list(clips)
    try:
        table = csv.DictReader(io.StringIO(read_file(path, TABLE_BYTES).decode("utf-8"), newline=""))
        rows = [r for r in table if re.fullmatch("[0-9]{1,9}", r.get("apex") or "")]
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} cannot be read ({e})", do="make the corpus again with mepipe synth") from e
    truth = {(r.get("subject"), r.get("clip")): int(r["apex"]) for r in rows}
    return [replace(c, apex=c.apex if c.apex is not None else truth.get((c.subject, c.name))) for c in clips]


def _unusable(clip: Clip) -> Spotted | None:
    if clip.problem or clip.frames is None:
        return Spotted(clip.id, clip.fps, {}, "refused", clip.problem or "no frames")
    if clip.apex is None:
        return Spotted(clip.id, clip.fps, {}, "without a usable apex", "; ".join(clip.notes) or "none annotated")
    return None


def spread(clips: Sequence[T], limit: int | None) -> list[T]:
    """``limit`` of the clips at even distances, so that few clips still are of many subjects."""
    if limit is None or limit >= len(clips):
        return list(clips)
    return [clips[i * len(clips) // limit] for i in range(limit)]


def _work(
    clips: list[Clip],
    methods: tuple[str, ...],
    config: PrepareConfig,
    context: Context,
    jobs: int | None,
    progress: Progress | None,
) -> list[Spotted]:
    """The clips in their order, worked on in processes."""
    out: dict[int, Spotted] = {}
    count = max(1, min(jobs or cores(), len(clips)))
    found = process_map(_spot_clip, clips, count, setup=_start, setup_args=(config, context, methods))
    for i, result in found:
        died = isinstance(result, WorkerDied)
        out[i] = Spotted(clips[i].id, clips[i].fps, {}, "failed", str(result)) if died else result
        if progress:
            progress(len(out), len(clips))
    return [out[i] for i in sorted(out)]


# --- in a worker -----------------------------------------------------------------------------------

_tools: Tools | None = None
_methods: tuple[str, ...] = ()


def _start(config: PrepareConfig, context: Context, methods: tuple[str, ...]) -> None:
    global _tools, _methods
    _tools, _methods = Tools(config, context), methods


def _spot_clip(clip: Clip) -> Spotted:
    """Align one clip and ask every method; a clip that cannot be aligned says why."""
    assert _tools is not None, "_start has not run in this process"
    assert clip.frames is not None, "clips without frames are left out before"
    try:
        frames = FrameFolder(clip.frames)
        clip = settle_frames(clip, frames.numbers, _tools.config.max_gap)
        if clip.apex is None:
            return Spotted(clip.id, clip.fps, {}, "without a usable apex", "; ".join(clip.notes))
        numbers = needed_frames(clip, frames.numbers, "all")
        crops = align_clip(frames, clip, numbers, _tools).crops
    except DataError as e:
        return Spotted(clip.id, clip.fps, {}, "refused", str(e))
    numbers = sorted(crops)  # without the damaged ones
    stack = np.stack([grey(crops[n]) for n in numbers])
    return Spotted(clip.id, clip.fps, {m: numbers[spot(stack, m)] - clip.apex for m in _methods})
