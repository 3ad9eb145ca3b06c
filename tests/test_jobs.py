"""What is sent to Slurm and how it is told; the real engine is in tests/slurm."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time

import pytest
from tinyflow import quick, samples, write_flow

from mepipe.datasets import get_corpus
from mepipe.errors import MepipeError, UsageError
from mepipe.flow.run import flow_corpora
from mepipe.jobs import queue, send, status
from mepipe.jobs.job import DONE, FAILED, RUNNING, WAITING, Job, job_folder
from mepipe.jobs.queue import Entry
from mepipe.jobs.submit import minutes
from mepipe.jobs.task import THREADS, Task
from mepipe.jobs.tasks import SILENT, _judged
from mepipe.prepare import prepare_corpus
from mepipe.settings import ClusterConfig, FlowConfig, PrepareConfig, TrainConfig
from mepipe.workspace import Workspace
from mepipe_model.train import train_run


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_flow(workspace, samples("casme2", ["sub01", "sub02", "sub03"]))
    return workspace


def job_of(ws: Workspace, **changes) -> Job:
    facts = {"command": "train", "arguments": [], "settings": {}, "tasks": 2, "mark": "m", **changes}
    job = Job(job_folder(ws, "train-x"), **facts)
    job.save()
    return job


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("90", 90), ("90:30", 91), ("4:00:00", 240), ("1-12", 36 * 60), ("1-12:30", 36 * 60 + 30), ("2-0:0:1", 2881)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, expected):
    assert minutes(limit) == expected


@pytest.mark.parametrize("limit", ["", "4h", "1:2:3:4", "-1", "0", "1-"])
def test_what_is_no_time_limit_is_told(limit):
    with pytest.raises(UsageError, match="--time is"):
        minutes(limit)


@pytest.mark.parametrize(
    ("said", "entry", "answered", "expected"),
    [
        ({"state": DONE}, Entry("RUNNING"), True, (DONE, "")),
        ({}, Entry("PENDING", "Resources"), True, (WAITING, "Resources")),
        ({"state": RUNNING}, Entry("RUNNING", "None", "one"), True, (RUNNING, "")),
        ({"state": FAILED, "reason": "no face"}, Entry("FAILED"), True, (FAILED, "no face")),
        ({"state": FAILED, "reason": "before"}, Entry("PENDING", "BeginTime"), True, (WAITING, "BeginTime")),
        ({"state": RUNNING}, Entry("OUT_OF_MEMORY"), True, (FAILED, f"OUT_OF_MEMORY: {SILENT}")),
        ({}, Entry("CANCELLED"), True, (FAILED, "cancelled before it began")),
        ({"state": RUNNING}, Entry("CANCELLED"), True, (FAILED, f"CANCELLED: {SILENT}")),
        ({"state": RUNNING}, None, True, (FAILED, f"gone: {SILENT}")),
        ({"state": RUNNING}, None, False, (RUNNING, "")),
    ],
)
def test_what_a_task_said_and_what_slurm_says_make_one_state(said, entry, answered, expected):
    assert _judged(said, "12_0", entry, answered=answered) == expected


def test_a_task_that_was_never_submitted_says_so():
    assert _judged({}, "", None, answered=True) == (WAITING, "not submitted")


def test_a_dry_run_prints_the_script_that_would_be_sent_and_sends_nothing(ws):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    cluster = ClusterConfig(
        tasks=2, partition="gpu", account="lab", constraint="a100", qos="long", mem="16G", time="2-0", gpus_per_task=1,
        cpus_per_task=8, parallel=1, setup=("module load cuda",), grace=120,
    )  # fmt: skip
    sent = send(ws, "train", [], quick(device="auto", dry_run=True), cluster)
    (script,) = sent.scripts
    for line in (
        "--array=0-1%1", "--partition=gpu", "--account=lab", "--constraint=a100", "--qos=long", "--mem=16G",
        "--time=2880", "--gpus-per-node=1", "--cpus-per-task=8", "--signal=USR2@120", "--requeue",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert "export OMP_NUM_THREADS=1\n" in script
    assert not ws.jobs.exists()
    assert not ws.runs.exists()


def test_what_is_at_work_is_not_sent_again_and_keeps_what_slurm_was_asked_for(ws, monkeypatch):
    """Nor by a dry run, which tells what the command would send: nothing here."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    monkeypatch.setattr("mepipe.jobs.submit._array", lambda job, numbers, cluster: [f"7_{n - 1}" for n in numbers])
    sent = send(ws, "train", [], quick(device="auto"), ClusterConfig(tasks=3))
    assert sent.submitted == 3
    monkeypatch.setattr("mepipe.jobs.tasks.ask", lambda jobs: dict.fromkeys(jobs, Entry("PENDING", "PartitionConfig")))
    again = send(ws, "train", [], quick(device="auto"), ClusterConfig(tasks=3, mem="16G"))
    assert again.submitted == 0
    assert "3 tasks: 0 done, 3 at work, 0 submitted" in again.text[0]
    assert again.text[1].split() == ["waiting", "PartitionConfig", "(Slurm's", "words)"]
    assert "scancel 7" in again.text[2]
    dry = send(ws, "train", [], quick(device="auto", dry_run=True), ClusterConfig(tasks=3))
    assert "0 done, 3 at work, 0 to be submitted" in dry.text[0]
    assert not dry.scripts


