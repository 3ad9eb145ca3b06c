"""Prepared crops -> flow shards, for every usable clip, resumable.

A sample's key hashes its two crops, the engine, its versions and the parameters.  A shard that
already holds exactly the wanted samples is left alone; in any other, samples with a known key are
copied and only the rest is computed.  Shards are written whole, while the next one is computed.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mepipe.clipwork import Record, grey
from mepipe.errors import DataError
from mepipe.flow.engine import Engine
from mepipe.flow.params import PRESETS, TVL1Params
from mepipe.flow.registry import resolve_engine
from mepipe.frames import read_image
from mepipe.prepare import read_records
from mepipe.progress import Progress
from mepipe.settings import FlowConfig
from mepipe.shards import Sample, ShardFile, Shards, list_shards, write_shard
from mepipe.workspace import Workspace, digest, hash_file, make_folder, sweep

CPU_ENGINES = ("opencv", "native")  # they take threads=


@dataclass
class FlowSummary:
    """What ``flow_corpora`` did: per corpus the samples computed, copied and already there."""

    engine: str
    folder: Path
    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    shards: dict[str, list[Path]] = field(default_factory=dict)
    previews: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """A sample to be: its metadata and the two crops."""

    sample: Sample
    onset: Path
    apex: Path


def flow_corpora(
    ws: Workspace,
    corpora: Sequence[str] = (),
    config: FlowConfig | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> FlowSummary:
    """Compute the flow of all that is prepared, or of ``corpora``, into WORKSPACE/flow/<corpus>-<NNNNN>.h5.

    progress(done, total) counts pairs; say(line) is told which engine runs and why.
    Raises DataError when nothing is prepared, MepipeError when a crop or the disk fails.
    """
    config = config or FlowConfig()
    parameters(config)  # first: a wrong value is told before anything is read
    started = time.monotonic()
    engine, why = choose_engine(config)
    names = _wanted(ws, corpora)
    if say:
        say(f"flow engine: {why}")
    summary = FlowSummary(engine.name, ws.flow)
    with ws.lock("flow"):
        sweep(make_folder(ws.flow))
        plans = {name: plan(ws, name, engine, config) for name in names}
        total = sum(map(len, plans.values()))
        for name, pairs in plans.items():
            _Job(ws.flow, name, engine, config, summary, progress, total).run(pairs)
        summary.previews = draw_previews(ws, names, config.preview)
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
    engine, why = resolve_engine(config.engine, device, **({"threads": config.jobs} if on_cpu else {}))
    if config.batch:
        engine.batch = config.batch
    return engine, why


def parameters(config: FlowConfig) -> TVL1Params:
    """The values of the preset, and over them those the user gave. Raises UsageError for one out of range."""
    values = {f.name: getattr(config, f.name) for f in fields(TVL1Params)}
    return replace(PRESETS[config.preset], **{name: v for name, v in values.items() if v is not None})


def _wanted(ws: Workspace, corpora: Sequence[str]) -> list[str]:
    prepared = ws.prepared_corpora()
    for name in corpora:
        if name not in prepared:
            known = f"prepared here: {', '.join(prepared) or 'nothing'}"
            raise DataError(f"{name} is not prepared in {ws.root} ({known})", do=f"run mepipe prepare {name} RAW")
    if not prepared:
        raise DataError(f"nothing is prepared in {ws.root}", do="run mepipe prepare CORPUS RAW first")
    return list(dict.fromkeys(corpora)) or prepared


def plan(ws: Workspace, corpus: str, engine: Engine, config: FlowConfig) -> list[Pair]:
    """The pairs of one corpus in the order of its clips.csv; refused clips have none."""
    settings = [engine.identity(), parameters(config).as_dict()]
    folder = ws.prepared(corpus)
    return [_pair(folder, r, settings) for r in read_records(folder) if r.status != "refused"]


def _pair(folder: Path, record: Record, settings: list[Any]) -> Pair:
    clip = folder / record.subject / record.clip
    onset, apex = clip / f"{record.onset}.png", clip / f"{record.apex}.png"
    try:
        key = digest([hash_file(onset), hash_file(apex), *settings])
    except OSError as e:
        do = f"run mepipe prepare {record.corpus} RAW again"
        raise DataError(f"{record.corpus} {record.subject}/{record.clip}: cannot read its crops ({e})", do=do) from e
    names = {f.name for f in fields(Sample)}
    facts = {k: v for k, v in vars(record).items() if k in names}
    return Pair(Sample(**facts | {"key": key}), onset, apex)


class _Job:
    """The shards of one corpus: which are right, which are made, and the writing beside the computing."""

    def __init__(
        self,
        folder: Path,
        corpus: str,
        engine: Engine,
        config: FlowConfig,
        summary: FlowSummary,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.folder, self.corpus, self.engine, self.config = folder, corpus, engine, config
        self.summary, self.progress, self.total = summary, progress, total
        self.params = parameters(config)

    def run(self, pairs: list[Pair]) -> None:
        size = self.config.shard_size
        parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        old = [] if self.config.force else readable_shards(self.folder, self.corpus)
        known = {sample.key: (shard, i) for shard in old for i, sample in enumerate(shard.samples)}
        paths = [self.folder / f"{self.corpus}-{n:05d}.h5" for n in range(len(parts))]
        right = {shard.path: shard for shard in old}
        with ThreadPoolExecutor(1) as writer:  # one shard is written while the next is computed
            writing: Future[None] | None = None
            for path, part in zip(paths, parts, strict=True):
                if path in right and self._is_right(right[path], part):
                    self._count(len(part), reused=True)
                    continue
                flows = self._flows(part, known)
                if writing:
                    writing.result()
                writing = writer.submit(self._write, path, part, flows)
            if writing:
                writing.result()
        for shard in old:
            shard.close()
        self._remove_others(paths)
        self.summary.shards[self.corpus] = paths

    def _is_right(self, shard: ShardFile, part: list[Pair]) -> bool:
        same = [p.sample for p in part] == shard.samples and not Shards([shard]).damaged()
        return same and shard.dtype == self.config.dtype and shard.compression == self.filter

    @property
    def filter(self) -> str | None:
        return None if self.config.compression == "none" else self.config.compression

    def _flows(self, part: list[Pair], known: dict[str, tuple[ShardFile, int]]) -> np.ndarray:
        """The flow of every pair of one shard, (n, 3, H, W) float32: copied where the key is known, else computed."""
        flows: dict[int, np.ndarray] = {}
        for i, pair in enumerate(part):
            flow = copied(*known[pair.sample.key]) if pair.sample.key in known else None
            if flow is not None:
                flows[i] = flow
        self._count(len(flows), reused=True)
        missing = [i for i in range(len(part)) if i not in flows]
        for batch in _batches(missing, self.engine.batch):
            onsets = np.stack([self._grey(part[i].onset) for i in batch])
            apexes = np.stack([self._grey(part[i].apex) for i in batch])
            flows |= dict(zip(batch, self.engine.flow(onsets, apexes, self.params), strict=True))
            self._count(len(batch), reused=False)
        return np.stack([flows[i] for i in range(len(part))])

    def _grey(self, path: Path) -> np.ndarray:
        return grey(read_image(path))

    def _count(self, n: int, *, reused: bool) -> None:
        self.summary.reused += n if reused else 0
        self.summary.computed += 0 if reused else n
        if self.progress:
            self.progress(self.summary.reused + self.summary.computed, self.total)

    def _write(self, path: Path, part: list[Pair], flows: np.ndarray) -> None:
        write_shard(
            path,
            [p.sample for p in part],
            flows,
            engine=self.engine.name,
            parameters=self.params.as_dict(),
            versions=self.engine.versions(),
            dtype=self.config.dtype,
            compression=self.filter,
        )

    def _remove_others(self, keep: list[Path]) -> None:
        """Shards of an earlier, larger set of clips go once the new ones are complete."""
        for path in self.folder.glob(f"{self.corpus}-[0-9][0-9][0-9][0-9][0-9].h5"):
            if path not in keep:
                path.unlink()


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def readable_shards(folder: Path, corpus: str) -> list[ShardFile]:
    """The complete shards of ``corpus``; what cannot be read is made again and so passed over.

    Their files are open: one that is replaced later in the run can still be read.
    """
    shards = []
    for path in list_shards(folder, [corpus]):
        try:
            shards.append(ShardFile(path))
        except DataError:
            continue
    return shards


def copied(shard: ShardFile, index: int) -> np.ndarray | None:
    """The flow of a sample made earlier, float32; None when its bytes no longer match their checksum.

    A float16 shard is not copied from: rounded twice or widened, it would not be what the settings promise.
    """
    stored = shard.stored(index)
    if stored.dtype != np.float32 or zlib.crc32(stored.tobytes()) != shard.checksums[index]:
        return None
    return stored


def summary_lines(summary: FlowSummary) -> list[str]:
    """The summary as text."""
    files = sum(map(len, summary.shards.values()))
    rate = f" ({summary.computed / max(summary.seconds, 1e-9):.1f} pairs/s)" if summary.computed else ""
    drawn = [f"  {len(summary.previews)} pictures -> {summary.previews[0].parent}"] if summary.previews else []
    return [
        f"flow: {summary.computed + summary.reused} samples of {', '.join(summary.shards)} in {files} shards",
        f"  {summary.seconds:.1f} s ({summary.computed} computed by {summary.engine}{rate}, "
        f"{summary.reused} up to date) -> {summary.folder}",
        *drawn,
    ]
