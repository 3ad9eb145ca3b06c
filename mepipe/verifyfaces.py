"""``mepipe verify`` of a corpus of labelled faces: every row has its picture or clip, and every file its row.

Pictures are looked at by their two ends, folders by their first and last frame, videos by their first bytes; ``deep``
decodes a picture, or the frames that a sequence would be made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mepipe.datasets.base import NO_FRAME, Clip, FrameFolders
from mepipe.datasets.facecorpus import VIDEO_SUFFIXES, FaceClip, FaceCorpus
from mepipe.errors import DataError
from mepipe.facesets.work import picked
from mepipe.frames import FrameFolder, is_video
from mepipe.glance import file_of, glance
from mepipe.media import open_media
from mepipe.progress import Progress
from mepipe.verify import BAD_ROW, COUNTS, LEFT_OVER, MUST_FAIL, REPAIRED, Finding, Verification, counted, of_counts

LENGTH = 16  # frames of a sequence that ``deep`` decodes


def verify_faces(
    corpus: FaceCorpus, raw: Path, deep: bool, sheet: Path | str | None, progress: Progress | None
) -> Verification:
    """``mepipe.verify.verify_corpus`` of a corpus of faces."""
    started = time.monotonic()
    try:
        clips, folders = corpus.survey(raw, sheet=sheet)
    except DataError as e:
        seconds = time.monotonic() - started
        return Verification(corpus.name, raw, (Finding("no annotation", corpus.name, str(e)),), seconds=seconds)
    findings: list[Finding] = []
    usable = []
    for done, clip in enumerate(clips, start=1):
        found = list(_of_clip(clip, deep))
        findings += found
        if all(f.grade == "warn" for f in found):
            usable.append(clip)
        if progress:
            progress(done, len(clips))
    left_over = unnamed(corpus, clips, folders)
    findings += [Finding(LEFT_OVER, str(p.relative_to(raw)), "no row of the annotation names it") for p in left_over]
    findings += of_counts(corpus, clips, usable)
    findings += of_parts(corpus, clips)
    counts: dict[str, Any] = counted(clips, usable, findings)
    named = len({c.frames for c in clips if c.frames})
    counts |= {"folders": named + len(left_over), "named": named, "copies": 0, "left_over": len(left_over), "other": 0}
    counts |= {"images": len(usable), "taken_from": {}, "unit": "files" if corpus.kind == "image" else "clips"}
    return Verification(corpus.name, raw, tuple(findings), counts, time.monotonic() - started)


def _of_clip(clip: Clip, deep: bool) -> Iterator[Finding]:
    if clip.problem:
        yield Finding(clip.problem_kind if clip.problem_kind in MUST_FAIL else BAD_ROW, clip.id, clip.problem)
        return
    for note in clip.notes:
        yield Finding(REPAIRED, clip.id, note)
    assert isinstance(clip, FaceClip)
    assert clip.frames is not None
    try:
        why = decoded(clip) if deep else looked_at(clip, clip.frames)
    except (DataError, OSError) as e:
        why = str(e)
    if why:
        yield Finding(NO_FRAME, clip.id, why)


def of_parts(corpus: FaceCorpus, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Parts are named and one of them is missing, so that the corpus's own protocol cannot be followed."""
    there = {c.split for c in clips if not c.problem} & {"train", "test"}
    if len(there) == 1:
        (absent,) = {"train", "test"} - there
        what = f"no clip is of the part {absent}: the list or folder of it is missing, and holdout cannot be trained"
        yield Finding(COUNTS, corpus.name, what)


def looked_at(clip: FaceClip, path: Path) -> str:
    """Why the files of a clip cannot be whole, as far as little of them tells; "" when nothing is seen."""
    if clip.pixels is not None:  # numbers in a text: they are read as fast as looked at
        return decoded(clip)
    if path.is_dir():
        folder = FrameFolder(path)
        ends = dict.fromkeys((folder.numbers[0], folder.numbers[-1]))
        return next((why for n in ends if (why := glance(file_of(folder, n)))), "")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "" if is_video(path) else f"{path} is no video"
    return glance(path)


def decoded(clip: FaceClip) -> str:
    """Why what is read of a clip cannot be decoded. Raises DataError, OSError."""
    media = open_media(clip)
    for number in dict.fromkeys(picked(media, LENGTH if len(media.numbers) > 1 else None)):
        media.read(number)
    return ""


def unnamed(corpus: FaceCorpus, clips: Sequence[Clip], folders: FrameFolders) -> list[Path]:
    """Folders of pictures of which no row names the folder, or any picture in it."""
    named = {c.frames for c in clips if c.frames} | {c.frames.parent for c in clips if c.frames}
    return [f for f in sorted(folders.filled) if f not in named and corpus.is_clip_folder(f, folders)]
