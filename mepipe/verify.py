"""``mepipe verify``: does the copy of a corpus hold what its annotation says, before anything is computed?

must-fail   what ``prepare`` cannot use: no annotation, a clip without folder or frames, an unknown emotion, ...
warn        what it can use and a person should know: corrections, frames replaced, odd numbers, folders left over

Every row of the annotation and every folder of images is counted once.  Two images of a clip are opened,
and of those only the ends are read; ``deep`` decodes every image of every clip.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mepipe.clipwork import needed_frames, settle_frames
from mepipe.datasets.base import (
    BAD_ROW,
    CORRECTION,
    DUPLICATE,
    NO_APEX,
    NO_FOLDER,
    NO_FRAME,
    NO_SPAN,
    OUTSIDE,
    UNKNOWN_EMOTION,
    Clip,
    Corpus,
    FrameFolders,
    blamed,
)
from mepipe.datasets.composite import key, of_corpus
from mepipe.datasets.facecorpus import FaceCorpus
from mepipe.datasets.folders import loose
from mepipe.datasets.manifests import Count
from mepipe.errors import DataError
from mepipe.frames import FrameFolder
from mepipe.glance import Images, file_of, image_size
from mepipe.progress import Progress
from mepipe.settings import PrepareConfig

MUST_FAIL = ("no annotation", NO_FOLDER, NO_FRAME, UNKNOWN_EMOTION, DUPLICATE, BAD_ROW, NO_SPAN)
CORRECTED, NEAREST, ODD_ORDER, LEFT_OVER, COUNTS = (
    "correction applied", "frame nearest", "odd order", "clip on disk without a row",
    "counts that differ from the published ones",
)  # fmt: skip
SPOTTED, REPAIRED, DAMAGED, DOUBLED = "apex not coded", "row repaired", "damaged frame", "frame number twice"
WARN = (CORRECTED, NEAREST, ODD_ORDER, SPOTTED, REPAIRED, DAMAGED, DOUBLED, LEFT_OVER, COUNTS)


@dataclass(frozen=True)
class Finding:
    """One thing found. name: of MUST_FAIL or WARN; where: a clip's id, a folder, or the corpus."""

    name: str
    where: str
    text: str

    @property
    def grade(self) -> str:
        return "must-fail" if self.name in MUST_FAIL else "warn"


@dataclass(frozen=True)
class Verification:
    """What ``verify_corpus`` found.

    counts: rows, usable (can be prepared), repaired (of these), refused, subjects, folders (of images, and of clips
    that hold none), named (by a row), copies (of a named one), left_over, other, images (opened), and the
    dictionaries emotions, splits and taken_from (the place that won, and of how many copies).
    """

    corpus: str
    raw: Path
    findings: tuple[Finding, ...]
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many findings must be put right before ``prepare`` can use everything."""
        return sum(f.grade == "must-fail" for f in self.findings)

    def named(self, name: str) -> list[Finding]:
        return [f for f in self.findings if f.name == name]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: corpus, raw, failed (a count), counts, seconds, findings (grade, name, where, text)."""
        findings = [{"grade": f.grade, **asdict(f)} for f in self.findings]
        return {"corpus": self.corpus, "raw": str(self.raw), "failed": self.failed, "counts": self.counts,
                "seconds": round(self.seconds, 3), "findings": findings}  # fmt: skip

    def lines(self, most: int = 20) -> list[str]:
        """A table: what is there, then the findings by grade and name (``most`` of each), then the verdict."""
        c = self.counts
        lines = [f"{self.corpus} in {self.raw}"]
        if c:
            lines.append(f"  rows     {c['rows']}: {c['usable']} usable ({c['repaired']} of them repaired), "
                         f"{c['refused']} refused; {c['subjects']} subjects")  # fmt: skip
            unit = c.get("unit", "folders")
            lines.append(f"  {unit:8} {c['folders']}: {c['named']} named by a row, {c['copies']} copies of these, "
                         f"{c['left_over']} without a row, {c['other']} of other things")  # fmt: skip
            if c["taken_from"]:
                won = ", ".join(f"{place} ({n})" for place, n in c["taken_from"].items())
                lines.append(f"  taken    where there are copies, the frames in {won}")
        for name in (*MUST_FAIL, *WARN):
            lines += _section(name, self.named(name), most)
        lines.append(f"{self.failed} must-fail, {len(self.findings) - self.failed} warnings ({self.seconds:.1f} s)")
        return lines


