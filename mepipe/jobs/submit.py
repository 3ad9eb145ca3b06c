"""Sending what is missing of a command to Slurm, through submitit (extra ``slurm``), as arrays of tasks."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mepipe.errors import MepipeError, UsageError
from mepipe.jobs.job import DONE, FAILED, WAITING, Job, job_folder
from mepipe.jobs.queue import array_limit
from mepipe.jobs.task import MARGIN, Task, thread_limits
from mepipe.jobs.tasks import TaskStatus, statuses
from mepipe.jobs.works import Work, work_of
from mepipe.settings import ClusterConfig
from mepipe.workspace import Workspace, make_folder

LOOK = (1.0, 30.0)  # seconds between two looks of --wait: the first, and the longest
Say = Callable[[str], None]


@dataclass
class Sent:
    """What ``send`` did: tasks submitted, under which Slurm ids; text for people; the scripts of a dry run."""

    job: str
    tasks: int
    submitted: int
    ids: list[str]
    text: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    failed: list[TaskStatus] = field(default_factory=list)

    def lines(self) -> list[str]:
        return self.text

    def as_dict(self) -> dict[str, Any]:
        failed = [t.as_dict() for t in self.failed]
        return {
            "job": self.job, "tasks": self.tasks, "submitted": self.submitted, "ids": self.ids,
            "scripts": self.scripts, "failed": failed, "text": self.text,
        }  # fmt: skip


def send(
    ws: Workspace,
    command: str,
    arguments: Sequence[str],
    config: Any,
    cluster: ClusterConfig | None = None,
    say: Say | None = None,
) -> Sent:
    """Send what is missing of ``mepipe command arguments`` to Slurm; where nothing is, put the results together.

    Parameters
    ----------
    ws
        On a folder that the nodes see under the same path.
    command
        "prepare", "flow" or "train".
    arguments
        Its words: corpus and RAW, corpora, none.
    config
        Its settings: PrepareConfig, FlowConfig or TrainConfig.
    cluster
        What Slurm is asked for; None is all defaults.
    say
        say(line) tells how tasks fare while ``cluster.wait`` waits for them.

    Returns
    -------
    Sent
        What was submitted, or why nothing was.

    Raises
    ------
    UsageError, DataError
        As the command itself raises them.
    MepipeError
        submitit or Slurm is not there, or refuses.
    """
    cluster = cluster or ClusterConfig()
    check(cluster)
    work = work_of(ws, command, arguments, replace(config, dry_run=False), cluster)
    job = _job(ws, work, cluster)
    known = _known(ws, job, work, forget=not config.dry_run)
    if config.force and not any(t.alive for t in known):
        if not config.dry_run:
            job.forget()
        known = []
    done = work.done({t.number for t in known if t.state == DONE}) if not config.force else set()
    alive = [t for t in known if t.alive]
    missing = [n for n in range(1, job.tasks + 1) if n not in done | {t.number for t in alive}]
    counted = f"{job.name}: {job.tasks} tasks: {len(done)} done, {len(alive)} at work, {len(missing)}"
    if config.dry_run:
        return _planned(job, missing, f"{counted} to be submitted", cluster)
    ids = _submit(job, missing, cluster) if missing else []
    sent = Sent(job.name, job.tasks, len(missing), ids)
    sent.text = [f"{counted} submitted", *_of_those_alive(alive)]
    sent.text += [f"  Slurm       {', '.join(ids)}"] if ids else []
    if cluster.wait and (missing or alive):
        sent.failed = wait_for(job, say)
        done = work.done({n for n in range(1, job.tasks + 1) if job.state(n).get("state") == DONE})
    if len(done) == job.tasks:
        sent.text += work.finish()
    elif not cluster.wait:
        sent.text.append("  mepipe status tells how they fare; the same command again runs what is missing")
    return sent


def _of_those_alive(alive: Sequence[TaskStatus]) -> list[str]:
    """That tasks sent before keep what was asked for them then, and why some wait."""
    if not alive:
        return []
    ids = sorted({t.slurm.split("_")[0] for t in alive})
    why = sorted({t.reason for t in alive if t.state == WAITING and t.reason})
    lines = [f"  waiting     {', '.join(why)} (Slurm's words)"] if why else []
    return [*lines, f"  at work     with the Slurm options of then; for others: scancel {' '.join(ids)}, and again"]


def check(cluster: ClusterConfig) -> None:
    """Raises UsageError for a time limit that is none, or shorter than its grace."""
    limit = minutes(cluster.time) * 60
    if cluster.grace >= limit:
        raise UsageError(f"--grace is {cluster.grace} s and --time {cluster.time}", do="leave time for the work")
    if cluster.grace <= MARGIN:
        raise UsageError(f"--grace is {cluster.grace} s", do=f"give more than {MARGIN}, which queueing again takes")


def minutes(limit: str) -> int:
    """A time limit as Slurm writes it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in whole minutes. Raises UsageError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit, re.ASCII)
    if not found:
        raise UsageError(f"--time is {limit!r}", do="write minutes, H:M:S, or D-H, for example 4:00:00")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    hours, mins, seconds = ([*parts, 0, 0] if days or len(parts) == 3 else [0, *parts, 0])[:3]
    total = (int(days or 0) * 24 + hours) * 60 + mins + (seconds > 0)
    if total < 1:
        raise UsageError(f"--time is {limit!r}", do="give a minute at least")
    return total


