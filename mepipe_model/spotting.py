"""Spotting with a run's classifier: every interval found goes the way of a clip of ``mepipe predict``.

spot_video(ws, video, run=None)           intervals, their classes where a run is given, files and a page
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepipe.errors import DataError
from mepipe.progress import Progress
from mepipe.spot.config import SpotConfig
from mepipe.spot.reading import open_source
from mepipe.spot.run import Spotted, Spotting, spot
from mepipe.spot.scoring import read_truth
from mepipe.workspace import Workspace, digest, safe_name, write_json, write_text
from mepipe_model.answers import Answer
from mepipe_model.classifier import Classifier

CSV_NAME, JSON_NAME, PAGE_NAME = "intervals.csv", "intervals.json", "timeline.html"


@dataclass(frozen=True)
class Classified:
    """What ``spot_video`` found. answers: one for each interval where a run was given; None where it has no answer.

    refused: (interval's onset, why it has none).  files: what was written.
    """

    spotting: Spotting
    run: str = ""
    classes: tuple[str, ...] = ()
    answers: tuple[Answer | None, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()
    files: tuple[Path, ...] = ()

    def lines(self) -> list[str]:
        """The result as text."""
        s = self.spotting
        speed = s.seconds / s.took if s.took else 0.0
        out = [
            f"{s.video}: {len(s.intervals)} micro-expression(s) in {s.seconds:.1f} s ({s.frames} frames at {s.fps:g} "
            f"fps, read by {s.reader}), {len(s.blinks)} blink(s); {s.took:.1f} s of work, {speed:.1f} times real time"
        ]
        for i, one in enumerate(s.intervals):
            when = f"{one.onset / s.fps:8.2f} s  {(one.offset - one.onset) / s.fps:.2f} s long"
            said = f"{one.part:6} {one.score:8.0f}{self._said(i)}"
            out.append(f"  {one.onset:>7} {one.apex:>7} {one.offset:>7}  {when}  {said}")
        out += [f"  warning: {w}" for w in s.warnings]
        out += [f"  not classified: the one at {onset}: {why}" for onset, why in self.refused]
        out += [f"  {s.scored}"] if s.scored else []
        return out + [f"  {kind:11} {path}" for kind, path in zip(("table", "json", "page"), self.files, strict=False)]

    def answer(self, i: int) -> Answer | None:
        """Of interval ``i``; None without a run, and where it has none."""
        return self.answers[i] if self.answers else None

    def _said(self, i: int) -> str:
        answer = self.answer(i)
        return f"  {answer.prediction} {answer.probabilities[answer.prediction]:.0%}" if answer else ""

    def as_dict(self) -> dict[str, Any]:
        s = self.spotting
        return {
            "video": s.video, "reader": s.reader, "fps": s.fps, "frames": s.frames, "stride": s.stride,
            "seconds_of_work": s.took, "settings": s.config.as_dict(), "run": self.run or None,
            "intervals": [
                {**_facts(one, s.fps), **({"answer": answer.as_dict()} if (answer := self.answer(i)) else {})}
                for i, one in enumerate(s.intervals)
            ],
            "suppressed": [_facts(one, s.fps) for one in s.suppressed],
            "blinks": [list(blink) for blink in s.blinks],
            "warnings": [*s.warnings, *(f"interval at {onset} not classified: {why}" for onset, why in self.refused)],
            "score": s.scored.as_dict() if s.scored else None,
        }  # fmt: skip


def spot_video(
    ws: Workspace,
    video: Path,
    *,
    run: str | None = None,
    fold: str | None = None,
    truth: Path | None = None,
    out: Path | None = None,
    config: SpotConfig | None = None,
    progress: Progress | None = None,
) -> Classified:
    """Spot a long video, classify what is found, write table, JSON and page.

    Parameters
    ----------
    ws
        The workspace.
    video
        A video file, or a folder of numbered images.
    run
        Classify with the weights of this run; None only spots.
    fold
        Ask this fold's model alone.
    truth
        CSV of known intervals to score against.
    out
        Folder for the files; None is WORKSPACE/spot/<name of the video>.
    config
        The settings of the spotter.
    progress
        Called with (frames done, frames).

    Returns
    -------
    Classified
        What was found, and where it is written; an interval whose face or frames cannot be used is in ``refused``.

    Raises
    ------
    UsageError, DataError
        As ``mepipe.spot.spot``, ``Classifier`` and ``read_truth``.
    """
    from mepipe.report.timeline import timeline_page

    config = config or SpotConfig()
    folder = out or ws.root / "spot" / folder_name(video)
    known = read_truth(truth, video.name) if truth else None
    classifier = Classifier(ws, run, fold, config.landmarks) if run else None
    found = spot(video, config, progress=progress)
    if known is not None:
        found = found.against(known)
    result = classify(found, video, classifier) if classifier else Classified(found)
    files = tuple(folder / name for name in (CSV_NAME, JSON_NAME, PAGE_NAME))
    write_text(files[0], intervals_csv(result))
    write_json(files[1], result.as_dict())
    write_text(files[2], timeline_page(result.spotting, result.answers))
    return Classified(result.spotting, result.run, result.classes, result.answers, result.refused, files)


def folder_name(video: Path) -> str:
    """What the folder of a video's results is called: the video's own name where that can be one."""
    name = video.resolve().name
    try:
        return safe_name(name)
    except DataError:
        return f"video-{digest(name)[:8]}"


def classify(found: Spotting, video: Path, classifier: Classifier) -> Classified:
    """The intervals of ``found`` through ``classifier``: face and alignment on each one's own onset frame.

    The video is decoded a second time, so that none of it had to be kept.
    """
    source, seen, refused = open_source(video, found.config.reader), [], []
    for one in found.intervals:
        name = f"{video.name} {one.onset}-{one.offset}"
        try:
            seen.append((one, classifier.look(source, name, source.reader, one.onset, one.apex, one.offset)))
        except DataError as e:
            refused.append((one.onset, str(e)))
    answered = dict(zip((one.onset for one, _ in seen), classifier.answers([s for _, s in seen]), strict=True))
    answers = tuple(answered.get(one.onset) for one in found.intervals)
    return Classified(found, classifier.run.name, classifier.run.classes, answers, tuple(refused))


def intervals_csv(result: Classified) -> str:
    """One row per micro-expression: frames, seconds, score, part of the face; class and probabilities with a run."""
    s, out = result.spotting, io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    chances = [f"p_{c}" for c in result.classes]
    extra = ["prediction", *chances] if result.run else []
    table.writerow(["video", "onset", "apex", "offset", "fps", "onset_s", "duration_s", "score", "part", *extra])
    for i, one in enumerate(s.intervals):
        answer = result.answer(i)
        said = [answer.prediction, *(f"{answer.probabilities[c]:.6f}" for c in result.classes)] if answer else []
        seconds = (f"{one.onset / s.fps:.3f}", f"{(one.offset - one.onset) / s.fps:.3f}")
        row = [Path(s.video).name, one.onset, one.apex, one.offset, f"{s.fps:g}", *seconds, one.score, one.part, *said]
        table.writerow(row + [""] * (9 + len(extra) - len(row)))
    return out.getvalue()


def _facts(one: Spotted, fps: float) -> dict[str, Any]:
    return {"onset": one.onset, "apex": one.apex, "offset": one.offset, "onset_s": round(one.onset / fps, 4),
            "duration_s": round((one.offset - one.onset) / fps, 4), "score": one.score, "part": one.part,
            "verdict": one.verdict}  # fmt: skip
