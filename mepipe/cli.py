"""The command line: it names, parses and prints. Every command is a few lines over a function that a
script can call; nothing is decided here, and nothing heavy is imported before a command runs.

Results that scripts read go to stdout or files, progress and logs to stderr.
Exit codes: 0 done, 1 the data or the work failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mepipe import __version__, progress
from mepipe.clioptions import JSON, Group, SpreadWords, flags, on_command_line, options_of, reply
from mepipe.configcommands import completion, config, current_settings
from mepipe.configfile import uses_settings
from mepipe.ending import CODE as ENDED
from mepipe.ending import Terminated, heeding_sigterm
from mepipe.errors import MepipeError, UsageError, one_line
from mepipe.jobcommands import send_away, status, take_cluster
from mepipe.logs import LOG, Session, told_error
from mepipe.settings import (
    BESIDE_RESUME,
    PAIR_THREAD,
    ClusterConfig,
    FacesConfig,
    FlowConfig,
    PrepareConfig,
    TrainConfig,
)
from mepipe.shardcommands import shards
from mepipe.spot.config import SpotConfig
from mepipe.workspace import MACHINE, Workspace, machine_error

INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
VARIABLE = "_MEPIPE_COMPLETE"  # what click asks for completions by


# \b keeps click from wrapping the lines below it
ABOUT = """From raw micro-expression corpora to aligned faces, TV-L1 flow, and honestly evaluated models.

\b
The main job:
  mepipe prepare casme2 ./raw     detect, align, crop; find missing apex frames
  mepipe flow                     TV-L1 from onset to apex, into HDF5 shards
  mepipe train --protocol loso    train and evaluate MERba, leave one subject out
No corpus at hand: mepipe demo
"""


@click.group(cls=Group, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-w", "--workspace", type=FOLDER, help="Where results go; default $MEPIPE_WORKSPACE, else ./mepipe-work.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("--no-progress", is_flag=True, help="No progress bars.")
@click.option("-v", "--verbose", count=True, help="Log to stderr what is done; -vv: all settings and versions too.")
@click.option("--log-file", type=FILE, help="Append the log to this file, with time and level.")
@click.option("--config", "config_file", type=FILE, help="Settings; default ./mepipe.toml, else WORKSPACE/mepipe.toml.")
@click.version_option(__version__)
@click.pass_context
def cli(
    ctx: click.Context, workspace: Path | None, debug: bool, no_progress: bool, verbose: int, log_file: Path | None,
    config_file: Path | None,
) -> None:  # fmt: skip
    session, ctx.obj = ctx.obj, Workspace(workspace or os.environ.get("MEPIPE_WORKSPACE") or "mepipe-work")
    progress.switch_off(no_progress)
    if isinstance(session, Session):
        session.open(verbose, log_file)
    if uses_settings(ctx.invoked_subcommand) and (settings := current_settings(ctx)):
        ctx.default_map = settings.default_map()
        LOG.info("settings file: %s", settings.path)
        if isinstance(session, Session) and any(settings.tables.values()):
            session.settings = settings.path


cli.add_command(config)
cli.add_command(completion)
cli.add_command(shards)
cli.add_command(status)


@cli.command()
@JSON
def datasets(as_json: bool) -> None:
    """List the corpora known: expected counts, layout, where to apply."""
    from mepipe.datasets.listing import known_corpora, listing

    reply(as_json, known_corpora(), [listing()])


@cli.command()
@click.argument("corpus")
@click.argument("folder", type=FOLDER)
@click.option("--subjects", type=click.IntRange(1), help="Number of subjects; default: the corpus's own.")
@click.option("--clips", type=click.IntRange(1), help="Clips per subject; default: the corpus's own.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--defects", is_flag=True, help="Plant the real corpus's published defects.")
@click.option("--like-real", is_flag=True, help="All clips and ids of the real corpus's list, a few frames each.")
@JSON
def synth(corpus: str, folder: Path, as_json: bool, **options: Any) -> None:
    """Make up a corpus in CORPUS's real layout in FOLDER, with known motion (truth.csv)."""
    from mepipe.synth import make_corpus

    with progress.bar("synth", "clip") as tick:
        made = make_corpus(corpus, folder, progress=tick, **options)
    reply(as_json, asdict(made), [f"{made}"])


