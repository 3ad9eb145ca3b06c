"""Which shards a corpus has, and which of them a part of the work (--shard I/N) makes: whole ones only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mepipe.clipwork import Record
from mepipe.flow.pairs import usable
from mepipe.shards import list_shards
from mepipe.shares import Share, picked
from mepipe.workspace import Workspace


@dataclass(frozen=True)
class Cut:
    """The shards of one corpus, and those of them that are this command's to make."""

    corpus: str
    records: list[Record]
    size: int
    paths: list[Path]
    own: list[Path]

    def own_records(self) -> list[Record]:
        """The clips of the own shards, in their order."""
        if len(self.own) == len(self.paths):
            return self.records
        own = set(self.own)
        starts = [n * self.size for n, path in enumerate(self.paths) if path in own]
        return [r for start in starts for r in self.records[start : start + self.size]]


def cuts_of(ws: Workspace, corpora: Sequence[str], size: int, share: Share | None) -> list[Cut]:
    """The shards of ``corpora``, ``size`` clips each; of a share every N-th, counted over all corpora."""
    records = {name: usable(ws, name) for name in corpora}
    paths = {n: [ws.flow / f"{n}-{i:05d}.h5" for i in range(-(-len(r) // size))] for n, r in records.items()}
    own = set(picked([path for some in paths.values() for path in some], share))
    return [Cut(n, records[n], size, paths[n], [p for p in paths[n] if p in own]) for n in corpora]


def remove_others(folder: Path, corpus: str, keep: Sequence[Path]) -> None:
    """Shards of an earlier, larger set of clips go once the new ones are complete."""
    wanted = set(keep)
    for path in list_shards(folder, [corpus]):
        if path not in wanted:
            path.unlink(missing_ok=True)
