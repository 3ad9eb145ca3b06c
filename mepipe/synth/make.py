"""Writing a made-up corpus to disk: what is planned, what is already there, who draws what.

``synth.json``   the settings, written first: a folder with other settings is never touched
clip folders     appear whole or not at all, so that a killed run can simply be repeated
``defects.csv``  what was planted, if anything was
``truth.csv``    written last: a folder that has it is finished
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2

from mepipe.errors import DataError, UsageError
from mepipe.progress import Progress
from mepipe.synth.corpora import WRITERS, ClipPlan, Defect, Writer
from mepipe.synth.identity import Camera
from mepipe.synth.photo import photograph
from mepipe.synth.render import SyntheticClip
from mepipe.workspace import make_folder, sweep, write_json, write_text

GENERATION = 1  # raised when the same settings would give other pixels
SETTINGS, TRUTH, DEFECTS = "synth.json", "truth.csv", "defects.csv"
STRAY = ("Thumbs.db", ".DS_Store", "Desktop - Shortcut.lnk")  # all seen in real copies, in clip and subject folders
TRUTH_COLUMNS = (
    "corpus", "subject", "clip", "onset", "apex", "offset", "fps", "emotion", "label3", "action_units",
    "amplitude_px", "amplitude_px_224", "seed", "subject_index", "clip_index",
)  # fmt: skip


@dataclass(frozen=True)
class SynthSummary:
    """What ``make_corpus`` made.

    clips: micro-expressions in the corpus.  frames: on disk, those of clips without an expression
    (SMIC's non_micro) included.  written: clip folders drawn by this call, such clips included.
    defects: how many were planted.
    """

    corpus: str
    out: Path
    subjects: int
    clips: int
    frames: int
    written: int
    seconds: float
    defects: int = 0

    def __str__(self) -> str:
        planted = f"; {self.defects} planted defects are in {self.out / DEFECTS}" if self.defects else ""
        new = f"{self.written} drawn now in {self.seconds:.1f} s" if self.written else "all there already"
        return (
            f"{self.corpus}: {self.clips} made-up clips of {self.subjects} subjects, "
            f"{self.frames} frames in {self.out} ({new}); the truth is in {self.out / TRUTH}{planted}"
        )


def make_corpus(
    corpus: str,
    out: str | Path,
    *,
    subjects: int | None = None,
    clips: int | None = None,
    seed: int = 0,
    defects: bool = False,
    like_real: bool = False,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> SynthSummary:
    """Make up ``corpus`` below the folder ``out``, in the real corpus's layout.

    A run that was interrupted is finished by the same call; a finished one is left as it is.

    Parameters
    ----------
    corpus
        A name in ``WRITERS``.
    out
        A new folder, or one that this function made.
    subjects, clips
        How many people, and clips of each; None takes the corpus's default.
    seed
        Of everything random: the same seed gives the same pixels.
    defects
        Plant the published defects of the corpus, with stray files; ``defects.csv`` lists them.
    like_real
        All clips of the real annotation, a few frames each (the corpora of 3db by name, and dfme); subjects and
        clips are then the real ones.
    progress
        Called with (clips done, clips to do) after each clip.
    jobs
        Threads that draw (OpenCV works outside Python's lock); None takes one per core. The files do not depend on
        it.

    Returns
    -------
    SynthSummary
        What is there now; ``truth.csv`` in ``out`` holds the motion.

    Raises
    ------
    UsageError
        An unknown corpus, a count below 1, options that exclude each other, a folder that holds anything else, or a
        missing scikit-image.
    """
    began, out, writer = time.monotonic(), Path(out), WRITERS.get(corpus)
    if like_real and not (subjects is None and clips is None):
        raise UsageError("like_real has the real numbers of subjects and clips", do="leave out subjects and clips")
    subjects = _at_least(1, "subjects", writer.subjects if subjects is None else subjects)
    clips = _at_least(1, "clips", writer.clips if clips is None else clips)
    jobs = _at_least(1, "jobs", _cores() if jobs is None else jobs)
    _at_least(0, "seed", seed)
    photograph()  # scikit-image absent: say so before anything is written
    if like_real:
        plans = writer.like_real(seed)
        settings: dict[str, object] = {"corpus": corpus, "like_real": True, "seed": seed}
    else:
        plans = [writer.plan(seed, i, j) for i in range(subjects) for j in range(clips)]
        plans += [extra for i in range(subjects) for extra in writer.extras(seed, i)]
        settings = {"corpus": corpus, "subjects": subjects, "clips": clips, "seed": seed}
    planted = list(writer.defects(seed)) if defects else []
    if planted:
        plans, settings = with_defects(plans, planted), {**settings, "defects": True}
    _claim(out, {"format": "mepipe.synth", "generation": GENERATION, **settings})
    camera = (like_real and writer.camera_like_real) or writer.camera
    written = _write(writer, camera, plans, planted, out, jobs, progress or (lambda done, total: None))
    people = {plan.subject for plan in plans}
    rows = sum(plan.in_sheet for plan in plans)
    frames = sum(plan.last - plan.first + 1 - len(plan.absent) for plan in plans)
    return SynthSummary(corpus, out, len(people), rows, frames, written, time.monotonic() - began, len(planted))


def with_defects(plans: Sequence[ClipPlan], planted: Sequence[Defect]) -> list[ClipPlan]:
    """The planted clips in the place of those that are called the same, and the rest after them."""
    bad = {(d.plan.subject, d.plan.name): d.plan for d in planted}
    kept = [bad.pop((p.subject, p.name), p) for p in plans]
    return [*kept, *bad.values()]


def _write(
    writer: Writer,
    camera: Camera,
    plans: Sequence[ClipPlan],
    planted: Sequence[Defect],
    out: Path,
    jobs: int,
    progress: Progress,
) -> int:
    """Draw what is missing, then write the sheet and the truth. Returns how many clip folders were drawn."""
    for parent in {(out / plan.folder).parent for plan in plans}:
        sweep(parent)
    missing = [plan for plan in plans if not writer.is_there(out, plan)]
    if missing or not (out / TRUTH).is_file():
        _draw_all(writer, camera, missing, out, jobs, progress)
        described = [SyntheticClip(plan, camera) for plan in plans if plan.in_sheet]
        writer.write_annotations(out, described)
        if planted:
            place = out / plans[0].folder
            _litter(place if place.is_dir() else place.parent)
            write_text(out / DEFECTS, _planted(planted))
        write_text(out / TRUTH, _truth(described))
    return len(missing)


def _litter(folder: Path) -> None:
    """Leave what operating systems leave, in a clip's folder and the one above."""
    for place in (folder, folder.parent):
        for name in STRAY:
            write_text(place / name, "stray")


def _planted(planted: Sequence[Defect]) -> str:
    """The text of defects.csv: where each is and under which name ``mepipe verify`` finds it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("subject", "clip", "finding", "what"))
    table.writerows((d.plan.subject, d.plan.name, d.finding, d.what) for d in planted)
    return text.getvalue()


def synthetic_clip(corpus: str, seed: int, subject: int, clip: int) -> SyntheticClip:
    """One made-up clip, without writing it.

    Parameters
    ----------
    corpus
        A name in ``WRITERS``.
    seed
        Of the corpus it belongs to.
    subject, clip
        Its person and its number, both from 0.

    Returns
    -------
    SyntheticClip
        ``.frame(n)`` draws; ``.displacement(n)`` is the true motion in px.

    Raises
    ------
    UsageError
        An unknown corpus, a negative number, or a missing scikit-image.
    """
    writer = WRITERS.get(corpus)
    for name, number in (("seed", seed), ("subject", subject), ("clip", clip)):
        _at_least(0, name, number)
    photograph()
    return SyntheticClip(writer.plan(seed, subject, clip), writer.camera)


def _at_least(least: int, name: str, number: int) -> int:
    if number < least:
        raise UsageError(f"{name} is {number}", do=f"give {least} or more")
    return number


def _cores() -> int:
    """The cores this process may use, which a container or a scheduler often restricts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Make ``out`` ours: it must be absent, empty, or begun with exactly these settings."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", do="give a new folder")
    path = out / SETTINGS
    if path.is_file():
        earlier = _read_settings(path)
        if earlier != settings:
            differ = [k for k in {**settings, **earlier} if settings.get(k) != earlier.get(k)]
            was = ", ".join(f"{k} {earlier.get(k)!r}" for k in differ)
            raise UsageError(f"{out} holds a made-up corpus of other settings ({was})", do="give a new folder")
        return
    if out.exists():
        sweep(out)  # what a run killed before its first file may have left
        if any(out.iterdir()):
            raise UsageError(f"{out} is not empty and holds no made-up corpus", do="give a new folder")
    make_folder(out)
    write_json(path, settings)


def _read_settings(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError(f"cannot read {path}: {e}", do="give a new folder") from e
    return settings if isinstance(settings, dict) else {}


def _draw_all(
    writer: Writer, camera: Camera, plans: Sequence[ClipPlan], out: Path, jobs: int, progress: Progress
) -> None:
    """Draw the clips on ``jobs`` threads; the first failure stops the rest."""
    with _one_thread_per_opencv_call(), ThreadPoolExecutor(jobs, "synth") as pool:
        waiting = [pool.submit(lambda p: writer.draw(SyntheticClip(p, camera), out), plan) for plan in plans]
        try:
            for done, finished in enumerate(as_completed(waiting), 1):
                finished.result()
                progress(done, len(plans))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def _one_thread_per_opencv_call() -> Iterator[None]:
    """Our threads share the cores; OpenCV's own, inside each of them, would only get in the way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _truth(clips: Sequence[SyntheticClip]) -> str:
    """The text of truth.csv; amplitudes rounded to 1e-4 px."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(TRUTH_COLUMNS)
    for c in clips:
        p = c.plan
        table.writerow((
            p.corpus, p.subject, p.name, p.onset, p.apex, p.offset, p.fps, p.emotion, p.label3, c.units,
            f"{c.amplitude:.4f}", f"{c.amplitude_224:.4f}", p.seed, p.subject_index, p.clip_index,
        ))  # fmt: skip
    return text.getvalue()
