"""``python -m mepipe.jobs.work JOBFOLDER N [--first]``: the process that does task N of a job (see ``task``).

The last line that begins with ``error:`` is why it failed.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from mepipe.errors import MepipeError, one_line
from mepipe.executors import die_with_parent
from mepipe.jobs.job import Job

INTERRUPTED = 130


def main(args: list[str]) -> int:
    """Do the task. Returns the exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how it is stopped; a shell in between may ignore it
    try:
        job, number = Job.load(Path(args[0])), int(args[1])
        settings = {**job.settings, "shard": f"{number}/{job.tasks}"}
        # what was made anew by an attempt before this one is not made anew again
        settings["force"] = settings["force"] and "--first" in args
        _print(f"task {number} of {job.tasks} of {job.name}")
        _DO[job.command](job, {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except MepipeError as e:
        return _fail(str(e), e.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; what is finished is kept", INTERRUPTED)
    except Exception as e:
        traceback.print_exc()
        return _fail(f"internal error, {type(e).__name__}: {e}", 1)
    return 0


def _prepare(job: Job, settings: dict[str, Any]) -> None:
    from mepipe.datasets import get_corpus
    from mepipe.prepare import prepare_corpus, summary_lines
    from mepipe.settings import PrepareConfig

    corpus, raw = job.arguments
    summary = prepare_corpus(job.workspace, get_corpus(corpus), Path(raw), PrepareConfig(**settings), in_job=True)
    _print(*summary_lines(summary))


def _flow(job: Job, settings: dict[str, Any]) -> None:
    from mepipe.survive import survive

    care = survive(_print)  # from here on this is the process that works, and another waits for it
    from mepipe.flow.run import flow_corpora, summary_lines
    from mepipe.settings import FlowConfig

    summary = flow_corpora(job.workspace, job.arguments, FlowConfig(**settings), say=_print, care=care)
    if care.last:
        _print(*summary_lines(summary))
        care.tell()


def _train(job: Job, settings: dict[str, Any]) -> None:
    from mepipe.settings import TrainConfig
    from mepipe_model.plan import pick_device
    from mepipe_model.train import train_run

    pick_device("cuda" if job.gpus else "cpu")  # a node without its GPU says so, and trains nothing on its CPU
    outcome = train_run(job.workspace, TrainConfig(**settings), say=_print, in_job=True)
    _print(*outcome.lines())
    if outcome.folders:
        from mepipe.report import report_run

        _print(f"  page        {report_run(job.workspace, outcome.folder)}")


_DO = {"prepare": _prepare, "flow": _flow, "train": _train}


def _print(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def _fail(text: str, code: int) -> int:
    _print(f"error: {one_line(text)}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
