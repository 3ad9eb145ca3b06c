"""What ``mepipe report`` does with the names it is given: a run, two runs, a prepared corpus, or a published table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mepipe.errors import UsageError
from mepipe.merging import prepared_corpora
from mepipe.progress import Progress
from mepipe.workspace import Workspace

TABLES = ("table4", "table5", "table6", "table7")  # of the MERba paper, as mepipe reproduce knows them


def report(
    ws: Workspace, names: Sequence[str], saliency: str | None = None, progress: Progress | None = None
) -> Path:  # fmt: skip
    """Write the page of what ``names`` says and return its path. A run's name comes before a corpus's of that name.

    names: a run; two runs, for their comparison; a prepared corpus; or one of TABLES.  saliency: explain the clips of
    the run by this method first, so that its page shows where the model looks.  progress(done, total) counts clips.
    Raises UsageError for a name that is none of these, more than two names, or saliency of what is no run.
    """
    if len(names) > 2:
        raise UsageError(f"{len(names)} names: a page compares two runs", do="name one or two")
    if len(names) == 2:
        _only_runs(saliency)
        from mepipe.report.pair import report_pair

        first, second = names
        return report_pair(ws, first, second, progress)
    (name,) = names
    if is_run(ws, name):
        return _of_run(ws, name, saliency, progress)
    _only_runs(saliency)
    if name in prepared_corpora(ws, [name]):
        from mepipe.report.corpus import report_corpus

        return report_corpus(ws, name, progress)
    if name in TABLES:
        from mepipe.report.table import report_table

        return report_table(ws, name)
    raise UsageError(f"there is no run, no prepared corpus and no table {name!r} in {ws.root}", do=_known(ws))


def is_run(ws: Workspace, name: str) -> bool:
    """Whether ``name`` is a run of the workspace or a run's folder."""
    return any((folder / "config.json").is_file() for folder in (ws.runs / name, Path(name)))


def _of_run(ws: Workspace, name: str, saliency: str | None, progress: Progress | None) -> Path:
    if saliency:
        from mepipe_model.saliency import explain_run

        explain_run(ws, name, method=saliency, progress=progress)
    from mepipe.report.page import report_run

    return report_run(ws, name, progress)


def _only_runs(saliency: str | None) -> None:
    if saliency:
        raise UsageError("--saliency explains the clips of one run", do="name one run")


def _known(ws: Workspace) -> str:
    runs = sorted(p.parent.name for p in ws.runs.glob("*/config.json"))
    parts = [("runs", runs), ("prepared corpora", ws.prepared_corpora()), ("tables", TABLES)]
    return "; ".join(f"{what} here: {', '.join(names) or 'none'}" for what, names in parts)