def test_a_refused_submission_leaves_nothing(ws, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with pytest.raises(MepipeError, match="invalid partition"):
        send(ws, "train", [], quick(device="auto"), ClusterConfig())
    assert not list(ws.jobs.iterdir())
    assert status(ws).lines() == ["nothing was sent from this workspace, and nothing is at work in it"]


def test_options_of_slurm_are_for_slurm(ws, run_mepipe):
    """Forgetting --executor on a login node would start the work there."""
    done = run_mepipe("-w", ws.root, "train", "--partition", "gpu", "--cpus-per-task", "8")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --partition, --cpus-per-task: only for --executor slurm; add it, or")


@pytest.mark.parametrize(
    ("command", "config", "cluster", "says"),
    [
        ("train", quick(device="cuda"), {}, "the tasks get no GPU; add --gpus-per-task 1"),
        ("train", quick(shard="1/2"), {}, "--shard goes with --executor local"),
        ("train", quick(), {"time": "1", "grace": 60}, "--grace is 60 s and --time 1"),
        ("train", quick(), {"grace": 12}, "--grace is 12 s; give more"),
        ("flow", FlowConfig(preview=1), {}, "--preview goes with"),
        ("prepare", PrepareConfig(strict=True), {}, "--strict goes with"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(ws, command, config, cluster, says):
    with pytest.raises(UsageError, match=says):
        send(ws, command, ["casme2", "raw"] if command == "prepare" else [], config, ClusterConfig(**cluster))
    assert not ws.jobs.exists()


def test_faces_are_prepared_as_a_whole_and_what_means_nothing_to_clips_is_told(ws):
    for corpus, config, says in (
        ("rafdb", PrepareConfig(), "--executor slurm: rafdb is prepared as a whole, on one machine; leave"),
        ("casme2", PrepareConfig(crop="as-is"), "--crop goes with corpora of labelled faces"),
    ):
        with pytest.raises(UsageError, match=says):
            send(ws, "prepare", [corpus, "raw"], config, ClusterConfig())
    assert not ws.jobs.exists()


def test_where_there_is_no_slurm_that_is_the_error(ws, monkeypatch):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MepipeError, match="sbatch is not on the PATH; send from a login node"):
        send(ws, "train", [], quick(), ClusterConfig())


@pytest.mark.slow
def test_where_all_folds_are_there_nothing_is_sent_and_the_scores_are_told(ws):
    from mepipe_model.train import train_run

    outcome = train_run(ws, quick(device="auto"))
    sent = send(ws, "train", [], quick(device="auto"), ClusterConfig())
    assert (sent.submitted, sent.job) == (0, f"train-{outcome.folder.name}")
    assert any("UF1" in line for line in sent.lines()), "the run of the same command on this machine"


# --- the task --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_task_does_its_folds_within_its_threads_and_says_so(ws, monkeypatch):
    config = quick(run="mine", force=True)
    job = job_of(ws, settings=config.as_dict(), threads=3)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    before = signal.getsignal(signal.SIGTERM)
    try:
        Task(str(job.folder), 2)()
    finally:
        signal.signal(signal.SIGTERM, before)
    said = job.state(2)
    assert (said["state"], said["attempt"], said["job"]) == (DONE, 1, "12")
    assert [p.name for p in (ws.runs / "mine/folds").iterdir()] == ["casme2_sub02"]
    assert "part 2/2 is done" in job.log(2).read_text()
    assert set(THREADS) >= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('error: no room on the disk', flush=True); raise SystemExit(1)", "no room on the disk"),
        ("import os; os.kill(os.getpid(), 9)", "its process died (SIGKILL: out of memory, see --mem)"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_why_a_task_failed_is_in_its_state(ws, tmp_path, monkeypatch, program, reason):
    job = job_of(ws)
    replace_python(tmp_path, monkeypatch, program)
    job.log(1).parent.mkdir()
    job.log(1).write_text("error: of an attempt before\n")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(RuntimeError) as e:
            Task(str(job.folder), 1)()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert str(e.value) == job.state(1)["reason"] == reason


@pytest.mark.parametrize(
    ("state", "accepts", "says"),
    [
        ("RUNNING", True, (WAITING, "made way for another job and is queued again")),
        ("RUNNING", False, (FAILED, "ended by Slurm (scancel or preemption); its work is kept")),
        ("CANCELLED", True, (FAILED, "ended by Slurm (scancel or preemption); its work is kept")),
    ],
)
def test_a_task_that_must_end_asks_to_be_queued_again_unless_it_was_cancelled(
    ws, tmp_path, monkeypatch, state, accepts, says
):
    """Slurm does not queue a task again that ends by itself within a partition's GraceTime."""
    asked = tmp_path / "asked"
    answers = {"squeue": f"echo '7_2|{state}|None|node'", "scontrol": f'echo "$@" >{asked}; exit {int(not accepts)}'}
    for name, line in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    job = job_of(ws)
    with pytest.raises(SystemExit):
        Task(str(job.folder), 2)._terminated()
    said = job.state(2)
    assert (said["state"], said["reason"]) == says
    assert asked.is_file() == (state == "RUNNING")
    assert state != "RUNNING" or asked.read_text() == "requeue 7_2\n"


def replace_python(tmp_path, monkeypatch, program):
    """The process of the work is ``program`` instead."""
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\n{program}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("mepipe.jobs.task.sys.executable", str(fake))


def test_the_process_of_the_work_does_not_hear_slurms_signals_and_ends_by_the_stop_file(ws, tmp_path, monkeypatch):
    job = job_of(ws, grace=20)
    program = (
        "import os, signal, sys, time\n"
        "deaf = [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGTERM, signal.SIGUSR2)]\n"
        "print(deaf, os.environ['CUDA_VISIBLE_DEVICES'] == '', flush=True)\n"
        "while not os.path.exists(os.environ['MEPIPE_STOP_FILE']): time.sleep(0.05)\n"
        "sys.exit(75)"
    )
    replace_python(tmp_path, monkeypatch, program)
    task = Task(str(job.folder), 1)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR2, lambda *_: (task.checkpoint(), os._exit(5)))
        os.environ.pop("SLURM_JOB_ID", None)
        try:
            task()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (job.log(1).is_file() and job.log(1).read_text()):
        time.sleep(0.05)
    os.kill(pid, signal.SIGUSR2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert job.log(1).read_text() == "[True, True] True\n"
    assert job.state(1)["state"] == WAITING


# --- status ----------------------------------------------------------------------------------------


def test_status_tells_each_task_with_reason_and_log_and_who_is_at_work(ws, monkeypatch, run_mepipe):
    job = job_of(ws, tasks=4, sent={"1": "7_0", "2": "7_1", "3": "7_2", "4": "7_3"})
    job.say(1, DONE, attempt=1, seconds=3.0)
    job.say(2, FAILED, attempt=2, reason="no room on the disk")
    answer = {"7_2": Entry("PENDING", "Priority"), "7_3": Entry("RUNNING", "None", "node9")}
    monkeypatch.setattr("mepipe.jobs.tasks.ask", lambda jobs: answer)
    with ws.lock("flow"):
        found = status(ws)
    text = "\n".join(found.lines())
    assert "train-x: 4 tasks: 1 waiting, 1 running, 1 done, 1 failed" in text
    assert "failed   task 2 (job 7_1, attempt 2)  no room on the disk" in text
    assert str(job.log(2)) not in text, "there is none"
    job.log(2).parent.mkdir()
    job.log(2).touch()
    assert f"no room on the disk  {job.log(2)}" in "\n".join(status(ws).lines())
    assert "running  task 4 (job 7_3, on node9)" in text
    assert "waiting  task 3 (job 7_2)  Priority" in text
    assert "flow: at work on" in text
    shown = json.loads(json.dumps(found.as_dict()))
    assert [t["state"] for t in shown["jobs"][0]["tasks"]] == [DONE, FAILED, WAITING, RUNNING]
    done = run_mepipe("-w", ws.root, "status", "--json", env={**os.environ, "PATH": ""})
    assert json.loads(done.stdout)["slurm"] is False


def test_a_damaged_job_is_named(ws, run_mepipe):
    job_of(ws)
    (ws.jobs / "train-x/job.json").write_text("{")
    done = run_mepipe("-w", ws.root, "status")
    assert done.returncode == 1
    assert "job.json cannot be read" in done.stderr


def test_squeue_is_read_and_a_missing_one_is_no_answer(monkeypatch):
    lines = "7_0|RUNNING|None|one\n7_1|PENDING|Priority|\n9|FAILED|NonZeroExitCode|two\n"
    monkeypatch.setattr(queue, "_run", lambda *command: lines if command[0] == "squeue" else None)
    assert queue.ask(["7_0", "9", "8"]) == {
        "7_0": Entry("RUNNING", "None", "one"),
        "9": Entry("FAILED", "NonZeroExitCode", "two"),
    }
    monkeypatch.setattr(queue, "_run", lambda *command: None)
    assert queue.ask(["7_0"]) is None
    assert queue.array_limit() == 1000


@pytest.mark.parametrize("command", ["prepare", "flow", "train"])
def test_what_works_here_is_not_asked_to_send(command, tmp_path):
    ws, corpus = Workspace(tmp_path), get_corpus("casme2")
    calls = {
        "prepare": lambda: prepare_corpus(ws, corpus, tmp_path, PrepareConfig(executor="slurm")),
        "flow": lambda: flow_corpora(ws, [], FlowConfig(executor="slurm")),
        "train": lambda: train_run(ws, TrainConfig(executor="slurm")),
    }
    with pytest.raises(UsageError, match=r"works on this machine") as e:
        calls[command]()
    assert f"mepipe.jobs.send(workspace, '{command}'" in e.value.do