def _section(name: str, found: Sequence[Finding], most: int) -> list[str]:
    if not found:
        return []
    width = max(len(f.where) for f in found[:most])
    lines = [f"{found[0].grade:9} {name}: {len(found)}"]
    lines += [f"  {f.where:{width}}  {f.text}" for f in found[:most]]
    return lines + ([f"  ... and {len(found) - most} more (--json lists all)"] if len(found) > most else [])


def verify_corpus(
    corpus: Corpus,
    raw: Path,
    deep: bool = False,
    *,
    sheet: Path | str | None = None,
    corrections: bool = True,
    max_gap: int = PrepareConfig.max_gap,
    progress: Progress | None = None,
) -> Verification:
    """Compare the annotation of ``corpus`` with what lies in ``raw``; nothing is written.

    Parameters
    ----------
    corpus
        From ``get_corpus``.
    raw
        The folder that holds the corpus as distributed.
    deep
        Decode every image of every clip.
    sheet
        The annotation, if it is not below ``raw``.
    corrections
        Apply the known corrections first.
    max_gap
        As in ``prepare``, the most frames by which an annotated frame may be replaced.
    progress
        progress(done, total) is called after every clip.

    Returns
    -------
    Verification
        Findings by name, and how many must be put right.

    Raises
    ------
    UsageError
        RAW is no folder or ``sheet`` no file; all else is a finding.
    """
    if isinstance(corpus, FaceCorpus):
        from mepipe.verifyfaces import verify_faces

        return verify_faces(corpus, raw, deep, sheet, progress)
    started = time.monotonic()
    try:
        clips, folders = corpus.survey(raw, sheet=sheet, corrections=corrections)
    except DataError as e:
        return Verification(corpus.name, raw, (Finding("no annotation", corpus.name, str(e)),),
                            seconds=time.monotonic() - started)  # fmt: skip
    images = Images(deep)
    findings: list[Finding] = []
    usable = []
    for done, clip in enumerate(clips, start=1):
        found = [*_of_row(clip), *_of_frames(clip, images, max_gap)]
        findings += found
        if not clip.problem and all(f.grade == "warn" for f in found):
            usable.append(clip)
        if progress:
            progress(done, len(clips))
    accounted = places(corpus, clips, folders)
    findings += [_left_over(p, folders) for p in accounted["left_over"]]
    with blamed(corpus, "counting its clips"):
        findings += of_counts(corpus, clips, usable)
    counts = counted(clips, usable, findings) | {name: len(found) for name, found in accounted.items()}
    counts |= {"folders": sum(map(len, accounted.values())), "images": images.opened}
    counts["taken_from"] = taken_from(clips, accounted["copies"], folders)
    return Verification(corpus.name, raw, tuple(findings), counts, time.monotonic() - started)


# --- a row -----------------------------------------------------------------------------------------


def _of_row(clip: Clip) -> Iterator[Finding]:
    """What the annotation itself says about one clip: why it is refused, and how it was repaired."""
    if clip.problem:
        kind = clip.problem_kind  # a plug-in may have kinds of its own; what is refused must fail
        yield Finding(kind if kind in MUST_FAIL else BAD_ROW, clip.id, clip.problem)
    for note in clip.notes:
        if note.startswith(CORRECTION):
            yield Finding(CORRECTED, clip.id, note.removeprefix(CORRECTION))
        elif OUTSIDE in note:
            yield Finding(ODD_ORDER, clip.id, f"{note}: the apex will be spotted")
        elif note.startswith(NO_APEX):
            if not any(n.startswith(CORRECTION) for n in clip.notes):
                yield Finding(SPOTTED, clip.id, f"{note}: the apex will be spotted")
        else:
            yield Finding(REPAIRED, clip.id, note)


