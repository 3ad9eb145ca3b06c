"""A command sent to a cluster: what it is, how it is cut, what was submitted, and how each of its tasks fares.

WORKSPACE/jobs/<job>/job.json          command, settings, number of tasks, Slurm ids: written by who submits
                     tasks/<n>.json    how task n fares, written by that task alone
                     logs/<n>.log      all it has said, attempt after attempt
                     slurm/            submitit's scripts and pickles, which hold this folder's path and a number
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mepipe.errors import DataError
from mepipe.limits import read_json
from mepipe.workspace import Workspace, safe_name, write_json

DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"


@dataclass
class Job:
    """A command in ``tasks`` tasks, numbered from 1.

    arguments: its words (corpus, RAW); settings: of its settings class; mark: equal for the same work cut the same way;
    threads: of libraries in each process; gpus: of each task; sent: task -> Slurm id.
    """

    folder: Path
    command: str
    arguments: list[str]
    settings: dict[str, Any]
    tasks: int
    mark: str
    threads: int = 1
    grace: int = 90
    gpus: int = 0
    sent: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder.parents[1])

    def save(self) -> None:
        write_json(self.folder / "job.json", {k: v for k, v in asdict(self).items() if k != "folder"})

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Raises DataError when the file is missing or damaged."""
        path = folder / "job.json"
        try:
            return cls(folder=folder, **(read_json(path) or {}))
        except TypeError as e:
            raise DataError(f"{path} cannot be read ({e})", do="remove its folder and run the command again") from e

    def log(self, task: int) -> Path:
        return self.folder / "logs" / f"{task}.log"

    def stop_file(self, task: int) -> Path:
        return self.folder / "tasks" / f"{task}.stop"

    def state(self, task: int) -> dict[str, Any]:
        """What task ``task`` has said of itself; {} before it has begun."""
        try:
            found = read_json(self.folder / "tasks" / f"{task}.json", missing_ok=True) or {}
        except DataError:  # the task says it again
            return {}
        return found if found.get("mark") == self.mark else {}

    def say(self, task: int, state: str, **facts: Any) -> None:
        """Write how task ``task`` fares."""
        write_json(self.folder / "tasks" / f"{task}.json", {"mark": self.mark, "state": state, **facts})

    def forget(self) -> None:
        """Nothing was begun: for other work under the same name, or --force."""
        shutil.rmtree(self.folder / "tasks", ignore_errors=True)
        self.sent = {}


def job_folder(ws: Workspace, name: str) -> Path:
    return ws.jobs.absolute() / safe_name(name)


def list_jobs(ws: Workspace) -> list[Job]:
    """All jobs of a workspace, by name. Raises DataError for a damaged one."""
    return [Job.load(p.parent) for p in sorted(ws.jobs.absolute().glob("*/job.json"))]
