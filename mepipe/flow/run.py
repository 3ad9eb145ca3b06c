"""Prepared crops -> flow shards, for every usable clip, resumable.

A sample's key hashes its crops, the engine, its versions and the parameters.  A shard that already holds exactly
the wanted samples is left alone; in any other, samples with a known key are copied and only the rest is computed.

Crops are read ahead of the engine and shards written behind it, each once.  Pairs flow through without a stop between
batches or shards, so that every core has work until the last pair; memory does not grow with the number of clips.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.executors import check_here
from mepipe.flow.cut import cuts_of, remove_others
from mepipe.flow.engine import Engine
from mepipe.flow.output import Made, Output, Part
from mepipe.flow.pairs import Loaded, Pair, load, paired, reach_of
from mepipe.flow.params import PRESETS, TVL1Params
from mepipe.flow.registry import resolve_engine
from mepipe.flow.strain import strain
from mepipe.flow.workers import Workers, in_order
from mepipe.merging import merge_lost, missing_parts
from mepipe.prepare import wanted
from mepipe.progress import Progress
from mepipe.settings import FlowConfig, cores
from mepipe.shards import PX, PX_STRAIN, Content, ShardFile, Shards, ShardWriter, list_shards
from mepipe.shards.read import readable_shards
from mepipe.shares import Share
from mepipe.survive import Care
from mepipe.workspace import Workspace, make_folder, sweep

CPU_ENGINES = ("opencv", "native")  # they take threads=


@dataclass
class FlowSummary:
    """What ``flow_corpora`` did: per corpus the samples computed, copied and already there.

    samples: of a dry run, how many the shards would hold.
    """

    engine: str
    folder: Path
    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    shards: dict[str, list[Path]] = field(default_factory=dict)
    previews: list[Path] = field(default_factory=list)
    samples: int = 0
    dry_run: bool = False


def flow_corpora(
    ws: Workspace,
    corpora: Sequence[str] = (),
    config: FlowConfig | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    care: Care | None = None,
) -> FlowSummary:
    """Compute the flow of all that is prepared, or of ``corpora``, into WORKSPACE/flow/<corpus>-<NNNNN>.h5.

    Parameters
    ----------
    ws
        Where the prepared corpora lie and the shards go.
    corpora
        Only these.
    config
        None is all defaults.
    progress
        progress(done, total) counts pairs.
    say
        say(line) is told which engine runs and why.
    care
        Of pairs that may kill the process, for the command.

    Returns
    -------
    FlowSummary
        Samples computed and up to date, and the files.

    Raises
    ------
    DataError
        Nothing is prepared.
    MepipeError
        A crop or the disk fails.
    """
    config, care = config or FlowConfig(), care or Care()
    parameters(config)  # first: a wrong value is told before anything is read
    check_here(config.executor, "flow")
    started = time.monotonic()
    engine, why = choose_engine(config)
    names = wanted(ws, corpora)
    if say:
        say(f"flow engine: {why}")
    summary = FlowSummary(engine.name, ws.flow)
    share = Share.parse(config.shard)
    if config.dry_run:
        for name in names:
            if say and (incomplete := missing_parts(ws, name)):
                say(incomplete)
        cuts = cuts_of(ws, names, config.shard_size, share)
        summary.shards = {cut.corpus: cut.own for cut in cuts}
        return replace(summary, samples=sum(len(cut.own_records) for cut in cuts), dry_run=True)
    for name in names:
        if (lost := merge_lost(ws, name)) and say:
            say(lost)
    with ws.lock("flow", share):
        cuts = cuts_of(ws, names, config.shard_size, share)
        own = {path for cut in cuts for path in cut.own}
        sweep(make_folder(ws.flow), None if share is None else own.__contains__)
        plans = {cut.corpus: paired(ws, cut.corpus, cut.own_records, config.average) for cut in cuts}
        if say and config.average:
            say(averaged_line([pair for pairs in plans.values() for pair in pairs], config.average))
        total = sum(map(len, plans.values()))
        for cut in cuts:
            _Job(ws.flow, cut.corpus, engine, config, care, summary, progress, total).run(plans[cut.corpus], cut.own)
            if share is None or all(path.is_file() for path in cut.paths):
                remove_others(ws.flow, cut.corpus, cut.paths)
        summary.previews = draw_previews(ws, names, config.preview if care.last else 0)
    summary.seconds = time.monotonic() - started
    return summary


def draw_previews(ws: Workspace, corpora: Sequence[str], count: int) -> list[Path]:
    """``count`` pictures of each corpus that has clips; drawing libraries load only when some are wanted."""
    if not count:
        return []
    from mepipe.flow.preview import write_previews

    return [path for name in corpora if list_shards(ws.flow, [name]) for path in write_previews(ws, name, count)]


def choose_engine(config: FlowConfig) -> tuple[Engine, str]:
    """The engine of the settings and a line that says why. Raises MepipeError for --gpu without CUDA."""
    device = "cuda" if config.gpu else None
    on_cpu = device is None and config.engine in ("auto", *CPU_ENGINES)
    threads = 1 if config.executor == "serial" else config.jobs
    engine, why = resolve_engine(config.engine, device, **({"threads": threads} if on_cpu else {}))
    if config.batch:
        engine.batch = config.batch
    return engine, why


def parameters(config: FlowConfig) -> TVL1Params:
    """The values of the preset, and over them those the user gave. Raises UsageError for one out of range."""
    values = {f.name: getattr(config, f.name) for f in fields(TVL1Params)}
    return replace(PRESETS[config.preset], **{name: v for name, v in values.items() if v is not None})


def averaged_line(pairs: Sequence[Pair], average: int) -> str:
    """How many frames were averaged, and in how many clips fewer than asked for."""
    close = sum(reach_of(pair.sample.onset, pair.sample.apex, average) < average for pair in pairs)
    fewer = sum(min(pair.sample.onset_frames, pair.sample.apex_frames) < 2 * average + 1 for pair in pairs)
    return (
        f"averaged: {2 * average + 1} frames each around onset and apex; fewer in {fewer} of {len(pairs)} clips, "
        f"{close} of them because onset and apex are close, the others because the crops end there"
    )


@dataclass(frozen=True)
class Task:
    """One sample of a shard to be written. known: where its flow lies already."""

    part: Part
    loaded: Loaded
    known: tuple[ShardFile, int] | None


@dataclass(frozen=True)
class Done:
    """A task and its flow, (C, 224, 224) float32."""

    task: Task
    flow: np.ndarray
    reused: bool


class _Job:
    """The shards of one corpus: which are right, which are made, and the writing beside the computing."""

    def __init__(
        self,
        folder: Path,
        corpus: str,
        engine: Engine,
        config: FlowConfig,
        care: Care,
        summary: FlowSummary,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.folder, self.corpus, self.engine, self.config = folder, corpus, engine, config
        self.care, self.summary, self.progress, self.total = care, summary, progress, total
        self.params = parameters(config)
        self.content: Content = PX_STRAIN if config.strain else PX
        averaged = {"average": config.average} if config.average else {}
        self.recorded: dict[str, Any] = {**self.params.as_dict(), **averaged}

    def run(self, pairs: list[Pair], paths: list[Path]) -> None:
        """Make the shards ``paths`` of ``pairs``, which fill them in their order."""
        old = self._to_reuse(paths)
        alone = self.care.alone or self.config.executor == "serial"
        with Workers(1 if alone else self.engine.callers or cores()) as workers:
            output = Output(self._writer)
            try:
                for made in self._made(workers, self._tasks(workers, pairs, paths, old)):
                    output.put(made)
                output.finish()
            except BaseException:
                workers.stop(patience=0)  # the disk comes first
                output.keep()
                raise
        for shard in old:
            shard.close()
        self.summary.shards[self.corpus] = paths

    def _to_reuse(self, paths: list[Path]) -> list[ShardFile]:
        """The shards there are; with --force those that this very command has made; of a part only its own."""
        since = self.care.since if self.config.force else 0
        if since is None:
            return []
        there = list_shards(self.folder, [self.corpus])
        own = there if self.config.shard is None else [p for p in there if p in set(paths)]
        return [s for s in readable_shards(own) if s.path.stat().st_mtime_ns >= since]

    def _tasks(self, workers: Workers, pairs: list[Pair], paths: list[Path], old: list[ShardFile]) -> Iterator[Task]:
        """The samples of all shards that are not right already, in order; crops of the next shard are read ahead."""
        known = {sample.key: (shard, i) for shard in old for i, sample in enumerate(shard.samples)}
        there = {shard.path: shard for shard in old}
        settings = [self.engine.identity(), self.recorded]
        size = self.config.shard_size
        loading = in_order(workers, partial(load, settings=settings), pairs, ahead=size)
        for path in paths:
            loaded = [pair for pair in islice(loading, size) if str(pair.sample) not in self.care.left_out]
            part = Part(path, [pair.sample for pair in loaded], there.get(path))
            if part.old and self._is_right(part.old, part):
                self._count(len(loaded), reused=True)
            else:
                yield from (Task(part, pair, known.get(pair.sample.key)) for pair in loaded)

    def _is_right(self, shard: ShardFile, part: Part) -> bool:
        same = part.samples == shard.samples and not Shards([shard]).damaged()
        how = (shard.dtype, shard.compression, shard.content)
        return same and how == (self.config.dtype, self.filter, self.content)

    @property
    def filter(self) -> str | None:
        return None if self.config.compression == "none" else self.config.compression

    def _made(self, workers: Workers, tasks: Iterable[Task]) -> Iterator[Made]:
        """The flow of every task, in order: copied where the key is known, else computed."""
        one_by_one = self.engine.callers or self.care.alone
        for done in (self._one_by_one if one_by_one else self._in_batches)(workers, tasks):
            self._count(1, reused=done.reused)
            yield Made(done.task.part, done.task.loaded.sample, done.flow)

    def _one_by_one(self, workers: Workers, tasks: Iterable[Task]) -> Iterator[Done]:
        """Each thread takes a pair from its files to its flow."""

        def work(task: Task) -> Done:
            flow = self._copied(task)
            if flow is not None:
                return Done(task, flow, reused=True)
            with self.care.at_work.on([str(task.loaded.sample)]):
                onset, apex = task.loaded.images(self.config.average > 0)
                return self._done(task, self.engine.flow(onset[None], apex[None], self.params)[0])

        return in_order(workers, work, tasks, ahead=2 * workers.count)

    def _in_batches(self, workers: Workers, tasks: Iterable[Task]) -> Iterator[Done]:
        """The engine gets batches, of images that the threads decode meanwhile."""

        def decode(task: Task) -> tuple[Task, np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
            flow = self._copied(task)
            with self.care.at_work.on([str(task.loaded.sample)]):
                return task, flow, task.loaded.images(self.config.average > 0) if flow is None else None

        decoded = in_order(workers, decode, tasks, ahead=2 * self.engine.batch)
        while group := list(islice(decoded, self.engine.batch)):
            pairs = [images for _, _, images in group if images is not None]
            onsets, apexes = ([pair[side] for pair in pairs] for side in (0, 1))
            with self.care.at_work.on([str(task.loaded.sample) for task, flow, _ in group if flow is None]):
                flows = iter(self.engine.flow(np.stack(onsets), np.stack(apexes), self.params) if pairs else ())
            for task, flow, _ in group:
                yield self._done(task, next(flows)) if flow is None else Done(task, flow, reused=True)

    def _done(self, task: Task, flow: np.ndarray) -> Done:
        return Done(task, with_strain(flow) if self.config.strain else flow, reused=False)

    def _copied(self, task: Task) -> np.ndarray | None:
        return copied(*task.known, self.config.dtype, self.content) if task.known else None

    def _count(self, n: int, *, reused: bool) -> None:
        self.summary.reused += n if reused else 0
        self.summary.computed += 0 if reused else n
        if self.progress:
            self.progress(self.summary.reused + self.summary.computed, self.total)

    def _writer(self, path: Path) -> ShardWriter:
        return ShardWriter(
            path,
            engine=self.engine.name,
            parameters=self.recorded,
            versions=self.engine.versions(),
            dtype=self.config.dtype,
            compression=self.filter,
            content=self.content,
        )


def copied(shard: ShardFile, index: int, dtype: str, content: Content) -> np.ndarray | None:
    """The flow of a sample made earlier, as ``content`` wants it, float32; None when it has to be computed.

    That is so when its bytes no longer match their checksum, and when float16 has rounded what is wanted as float32,
    or what the strain would have to be made of.
    """
    stored = shard.stored(index)
    if zlib.crc32(stored.data) != shard.checksums[index]:
        return None
    count = len(content.channels)
    if stored.dtype == np.float16:
        return stored[:count].astype(np.float32) if dtype == "float16" and count <= len(stored) else None
    return stored[:count] if count <= len(stored) else with_strain(stored)


def with_strain(flow: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 u, v, magnitude -> (4, H, W): and the optical strain."""
    return np.concatenate([flow, strain(flow)[None]])


def summary_lines(summary: FlowSummary) -> list[str]:
    """The summary as text."""
    files = sum(map(len, summary.shards.values()))
    if summary.dry_run:
        return [f"flow: {summary.samples} samples of {', '.join(summary.shards)} would be in {files} shards, "
                f"made by {summary.engine} -> {summary.folder}"]  # fmt: skip
    rate = f" ({summary.computed / max(summary.seconds, 1e-9):.1f} pairs/s)" if summary.computed else ""
    drawn = [f"  {len(summary.previews)} pictures -> {summary.previews[0].parent}"] if summary.previews else []
    return [
        f"flow: {summary.computed + summary.reused} samples of {', '.join(summary.shards)} in {files} shards",
        f"  {summary.seconds:.1f} s ({summary.computed} computed by {summary.engine}{rate}, "
        f"{summary.reused} up to date) -> {summary.folder}",
        *drawn,
    ]
