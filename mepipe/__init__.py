"""mepipe: from raw micro-expression corpora to aligned faces, TV-L1 flow shards and honest scores.

The public names load on first use, so ``import mepipe`` costs nothing:

    mepipe.tvl1(onset, apex)        TV-L1 flow of one pair or a batch
    mepipe.strain(flow)             optical strain of a flow
    mepipe.get_corpus("casme2")     a corpus as it is distributed
    mepipe.list_corpora()           the corpora known
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "get_corpus", "list_corpora", "strain", "tvl1"]

_WHERE = {
    "tvl1": "mepipe.flow",
    "strain": "mepipe.flow.strain",
    "get_corpus": "mepipe.datasets",
    "list_corpora": "mepipe.datasets",
}

if TYPE_CHECKING:
    from mepipe.datasets import get_corpus, list_corpora
    from mepipe.flow import tvl1
    from mepipe.flow.strain import strain


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mepipe' has no attribute {name!r}")