# --- its frames ------------------------------------------------------------------------------------


def _of_frames(clip: Clip, images: Images, max_gap: int) -> Iterator[Finding]:
    """Whether the frames that a clip needs are there and whole."""
    if clip.frames is None or clip.problem or clip.onset is None or clip.offset is None:
        return
    folder = images.folder(clip.frames)
    if isinstance(folder, str):
        yield Finding(NO_FRAME, clip.id, folder)
        return
    if doubled := folder.doubled():
        yield Finding(DOUBLED, clip.id, doubled)
    try:  # what prepare does, so that the two cannot disagree
        settled = settle_frames(clip, folder.numbers, max_gap)
        span = needed_frames(replace(settled, apex=None), folder.numbers, "onset-apex")
    except DataError as e:
        yield Finding(NO_FRAME, clip.id, str(e))
        return
    for note in settled.notes[len(clip.notes) :]:
        yield Finding(NEAREST, clip.id, note)
    yield from _of_images(settled, span, folder, images)


def _of_images(clip: Clip, span: Sequence[int], folder: FrameFolder, images: Images) -> Iterator[Finding]:
    """Whether the images of a clip whose frames are settled are whole. span: its frames from onset to offset."""
    needed = {n for n in (clip.onset, clip.apex) if n is not None}
    damaged = images.damaged(folder, needed if clip.apex is not None else {*needed, span[-1]})
    for number, why in damaged.items():
        if number in needed:
            yield Finding(NO_FRAME, clip.id, why)
    sizes = {n: size for n in sorted(needed - set(damaged)) if (size := image_size(file_of(folder, n)))}
    if len(set(sizes.values())) > 1:
        of = ", ".join(f"{n} has {w}x{h} px" for n, (w, h) in sizes.items())
        yield Finding(NO_FRAME, clip.id, f"onset and apex differ in size, one transform cannot serve both: {of}")
    rest = [n for n in span if n in damaged and n not in needed]
    if clip.apex is None and len(span) - len(rest) < 2:
        yield Finding(NO_FRAME, clip.id, f"no undamaged frame after the onset: {damaged[rest[0]]}")
    elif rest:
        yield Finding(DAMAGED, clip.id, f"{len(rest)} between onset and offset, such as {damaged[rest[0]]}")


# --- the corpus as a whole -------------------------------------------------------------------------


def places(corpus: Corpus, clips: Sequence[Clip], folders: FrameFolders) -> dict[str, list[Path]]:
    """Every folder of images once: ``named`` by a row, ``copies`` of such (crops beside raw frames), ``left_over``
    (a clip without a row), ``other`` (what the corpus says is no clip of it).
    """
    named = {c.frames for c in clips if c.frames}
    taken = _taken(clips)
    found: dict[str, list[Path]] = {"named": [], "copies": [], "left_over": [], "other": []}
    # of folders without an image only those among clips: others hold papers, scripts, landmarks
    among = {f.parent for f in folders.all}
    with blamed(corpus, "telling its folders from others"):
        for folder in folders.all + [f for f in folders.imageless if f in named or f.parent in among]:
            if folder in named:
                place = "named"
            elif not corpus.is_clip_folder(folder, folders):
                place = "other"
            else:
                place = "copies" if _original(folder, folders, taken) else "left_over"
            found[place].append(folder)
    return found