def _job(ws: Workspace, work: Work, cluster: ClusterConfig) -> Job:
    return Job(
        job_folder(ws, work.name), work.command, work.arguments, work.settings, work.tasks, work.mark, work.threads,
        cluster.grace, cluster.gpus_per_task,
    )  # fmt: skip


def _known(ws: Workspace, job: Job, work: Work, *, forget: bool) -> list[TaskStatus]:
    """How the tasks of this work fare that were sent before. Raises MepipeError while other work has its name.

    forget: what ended work of that name has left.
    """
    if not (job.folder / "job.json").is_file():
        return []
    old = Job.load(job.folder)
    known = statuses(old)
    if old.mark == job.mark:
        job.sent = old.sent
        return known
    if alive := [t for t in known if t.alive]:
        ids = sorted({t.slurm.split("_")[0] for t in alive if t.slurm})
        raise MepipeError(
            f"{job.name} is at work with other settings or data ({len(alive)} tasks of Slurm job {', '.join(ids)})",
            do=f"wait for it, or scancel {' '.join(ids)}",
        )
    if forget:
        old.forget()
    return []


def _submit(job: Job, missing: Sequence[int], cluster: ClusterConfig) -> list[str]:
    """Submit ``missing``, in arrays as long as the cluster takes. Returns Slurm's ids."""
    new = not job.folder.exists()
    make_folder(job.folder / "tasks")
    job.save()  # a task may begin before we are told its id
    limit, ids = array_limit(), []
    for start in range(0, len(missing), limit):
        numbers = missing[start : start + limit]
        try:
            taken = _array(job, numbers, cluster)
        except MepipeError:
            if new and not job.sent:  # then there is no job, and nothing for status to tell
                shutil.rmtree(job.folder)
            raise
        for number, slurm in zip(numbers, taken, strict=True):
            job.sent[str(number)] = slurm
        ids.append(job.sent[str(numbers[0])].split("_")[0])
        job.save()
    return ids


def _array(job: Job, numbers: Sequence[int], cluster: ClusterConfig) -> list[str]:
    executor = _executor(job, cluster)
    if shutil.which("sbatch") is None:
        raise MepipeError("sbatch is not on the PATH", do="send from a login node of the cluster")
    before = set(job.folder.glob("slurm/*"))
    try:
        jobs = executor.submit_array([Task(str(job.folder), n) for n in numbers])
    except Exception as e:  # submitit passes on what sbatch says, in exceptions of many kinds
        told = [line for line in str(e).splitlines() if "error" in line.lower()]
        for left in set(job.folder.glob("slurm/*")) - before:
            left.unlink()
        do = "correct the options of --executor slurm, or send from where Slurm answers"
        raise MepipeError(f"Slurm does not take the tasks: {(told or [str(e)])[-1].strip()}", do=do) from e
    return [j.job_id for j in jobs]


def _executor(job: Job, cluster: ClusterConfig) -> Any:
    """submitit's, with what ``cluster`` asks for. Raises MepipeError where submitit is absent."""
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError as e:
        raise MepipeError("--executor slurm needs submitit", do="pip install 'mepipe[slurm]'") from e

    class Executor(SlurmExecutor):
        """Made also where there is no Slurm, for a dry run; sbatch itself says so otherwise."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    executor = Executor(make_free(job), max_num_timeout=cluster.requeues)
    asked = {name: getattr(cluster, name) for name in ("partition", "account", "qos", "constraint", "mem")}
    executor.update_parameters(
        job_name=f"mepipe-{job.name}",
        time=minutes(cluster.time),
        cpus_per_task=cluster.cpus_per_task,
        signal_delay_s=cluster.grace,
        array_parallelism=cluster.parallel or job.tasks,
        # since Slurm 22.05 srun does not take over what sbatch was given
        srun_args=[f"--cpus-per-task={cluster.cpus_per_task}"],
        setup=[*(f"export {k}={v}" for k, v in thread_limits(job.threads).items()), *cluster.setup],
        additional_parameters={"requeue": True},
        **{name: value for name, value in asked.items() if value is not None},
        **({"gpus_per_node": cluster.gpus_per_task} if cluster.gpus_per_task else {}),
    )
    return executor


def make_free(job: Job) -> str:
    """Submitit's folder for the job; % would be a pattern for Slurm's file names."""
    return str(job.folder / "slurm").replace("%", "%%")


def _planned(job: Job, missing: Sequence[int], counted: str, cluster: ClusterConfig) -> Sent:
    """What would be sent: the sbatch scripts of the missing tasks."""
    executor = _executor(job, cluster)
    limit = array_limit()
    scripts = []
    for start in range(0, len(missing), limit):
        if (count := min(limit, len(missing) - start)) > 1:
            executor.parameters["map_count"] = count
        else:
            executor.parameters.pop("map_count", None)
        scripts.append(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))
    head = [f"# {counted}", f"# each is mepipe {job.command} --shard I/{job.tasks}"]
    return Sent(job.name, job.tasks, 0, [], [*head, *scripts], scripts)


def wait_for(job: Job, say: Say | None = None) -> list[TaskStatus]:
    """Wait until no task of ``job`` waits or runs. Returns those that failed."""
    pause, last = LOOK[0], ""
    while True:
        known = statuses(job)
        told = ", ".join(f"{n} {s}" for s in ("waiting", "running", DONE, FAILED)
                         if (n := sum(t.state == s for t in known)))  # fmt: skip
        if say and told != last:
            say(f"{job.name}: {told}")
        last = told
        if not any(t.alive for t in known):
            return [t for t in known if t.state == FAILED]
        time.sleep(pause)
        pause = min(pause * 1.2, LOOK[1])