@cli.command()
@click.argument("corpus")
@click.argument("raw", type=FOLDER)
@options_of(PrepareConfig)
@options_of(ClusterConfig)
@JSON
@click.pass_obj
def prepare(ws: Workspace, corpus: str, raw: Path, as_json: bool, **options: Any) -> None:
    """Detect, align and crop the faces of CORPUS in RAW, and find missing apex frames."""
    from mepipe.datasets import get_corpus
    from mepipe.prepare import prepare_any, summary_lines
    from mepipe.summaries import of_prepare

    cluster, config = take_cluster(options), PrepareConfig(**options)
    if config.executor == "slurm":
        send_away(ws, "prepare", [corpus, str(raw)], config, cluster, as_json)
        return
    with progress.bar(f"prepare {corpus}", "clip") as tick:
        summary = prepare_any(ws, get_corpus(corpus), raw, config, tick)
    reply(as_json, of_prepare(summary), summary_lines(summary))
    if config.strict and summary.counts["refused"]:
        raise MepipeError(f"{summary.counts['refused']} clips were refused (--strict)", do="see the reasons above")


@cli.command()
@click.argument("corpus")
@click.argument("raw", type=FOLDER)
@click.option("--deep", is_flag=True, help="Decode every frame, not only what is needed.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Annotation sheet, if it is not under RAW.")
@click.option("--corrections/--no-corrections", default=True, help="Apply the known corrections.")
@click.option(
    "--max-gap", type=click.IntRange(0), default=PrepareConfig.max_gap, show_default=True,
    help="Most frames by which an annotated frame that is absent may be replaced, as in prepare.",
)  # fmt: skip
@JSON
def verify(corpus: str, raw: Path, as_json: bool, **options: Any) -> None:
    """Check the annotation and the folders of CORPUS in RAW; exit 1 when something must be put right."""
    from mepipe.datasets import get_corpus
    from mepipe.verify import verify_corpus

    with progress.bar(f"verify {corpus}", "clip") as tick:
        verification = verify_corpus(get_corpus(corpus), raw, progress=tick, **options)
    reply(as_json, verification.as_dict(), verification.lines())
    if verification.failed:
        raise MepipeError(f"{corpus}: {verification.failed} findings must be put right", do="see the list above")


@cli.group()
def apex() -> None:
    """Compare ways of finding the apex frame."""


# of apex evaluate: what it does not write, and what says who works
OF_PREPARE_ALONE = (
    "frames", "quality", "crop", "length", "apex", "jobs", "executor", "shard", "dry_run", "force", "strict",
)  # fmt: skip


@apex.command("evaluate")
@click.argument("corpus")
@click.argument("raw", type=FOLDER)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this spotter; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help="Only so many clips, spread over the corpus.")
@click.option("--jobs", type=click.IntRange(1), help="Worker processes; default: all cores.")
@JSON
@options_of(PrepareConfig, *OF_PREPARE_ALONE)
def apex_evaluate(
    corpus: str, raw: Path, methods: tuple[str, ...], limit: int | None, jobs: int | None, as_json: bool, **options: Any
) -> None:
    """Spot the apex of clips whose apex is annotated, by every method, and print how far off each is."""
    from mepipe.apex.evaluate import evaluate_corpus
    from mepipe.datasets import get_corpus

    with progress.bar(f"apex {corpus}", "clip") as tick:
        evaluation = evaluate_corpus(get_corpus(corpus), raw, methods, limit, jobs, tick, PrepareConfig(**options))
    reply(as_json, evaluation.as_dict(), evaluation.lines())


