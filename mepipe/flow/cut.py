"""Which shards a corpus has, and which of them a part of the work (--shard I/N) makes: whole ones only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mepipe.cliptable import iter_records
from mepipe.clipwork import Record
from mepipe.shards import list_shards
from mepipe.shares import Share
from mepipe.workspace import Workspace


@dataclass(frozen=True)
class Cut:
    """The shards of one corpus, and those of them that are this command's to make, with their clips in order.

    count: clips of all shards.
    """

    corpus: str
    count: int
    paths: list[Path]
    own: list[Path]
    own_records: list[Record]


def cuts_of(ws: Workspace, corpora: Sequence[str], size: int, share: Share | None) -> list[Cut]:
    """The shards of ``corpora``, ``size`` clips each; of a share every N-th, counted over all corpora."""
    cuts, before = list[Cut](), 0
    for corpus in corpora:
        counted = _Counted(size, before, share)
        records = list(iter_records(ws.prepared(corpus), counted.keep))
        paths = [ws.flow / f"{corpus}-{i:05d}.h5" for i in range(-(-counted.usable // size))]
        own = [path for i, path in enumerate(paths) if share is None or share.owns(before + i)]
        cuts.append(Cut(corpus, counted.usable, paths, own, records))
        before += len(paths)
    return cuts


class _Counted:
    """Which rows of a table lie in own shards; rows of refused clips lie in none. before: shards of other corpora."""

    def __init__(self, size: int, before: int, share: Share | None) -> None:
        self.size, self.before, self.share = size, before, share
        self.usable = 0

    def keep(self, row: dict[str, str]) -> bool:
        if row["status"] == "refused":
            return False
        shard = self.before + self.usable // self.size
        self.usable += 1
        return self.share is None or self.share.owns(shard)


def remove_others(folder: Path, corpus: str, keep: Sequence[Path]) -> None:
    """Shards of an earlier, larger set of clips go once the new ones are complete."""
    wanted = set(keep)
    for path in list_shards(folder, [corpus]):
        if path not in wanted:
            path.unlink(missing_ok=True)