def _taken(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Loose name -> the clips of that name that have a folder: only of these there can be copies."""
    taken: dict[str, list[Clip]] = {}
    for c in clips:
        if c.frames:
            taken.setdefault(loose(c.name), []).append(c)
    return taken


def _original(folder: Path, folders: FrameFolders, taken: dict[str, list[Clip]]) -> Clip | None:
    """The clip of which ``folder`` is a copy, by its subject and name; None when it is none."""
    *above, last = map(loose, folders.parts(folder))
    return next((c for c in taken.get(last, ()) if (s := loose(c.subject)) in above or last.startswith(s)), None)


def taken_from(clips: Sequence[Clip], copies: Sequence[Path], folders: FrameFolders) -> dict[str, int]:
    """Of clips that lie in several places: the place whose frames are taken -> how many copies lie elsewhere.

    A place is named down to the first folder in which it differs from that of the copy.
    """
    taken = _taken(clips)
    won: Counter[str] = Counter()
    for copy in copies:
        original = _original(copy, folders, taken)
        if original and original.frames:
            ours, theirs = (p.relative_to(folders.raw).parts for p in (original.frames, copy))
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
            won["/".join(ours[: same + 1])] += 1
    return dict(won)


def _left_over(folder: Path, folders: FrameFolders) -> Finding:
    where = str(folder.relative_to(folders.raw))
    nothing = "" if folder in folders.filled or folder in folders.all else ", and it holds files but no image"
    return Finding(LEFT_OVER, where, f"no row of the annotation names it{nothing}")


def counted(clips: Sequence[Clip], usable: Sequence[Clip], findings: Sequence[Finding]) -> dict[str, Any]:
    """How many rows are of which fate, subject, emotion and split."""
    repairs = {f.where for f in findings if f.name in WARN}
    return {
        "rows": len(clips),
        "usable": len(usable),
        "repaired": sum(c.id in repairs for c in usable),
        "refused": len(clips) - len(usable),
        "subjects": len({c.subject for c in clips if c.subject}),
        "emotions": dict(Counter(c.emotion for c in clips if not c.problem)),
        "splits": dict(Counter(c.split for c in clips if c.split)),
    }


def of_counts(corpus: Corpus, clips: Sequence[Clip], usable: Sequence[Clip]) -> Iterator[Finding]:
    """Published counts that the annotation does not have, and members of composites that cannot be used."""
    composites = of_corpus(corpus.name)
    parts: dict[str, list[Count]] = {}
    for count in corpus.published():
        parts.setdefault(count.part, []).append(count)
    for part, published in parts.items():
        mine = _part(part, clips, {c.part for c in published})
        if part in composites or mine is None:
            continue
        differ = [text for count in published if (text := _difference(count, mine))]
        if differ:
            where = f"{corpus.name} {part}".strip()
            yield Finding(COUNTS, where, f"{', '.join(differ)} ({published[0].source})")
    for name, listed in composites.items():
        there = {key(_Id(corpus.name, c.subject, c.name)) for c in usable}
        missing = [m for m in listed if key(m) not in there]
        if missing:
            names = ", ".join(f"{m.subject}/{m.clip}" for m in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            text = f"{len(listed) - len(missing)} of its {len(listed)} clips can be used, not {names}{more}"
            yield Finding(COUNTS, name, text)


@dataclass(frozen=True)
class _Id:
    corpus: str
    subject: str
    clip: str


def _part(part: str, clips: Sequence[Clip], parts: set[str]) -> list[Clip] | None:
    """The clips of a part of counts.csv; None for an edition of the sheet that is not the one read."""
    if not part:
        return list(clips)
    if part.isdigit():
        return list(clips) if any(part in c.where for c in clips) else None
    return [c for c in clips if c.split == part]


def _difference(count: Count, clips: Sequence[Clip]) -> str:
    if count.emotion:
        mine = sum(c.emotion == count.emotion for c in clips)
        return f"{count.emotion} {mine} (published {count.clips})" if mine != count.clips else ""
    text = f"{len(clips)} clips (published {count.clips})" if len(clips) != count.clips else ""
    subjects = len({c.subject for c in clips if c.subject})
    if count.subjects is not None and subjects != count.subjects:
        text += f"{', ' if text else ''}{subjects} subjects (published {count.subjects})"
    return text
