"""DEAP: face videos of 22 of its 32 participants, 40 trials each, 50 fps; ratings as valence-arousal quadrants.

Layout   face_video/s01/s01_trial01.avi           participants 1 to 22; trials of four of them are not all there
Sheet    metadata_csv/participant_ratings.csv, columns Participant_id, Trial, ..., Valence, Arousal (1 to 9)
Classes  HVHA, HVLA, LVHA, LVLA: a rating above 5, the middle of the scale, is high
Source   Koelstra et al., IEEE T-AFFC 3(1), 2012, and the corpus's own readme (docs/corpora/deap.md)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from mepipe.datasets.base import CORPORA, Clip, FrameFolders
from mepipe.datasets.facecorpus import FaceClip, FaceCorpus, Media, find_list, table_rows

FILMED = 22  # participants 1 to 22 have face videos; the rows of the others are no faces and are not read
MIDDLE = 5.0  # of the ratings from 1 to 9
COLUMNS = ("Participant_id", "Trial", "Valence", "Arousal")


@CORPORA.register("deap")
class Deap(FaceCorpus):
    name = "deap"
    title = "DEAP, face videos"
    fps = 50.0
    licence = "https://www.eecs.qmul.ac.uk/mmv/datasets/deap (Queen Mary University of London)"
    layout = "face_video/s01/s01_trial01.avi + metadata_csv/participant_ratings.csv"
    kind = "sequence"
    crop = "aligned"
    class_sets = (("HVHA", "HVLA", "LVHA", "LVLA"),)

    def read(self, raw: Path, folders: FrameFolders, sheet: Path | None) -> Iterator[Clip]:
        path = find_list(folders, sheet, ("participant_ratings.csv",), self.title)
        videos = Media(raw)
        for n, row in table_rows(path, COLUMNS):
            clip = self._clip(f"{path.name} row {n}", row, videos)
            if clip is not None:
                yield clip

    def _clip(self, where: str, row: Mapping[str, str], videos: Media) -> Clip | None:
        who, trial = (row[name] for name in COLUMNS[:2])
        if who.isascii() and who.isdigit() and len(who) < 4 and int(who) > FILMED:
            return None
        known = all(t.isascii() and t.isdigit() and 0 < int(t[:4]) < 1000 for t in (who, trial))
        name = f"s{int(who[:4]):02d}_trial{int(trial[:4]):02d}" if known else f"{who} {trial}"
        levels = [level(row[name]) for name in COLUMNS[2:]]
        emotion = f"{levels[0]}V{levels[1]}A" if all(levels) else ""
        clip = FaceClip(
            self.name, name[:3] if known else "", name, None, None, None, self.fps, emotion, where=where,
            frames=videos.named(f"{name}.avi") if known else None,
        )  # fmt: skip
        if not known:
            return clip.refused(f"{where}: {name[:80]!r} is no participant and trial")
        return clip if emotion else clip.refused(f"{where}: valence and arousal are no numbers from 1 to 9")


def level(cell: str) -> str:
    """``H`` or ``L`` for a rating; "" for what is none."""
    try:
        rating = float(cell)
    except ValueError:
        return ""
    if not math.isfinite(rating) or not 1 <= rating <= 9:
        return ""
    return "H" if rating > MIDDLE else "L"
