"""DEAP, made up: face videos (MJPG in AVI) of a second, 50 fps, and ratings; each quadrant shows an expression.

Layout   face_video/s01/s01_trial01.avi, metadata_csv/participant_ratings.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2

from mepipe.synth.corpora.base import WRITERS, ClipPlan
from mepipe.synth.corpora.faces import FaceWriter
from mepipe.synth.identity import Camera
from mepipe.synth.seeds import stream
from mepipe.workspace import atomic_file

if TYPE_CHECKING:
    from mepipe.synth.render import SyntheticClip

SHOWN = {"HVHA": "surprise", "HVLA": "happiness", "LVHA": "anger", "LVLA": "sadness"}  # what a quadrant looks like here
HEADER = "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"


class Deap(FaceWriter):
    name = "deap"
    camera = Camera(size=(240, 200), scale=(1.05, 1.2))
    words = tuple(SHOWN)
    fps = 50
    length = 20
    subjects, clips = 6, 8

    def plan(self, seed: int, subject: int, clip: int) -> ClipPlan:
        rng = stream(seed, self.name, subject, clip, "plan")
        word = self.words[(clip + subject) % len(self.words)]
        return self.face(seed, subject, clip, word, rng, expression=SHOWN[word])

    def person(self, subject: int) -> str:
        return f"s{subject + 1:02d}"

    def clip_name(self, subject: int, clip: int, word: str) -> str:
        return f"{self.person(subject)}_trial{clip + 1:02d}"

    def folder(self, who: str, what: str, emotion: str) -> PurePosixPath:
        return PurePosixPath("face_video", who, f"{what}.avi")

    def draw(self, clip: SyntheticClip, out: Path) -> None:
        path = out / clip.plan.folder
        with atomic_file(path) as temp:
            video = temp.with_suffix(".avi")  # OpenCV chooses the container by the name
            writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), self.fps, self.camera.size)
            for number in clip.numbers:
                writer.write(clip.frame(number))
            writer.release()
            video.replace(temp)

    def write_annotations(self, out: Path, clips: Sequence[SyntheticClip]) -> None:
        rows = [HEADER]
        for clip in clips:
            plan = clip.plan
            rng = stream(plan.seed, self.name, plan.subject_index, plan.clip_index, "ratings")
            valence, arousal = (rng.uniform(5.5, 9) if plan.emotion[i] == "H" else rng.uniform(1, 4.9) for i in (0, 2))
            rows.append(f"{plan.subject_index + 1},{plan.clip_index + 1},1,0,{valence:.2f},{arousal:.2f},5,5,3")
        with atomic_file(out / "metadata_csv" / "participant_ratings.csv") as temp:
            temp.write_text("\n".join(rows) + "\n", "ascii")


WRITERS.register(Deap.name)(Deap())