@cli.command()
@click.argument("corpora", nargs=-1)
@options_of(FlowConfig)
@options_of(ClusterConfig)
@JSON
@click.pass_obj
def flow(ws: Workspace, corpora: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compute TV-L1 flow from onset to apex of all that is prepared, or of CORPORA, into HDF5 shards."""
    cluster, config = take_cluster(options), FlowConfig(**options)
    if config.executor == "slurm":
        send_away(ws, "flow", corpora, config, cluster, as_json)
        return
    from mepipe.survive import survive

    care = survive(progress.say)  # from here on this is the process that works, and another waits for it
    from mepipe.flow.run import flow_corpora, summary_lines
    from mepipe.summaries import of_flow

    with progress.bar("flow", "pair") as tick:
        summary = flow_corpora(ws, corpora, config, tick, progress.say, care)
    if care.last:
        reply(as_json, of_flow(summary), summary_lines(summary))
        care.tell()


@cli.command()
@click.argument("corpora", nargs=-1)
@options_of(FacesConfig)
@JSON
@click.pass_obj
def faces(ws: Workspace, corpora: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Store apex images or sequences of prepared micro-expression CORPORA, for models that read faces."""
    from mepipe.facesets import faces_of_crops
    from mepipe.prepare import summary_lines
    from mepipe.summaries import of_prepare

    with progress.bar("faces", "clip") as tick:
        summaries = faces_of_crops(ws, corpora, FacesConfig(**options), tick, progress.say)
    reply(as_json, [of_prepare(s) for s in summaries], [line for s in summaries for line in summary_lines(s)])


SEEDS = click.option(
    "--seeds", multiple=True, type=click.IntRange(0), metavar="N N...",
    help="A run for each of these seeds, then mean and spread of their scores: --seeds 0 1 2.",
)  # fmt: skip


@cli.command(cls=SpreadWords)
@options_of(TrainConfig, "options")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Model option, e.g. mixer_sharing=full.")
@SEEDS
@options_of(ClusterConfig)
@JSON
@click.pass_obj
def train(ws: Workspace, seeds: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Train and evaluate a model on the flow shards, fold by fold; write scores and a page."""
    cluster, config = take_cluster(options), TrainConfig(**options)
    given = [name for name in on_command_line(TrainConfig) if name not in ("resume", *BESIDE_RESUME)]
    if config.resume and given:
        raise UsageError("--resume goes on with the run's own settings", do=f"leave out {flags(given)}")
    if config.executor == "slurm":
        send_away(ws, "train", [], config, cluster, as_json, seeds)
        return
    from mepipe.summaries import of_train
    from mepipe_model.launched import launched
    from mepipe_model.seeds import train_seeds
    from mepipe_model.train import train_run

    outcome: Any
    with progress.bar("train", "epoch") as tick:
        if seeds:
            outcome = train_seeds(ws, config, seeds, tick, progress.say)
        else:
            outcome = train_run(ws, config, tick, progress.say)
    if (launch := launched()) and launch.rank:
        return  # the first process of torchrun tells
    pages = []
    if outcome.folders:
        from mepipe.report import report_run

        pages = [report_run(ws, folder) for folder in outcome.folders]
    reply(as_json, of_train(outcome, pages), [*outcome.lines(), *(f"  page        {page}" for page in pages)])


@cli.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--against", metavar="RUN", help="Compare with this run over the same clips: McNemar, paired bootstrap.")
@click.option("--seeds", is_flag=True, help="RUNS differ in their seed only: mean and spread of their scores.")
@JSON
@click.pass_obj
def evaluate(ws: Workspace, runs: tuple[str, ...], against: str | None, seeds: bool, as_json: bool) -> None:
    """Pool and score RUNS: run names, run folders, or predictions.csv files; parts of one run only."""
    from mepipe_model.evaluate import compare_runs, comparison_lines, evaluate_runs, lines

    if against is not None and seeds:
        raise click.UsageError("--seeds and --against are two questions: ask one at a time")
    if seeds:
        from mepipe_model.seeds import seed_spread, spread_lines

        scores = seed_spread(ws, runs)
        text = spread_lines(scores)
    else:
        scores = evaluate_runs(ws, runs)
        text = lines(scores)
    if against is not None:
        comparison = compare_runs(ws, runs, against)
        scores["against"] = {"run": against, **comparison.as_dict()}
        text += comparison_lines(comparison, against)
    reply(as_json, scores, text)


# of compare: what each model decides for itself, or what names one run
OF_ONE_RUN = ("model", "head", "options", "folds", "run", "resume", "dry_run", "executor", "shard")


@cli.command(cls=SpreadWords)
@click.argument("models", nargs=-1, metavar="MODEL...")
@SEEDS
@options_of(TrainConfig, *OF_ONE_RUN)
@JSON
@click.pass_obj
def compare(ws: Workspace, models: tuple[str, ...], seeds: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Train several MODELs under one protocol, each by its recipe; print one table with intervals.

    Words after --data that are no data are models too: compare --data 3db ststnet merba_tiny.
    """
    from mepipe_model.comparing import compare_models, data_and_models

    options["data"], beside = data_and_models(ws, options["data"])
    with progress.bar("compare", "epoch") as tick:
        table = compare_models(ws, (*models, *beside), TrainConfig(**options), seeds, tick, progress.say)
    reply(as_json, table.as_dict(), table.lines())
    if table.failed:
        raise MepipeError(f"no row for {', '.join(table.failed)}", do="see the reasons above")


# what the paper's table decides, or what names one run
OF_A_TABLE = (
    "protocol", "data", "test_corpus", "model", "classes", "head", "options", "k", "seed", "run", "resume", "dry_run",
    "executor", "shard",
)  # fmt: skip


@cli.command(cls=SpreadWords)
@click.argument("table", metavar="table4|table5|table6|table7")
@click.option("--train", is_flag=True, help="Train what is missing, with the options below.")
@click.option("--base", default="merba", show_default=True, metavar="MODEL", help="The model in MERba's place.")
@click.option("--only", multiple=True, metavar="METHOD", help="Only this row; may be repeated.")
@SEEDS
@options_of(TrainConfig, *OF_A_TABLE)
@JSON
@click.pass_obj
def reproduce(
    ws: Workspace, table: str, train: bool, base: str, only: tuple[str, ...], seeds: tuple[int, ...], as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Lay a table of the MERba paper beside what your runs gave; say which commands fill it.

    Runs are found by their settings: give the options they were trained with, if any.
    """
    from mepipe_model.reproduce import reproduce as lay_out

    with progress.bar(table, "epoch") as tick:
        result = lay_out(
            ws, table, base=base, only=only, seeds=seeds, options=options, train=train, progress=tick, say=progress.say
        )
    reply(as_json, result.as_dict(), result.lines())
    if result.failed:
        raise MepipeError(f"{len(result.failed)} rows failed: {', '.join(result.failed)}", do="see the reasons above")


FILE = click.Path(dir_okay=False, path_type=Path)


@cli.command()
@click.argument("run")
@click.argument("inputs", nargs=-1, metavar="INPUT...", type=click.Path(path_type=Path))
@click.option(
    "--onset",
    "onsets",
    multiple=True,
    metavar="N|IMAGE",
    help="Onset frame number, default the first frame; or the first image of a pair, may be repeated.",
)
@click.option(
    "--apex",
    "apexes",
    multiple=True,
    metavar="N|IMAGE",
    help="Apex frame number, default spotted; or the second image of a pair.",
)
@click.option("--offset", type=click.IntRange(0), help="Offset frame number; default: the last frame.")
@click.option("--fold", metavar="ID", help="Use only this fold's weights; default: the mean of all folds.")
@click.option("--landmarks", metavar="PATH", help="dlib shape predictor file.")
@click.option(
    "--reader",
    type=click.Choice(["auto", "cv2", "av"]),
    default="auto",
    show_default=True,
    help="Who decodes videos; auto: OpenCV, PyAV where it cannot.",
)
@click.option("--picture", type=FILE, help="Where to draw the only clip (PNG).")
@click.option("--csv", "table", type=FILE, help="Write one row per input.")
@click.option("--page", type=FILE, help="Write a page with crops, flow and probabilities (HTML).")
@JSON
@click.pass_obj
def predict(
    ws: Workspace, run: str, inputs: tuple[Path, ...], onsets: tuple[str, ...], apexes: tuple[str, ...],
    offset: int | None, table: Path | None, page: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Classify clips with the weights of RUN: folders of frames, videos, or pairs of images (--onset A --apex B).

    An input that cannot be used is refused by name, and the others go on.
    """
    from mepipe_model.predict import predict_many
    from mepipe_model.predictinputs import inputs_of
    from mepipe_model.predictpage import check_places, write_answers

    check_places(table, page)
    with progress.bar("predict", "clip") as tick:
        result = predict_many(
            ws, run, inputs_of(inputs, onsets, apexes, offset), pictures=page is not None, progress=tick, **options
        )
    written = write_answers(result, table, page)
    reply(as_json, result.as_dict(), [*result.lines(), *(f"  written     {path}" for path in written)])
    if result.refused:
        raise MepipeError(f"{len(result.refused)} inputs were refused", do="see the reasons above")


@cli.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--run", metavar="RUN", help="Classify what is found with the weights of this run.")
@click.option("--fold", metavar="ID", help="Use only this fold's weights; default: the mean of all folds.")
@click.option("--truth", type=FILE, help="CSV of known intervals (onset, offset): print F1 by the MEGC rule.")
@click.option("--out", type=FOLDER, help="Where table and page go; default: WORKSPACE/spot/VIDEO.")
@options_of(SpotConfig)
@JSON
@click.pass_obj
def spot(
    ws: Workspace, video: Path, run: str | None, fold: str | None, truth: Path | None, out: Path | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Find micro-expressions in a long VIDEO (a file, or a folder of frames) that nobody has labelled."""
    from mepipe_model.spotting import spot_video

    with progress.bar("spot", "frame") as tick:
        found = spot_video(
            ws, video, run=run, fold=fold, truth=truth, out=out, config=SpotConfig(**options), progress=tick
        )
    reply(as_json, found.as_dict(), found.lines())


@cli.command("synth-video")
@click.argument("file", type=FILE)
@click.option("--seconds", type=click.FloatRange(2), default=60, show_default=True, help="Length.")
@click.option("--fps", type=click.IntRange(20), default=100, show_default=True, help="Frames per second.")
@click.option("--expressions", type=click.IntRange(0), help="Micro-expressions; default: one in 5 s.")
@click.option("--width", type=click.IntRange(160), default=640, show_default=True, help="Of a frame in px, 4:3.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@JSON
def synth_video(file: Path, as_json: bool, **options: Any) -> None:
    """Make up a long video in FILE.avi: a face that sways, blinks and shows micro-expressions (FILE.truth.csv)."""
    from mepipe.synth.video import make_video

    with progress.bar("synth-video", "frame") as tick:
        made = make_video(file, progress=tick, **options)
    reply(as_json, made.as_dict(), [f"{made}"])


@cli.command()
@click.argument("run")
@click.option(
    "--format", required=True, type=click.Choice(["safetensors", "torchscript", "onnx"]),
    help="safetensors holds the weights; torchscript and onnx compute from flow in px to classes.",
)  # fmt: skip
@click.option("--fold", metavar="ID", help="Of this fold; default: the first that has weights.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: RUN/export/FOLD.SUFFIX.")
@JSON
@click.pass_obj
def export(ws: Workspace, run: str, as_json: bool, **options: Any) -> None:
    """Write the model of RUN as one file for other programs, checked against the model."""
    from mepipe_model.export import export_run

    exported = export_run(ws, run, **options)
    reply(as_json, asdict(exported), exported.lines())


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN [OTHER] | CORPUS | TABLE")
@click.option(
    "--saliency", type=click.Choice(["integrated", "gradient"]),
    help="Explain the clips of RUN first, so that its page shows where the model looks.",
)  # fmt: skip
@JSON
@click.pass_obj
def report(ws: Workspace, names: tuple[str, ...], saliency: str | None, as_json: bool) -> None:
    """Write the page of RUN, of RUN against OTHER, of a prepared CORPUS, or of a published TABLE."""
    from mepipe.report.command import report as write_report

    with progress.bar("report", "clip") as tick:
        page = write_report(ws, names, saliency, tick)
    reply(as_json, {"page": page}, [f"{page}"])


@cli.command()
@JSON
def models(as_json: bool) -> None:
    """List the models: input, parameters, operations, source, fidelity, published score."""
    from mepipe_model.listing import known_models, listing

    reply(as_json, known_models(), [listing()])


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """Check this installation: what works, what is missing, what to install."""
    from mepipe.doctor import diagnose

    diagnosis = diagnose()
    reply(as_json, diagnosis.as_dict(), diagnosis.lines())
    if not diagnosis.healthy:
        raise MepipeError("the main job cannot run here", do="install what is marked 'must' above")


@cli.command()
@click.option("--out", type=FOLDER, default=Path("mepipe-demo"), show_default=True, help="Where everything goes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@JSON
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Do the whole job on a made-up corpus: synth, prepare, flow, train, report."""
    from mepipe.demo import run_demo

    done = run_demo(out, seed)
    reply(as_json, asdict(done), done.lines())


def main(args: list[str] | None = None) -> None:
    """The entry point: run the command and turn every outcome into its exit code and its one line."""
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    session = Session(args)
    if VARIABLE in os.environ:
        from mepipe.completion import attach

        attach(cli)
    try:
        with heeding_sigterm():
            code = cli.main(args, prog_name="mepipe", standalone_mode=False, obj=session)
        _flush()
    except click.exceptions.Exit as e:
        code = e.exit_code
    except MepipeError as e:
        beside = f" ({session.settings} was read too: mepipe config show)" if session.settings else ""
        code = _fail(str(e) + beside * (e.exit_code == 2), e.exit_code, debug)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        code = 2
    except click.ClickException as e:
        code = _fail(_usage(e), 2, debug)
    except (KeyboardInterrupt, click.Abort) as e:
        ended = Terminated in (type(e), type(e.__cause__))  # click makes an Abort of it
        how, code = ("ended by SIGTERM", ENDED) if ended else ("interrupted", INTERRUPTED)
        code = _fail(f"{how}; what is finished is kept, the same command goes on", code, debug)
    except BrokenPipeError:  # the reader of our stdout (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as e:
        code = _fail(str(machine_error(e)) if e.errno in MACHINE else _bug(e), 1, debug)
    except Exception as e:  # the last line of defence: a bug of ours must not greet a user with a traceback
        code = _fail(_bug(e), 1, debug, internal=True)
    code = code if isinstance(code, int) else 0
    session.end(code)
    _leave(code)


def _leave(code: int) -> None:
    """End the process; at once after Ctrl-C or SIGTERM, for what is to be kept is on the disk by then.

    Python's own way out takes a second with torch loaded, and OpenCV aborts where a thread is in the middle of a pair.
    """
    if code in (INTERRUPTED, ENDED) or any(thread.name.startswith(PAIR_THREAD) for thread in threading.enumerate()):
        with contextlib.suppress(OSError):
            _flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    sys.stdout.flush()


def _bug(e: Exception) -> str:
    return f"internal error, {type(e).__name__}: {e}; please report it with the output of --debug"


def _usage(e: click.ClickException) -> str:
    where = e.ctx.command_path if isinstance(e, click.UsageError) and e.ctx else "mepipe"
    return f"{e.format_message()} (see {where} --help)"


def _fail(text: str, code: int, debug: bool, internal: bool = False) -> int:
    told_error(text, internal)
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {one_line(text)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
