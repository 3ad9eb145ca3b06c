"""The documentation holds: its site builds without a warning, its links lead somewhere, its commands and Python run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mepipe.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STARTING = ROOT / "docs/getting-started.md"
NOTEBOOK = ROOT / "docs/notebooks/quickstart.ipynb"

# Run on the made-up corpus of the getting-started page, after its own commands, in this order.  RUN and INPUT stand for
# the run that those trained and the first clip's frames.
RUN = (
    "mepipe verify casme2 ./raw",
    "mepipe prepare casme2 ./raw",
    "mepipe --log-file night.log flow",
    "mepipe -vv shards ls",
    "mepipe shards verify --json",
    "mepipe datasets --json",
    "mepipe models --json",
    "mepipe predict RUN path/to/frames_or_video",
    "mepipe report casme2",
    "mepipe config init",
    "mepipe config show",
    "mepipe status",
    "mepipe config show train --model merba_tiny",
    "mepipe --config night.toml train --dry-run",
)

# Parsed by the real parser and not run here, each with the reason.
PARSED = {
    "mepipe verify rafdb ./raf": "test_face_corpora.py",
    "mepipe prepare rafdb ./raf": "test_facesets.py",
    "mepipe train --data rafdb --model MODEL": "test_facesets.py",
    "mepipe predict RUN face.jpg": "test_facesets.py",
    "mepipe faces casme2": "test_facesets.py",
    "mepipe faces casme2 --kind sequence": "test_facesets.py",
    "mepipe demo": "minutes; its steps are those of the getting-started page, and test_synth.py runs make_corpus",
    "mepipe flow": "as --log-file night.log flow, which is run",
    "mepipe -v flow": "as --log-file night.log flow, which is run; test_logs.py",
    "mepipe report RUN": "train has written this page by the same function; test_report.py",
    "mepipe train --protocol loso": "99.8 million parameters; test_merba.py trains them for a step",
    "mepipe train --protocol loso --model merba_tiny": "40 epochs; the getting-started page's 3 epochs are run",
    "mepipe train --protocol loso --model merba_tiny --logger tensorboard": "test_loggers.py",
    "mepipe train --protocol loso --model merba_tiny --seeds 0 1 2": "test_seeds.py",
    "mepipe train --seeds 0 1 2": "test_seeds.py",
    "mepipe train --protocol loso --data 3db": "the composite: test_train_3db.py",
    "mepipe train --protocol loso --data 3db --dry-run": "the composite: test_train_3db.py",
    "mepipe prepare samm RAW": "test_prepare.py",
    "mepipe prepare casme2 ./raw --executor slurm --tasks 32 --cpus-per-task 8 --time 2:00:00": "needs Slurm: "
    "tests/slurm",
    "mepipe prepare casme2 ./raw --executor slurm --cpus-per-task 8 --time 2:00:00 --wait": "needs Slurm: tests/slurm",
    "mepipe train --protocol holdout --data dfme --ddp 4": "licensed data and GPUs: test_together.py",
    "mepipe flow --executor slurm --cpus-per-task 8 --time 1:00:00": "needs Slurm: tests/slurm",
    "mepipe flow --executor slurm --cpus-per-task 8 --time 1:00:00 --wait": "needs Slurm: tests/slurm",
    "mepipe train --protocol loso --executor slurm --gpus-per-task 1 --time 4:00:00 --partition gpu": "needs Slurm: "
    "tests/slurm",
    "mepipe train --protocol loso --executor slurm --gpus-per-task 1 --partition gpu": "needs Slurm: tests/slurm",
    "mepipe prepare smic-hs RAW": "test_prepare.py",
    "mepipe prepare casme2 RAW": "test_prepare.py",
    "mepipe prepare casme2 ./raw --frames around": "test_prepare.py",
    "mepipe flow --preset micro --average 1": "test_flow_preset.py, test_flow_run.py",
    "mepipe apex evaluate casme2 raw/casme2": "all methods take minutes: test_apex.py",
    "mepipe apex evaluate samm raw/samm --method residual --method upc --limit 40 --json": "test_apex.py",
    "mepipe synth casme2 raw/casme2": "134 MB: test_synth.py",
    "mepipe synth samm raw/samm --subjects 3 --clips 4 --seed 7": "test_synth.py",
    "mepipe reproduce table5": "test_reproduce.py",
    "mepipe compare --data 3db merba fermam ms_vssm": "test_compare.py",
    "mepipe evaluate RUN_OR_PREDICTIONS_CSV...": "test_pooling.py",
    "mepipe evaluate RUN --against OTHER": "test_statistics.py",
    "mepipe export RUN --format onnx": "test_export.py",
    "mepipe predict RUN clips/a clips/b.mp4 --csv answers.csv --page answers.html": "test_predict.py",
    "mepipe predict RUN --onset neutral.png --apex strongest.png": "test_predict.py",
    "mepipe predict RUN --onset a.png --apex b.png": "test_predict.py",
    "mepipe report RUN --saliency integrated": "test_report_saliency.py",
    "mepipe spot long.mp4 --run RUN": "a video of a minute: test_spot.py",
    "mepipe spot long.avi": "a video of a minute: test_spot.py",
    "mepipe spot long.avi --run RUN --truth known.csv": "a video of a minute: test_spot.py",
    "mepipe synth-video long.avi --seconds 60 --seed 4": "a video of a minute: test_spot.py",
    "mepipe -w real shards import maps.npz --channels u,v,strain": "test_import.py",
    "mepipe -w real train --data 3db --model ststnet --select oracle --epochs 40 --batch-size 32 --lr 5e-4 "
    "--order shuffled": "minutes on licensed data: test_train_3db.py",
}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of ``languages``; "" is a block that names none."""
    found = re.findall(r"^```([\w-]*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[str]:
    """The command lines of a page's blocks, comments off, lines that go on joined."""
    lines = "\n".join(blocks(page, "", "bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"\s#|; ", line)[: None if ";" in line else 1]]
    return [" ".join(p.split()) for p in parts if re.match(r"(mepipe [^.]|make |pip |python )", p)]


def all_commands(program: str) -> dict[str, str]:
    """Command line -> the first page that has it."""
    found = {c: str(p.relative_to(ROOT)) for p in reversed(PAGES) for c in commands(p)}
    return {c: p for c, p in found.items() if c.startswith(program + " ")}


def leaf(words: list[str]) -> tuple[click.Context, click.Command, list[str]]:
    """The command that ``words`` mean, the context of its group, and what is left for it."""
    context: click.Context = cli.make_context("mepipe", list(words))
    command: click.Command = cli
    while isinstance(command, click.Group):
        _, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert below is not None
        if isinstance(below, click.Group):
            context = below.make_context(below.name, rest, parent=context)
        command = below
    return context, command, rest


@pytest.mark.parametrize("line", sorted(all_commands("mepipe")))
def test_every_command_of_the_docs_is_one_that_the_parser_takes(line):
    words = [w.removesuffix("...") for w in shlex.split(line)[1:]]
    context, command, rest = leaf(words)
    command.make_context(command.name, rest, parent=context)


def test_every_command_of_the_docs_is_run_or_named_with_the_reason_why_not():
    accounted = {*RUN, *PARSED, *commands(STARTING)}
    lines = all_commands("mepipe")
    assert {c: p for c, p in lines.items() if c not in accounted} == {}
    assert {c for c in (*RUN, *PARSED) if c not in lines} == set(), "no page has these any more"
    for reason in PARSED.values():
        for name in re.findall(r"test_\w+\.py", reason):
            assert (ROOT / "tests" / name).is_file(), reason


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_stands_in_the_text_names_commands_and_options_that_are_there(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`mepipe ((?:[a-z]+ )*[^`]*)`", text):
        words, command = line.replace("\n", " ").split(), cli
        options = {o for p in cli.params for o in p.opts}
        for word in words:
            if isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
                assert word in command.commands, line
                command = command.commands[word]
            elif word.startswith("--") and command is not cli:
                name = word.strip("[]")
                assert name in options | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}, line


def test_other_programs_are_called_as_they_can_be():
    """Make has the targets, the extras exist, the benchmarks are there."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2], re.M)
    text = "\n".join(p.read_text("utf-8") for p in PAGES)
    for name in re.findall(r"\bmake ([a-z]+)(?=`|  |\n)", text):
        assert name in targets, name
    for names in re.findall(r"pip install (?:-e )?'(?:mepipe|\.)\[([\w,]+)\]'", text):
        assert set(names.split(",")) <= set(extras), names
    for name in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.slow
def test_the_commands_run_as_the_pages_write_them(tmp_path, monkeypatch, run_mepipe):
    """The getting-started page from an empty folder, then RUN, by the real command line, most of it in this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night.toml").write_text("[train]\nmodel = 'merba_tiny'\n")
    steps = [c for c in commands(STARTING) if c.startswith("mepipe ") and c not in PARSED]
    for line in (*steps, *RUN):
        runs = sorted(p.parent.name for p in tmp_path.glob("mepipe-work/runs/*/config.json"))
        frames = next(iter(tmp_path.glob("raw/CASME2_RAW_selected/*/*")), tmp_path)
        stands_for = {"RUN": runs[0] if runs else "", "path/to/frames_or_video": str(frames)}
        words = [stands_for.get(w, w) for w in shlex.split(line)[1:]]
        if "flow" in words:  # it forks, which this process with its threads cannot
            flow = run_mepipe(*words)
            assert flow.returncode == 0, (line, flow.stderr)
        else:
            done = CliRunner().invoke(cli, words)
            assert done.exit_code == 0, (line, done.output, done.exception)
    for written in ("night.log", "mepipe.toml", "mepipe-work/flow/casme2-00000.h5"):
        assert (tmp_path / written).is_file()


# --- Python ----------------------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    return [(f"{p.relative_to(ROOT)}-{n}", text) for p in PAGES for n, text in enumerate(blocks(p, "python"))]


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in snippets()])
def test_what_python_of_the_docs_imports_is_there(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mepipe"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module}.{name.name}"


def test_the_model_and_the_logger_of_the_docs_train(tmp_path, capsys):
    """extending.md, pasted into a script of its own."""
    model, logger = (b for b in blocks(ROOT / "docs/extending.md", "python"))
    script = tmp_path / "script.py"
    script.write_text(
        f"{model}\n{logger}\n"
        "from tinyflow import quick, samples, write_flow\n"
        "from mepipe.workspace import Workspace\n"
        "from mepipe_model import create_model\n"
        "from mepipe_model.models import model_info\n"
        "from mepipe_model.train import train_run\n"
        "ws = Workspace('.')\n"
        "write_flow(ws, samples('casme2', ['a', 'b']))\n"
        "assert sum(p.numel() for p in create_model('pooled').parameters()) == model_info('pooled').params\n"
        "train_run(ws, quick(model='pooled', logger=('print',)))\n"
    )
    command = [sys.executable, str(script)]
    environment = {"PYTHONPATH": str(ROOT / "tests"), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^casme2_[ab] [12]\.0 \d", done.stdout, re.MULTILINE)) == 4
    assert "casme2_b done after" in done.stdout


def test_the_settings_of_the_docs_are_right(tmp_path):
    from mepipe.configfile import read_settings

    file = tmp_path / "mepipe.toml"
    file.write_text(blocks(ROOT / "docs/settings.md", "toml")[0])
    assert set(read_settings(file).tables) == {"prepare", "flow", "train", "slurm"}


# --- the notebook ----------------------------------------------------------------------------------


def cells(kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def test_the_notebook_is_stored_without_outputs():
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({c["id"] for c in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
def test_the_notebook_goes_from_synth_to_a_confusion_matrix(tmp_path):
    """Its cells, one after the other, in one fresh process.

    Not in a Jupyter kernel, which would bring 37 packages and 105 MB: like a kernel's, the ``__main__`` of
    ``python -c`` is no file, so worker processes start as they do there.
    """
    check = (
        "import pathlib\n"
        "assert matrix.sum() == 6 and matrix.shape == (3, 3), matrix\n"
        "assert 0 <= uf1 <= 1 and len(plt.get_fignums()) == 2\n"
        "assert pathlib.Path('mepipe-notebook/workspace/prepared/casme2/clips.csv').is_file()\n"
    )
    code = "\n".join(["import matplotlib; matplotlib.use('agg')", *cells("code"), check])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "UF1" in done.stdout


# --- the site --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as make docs builds it: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    warnings = [
        line for line in done.stderr.splitlines() if line.startswith(("WARNING", "  - ")) and "api/" not in line
    ]
    assert done.returncode == 0, "\n".join(warnings)
    return folder


def public() -> dict[str, tuple[str, tuple[str, ...]]]:
    spec = importlib.util.spec_from_file_location("docs_hooks_pages", ROOT / "docs/hooks/pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return {"": ("", tuple(pages.NOT_CALLED)), **pages.PUBLIC}


@pytest.mark.slow
def test_every_public_name_has_its_page_and_every_page_is_whole(site):
    for module, (_, names) in list(public().items())[1:]:
        for name in names:
            page = (site / "api" / f"{module}.{name}.html").read_text()
            assert f"{module}.{name}" in page
            assert "doc-contents" in page
    assert "confusion_matrix" in (site / "notebooks/quickstart.html").read_text()
    assert (site / "notebooks/quickstart.ipynb").is_file()


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(site):
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", page.read_text())
        assert [t for t in tags if re.search(r"(src|href)=\"(https?:)?//", t)] == [], page


def test_nothing_public_is_without_a_page():
    """What a package lists in __all__ is documented, or named as a constant or a table."""
    table = public()
    everywhere = {name for _, names in table.values() for name in names}
    for module in table:
        if module:
            names = getattr(importlib.import_module(module), "__all__", ())
            lost = {n for n in names if n not in everywhere and not inspect.ismodule(getattr(sys.modules[module], n))}
            assert lost == set(), module


def functions() -> list[tuple[str, object]]:
    found = []
    for module, (_, names) in list(public().items())[1:]:
        things = [(n, getattr(importlib.import_module(module), n)) for n in names]
        found += [(f"{module}.{n}", thing) for n, thing in things if inspect.isfunction(inspect.unwrap(thing))]
    return found


@pytest.mark.parametrize(("name", "function"), [pytest.param(*f, id=f[0]) for f in functions()])
def test_public_functions_say_in_numpydoc_what_they_take_and_give(name, function):
    """A section Parameters that names every one, Returns, and full type hints."""
    function = inspect.unwrap(function)
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    hints = function.__annotations__
    assert set(signature.parameters) <= set(hints), "a parameter without a type"
    assert "return" in hints
    sections = dict(re.findall(r"^(Parameters|Returns)\n-+\n(.*?)(?=^\w+\n-+$|\Z)", text, re.MULTILINE | re.DOTALL))
    told = re.findall(r"^(?=\S)(.*)$", sections.get("Parameters", ""), re.MULTILINE)
    assert {n.strip("* ") for line in told for n in line.split(",")} == set(signature.parameters)
    assert "Returns" in sections or hints["return"] in ("None", None)


# --- messages and links ----------------------------------------------------------------------------


def test_the_messages_of_troubleshooting_are_those_of_the_program():
    """Every fixed part of a message stands in the code: a message that changes takes its row along."""
    code = "\n".join(p.read_text("utf-8") for name in ("mepipe", "mepipe_model") for p in (ROOT / name).rglob("*.py"))
    code = re.sub(r"\{[^{}]*\}", "\0", re.sub(r'"\s*\n\s*f?"', "", code))  # joined literals; what is filled in
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 25
    for message in rows:
        for part in (p.strip(" ()[]") for p in message.split("...")):
            assert not part or part in code, f"no message says {part!r}"


def test_links_from_the_readme_lead_to_files():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            assert target.startswith("http") or (ROOT / target).exists(), target
