"""The corpora mepipe reads. ``get_corpus(name).clips(raw)`` lists every annotated clip.

A corpus is one module here that registers itself; a package of yours adds one through the entry
point group ``mepipe.corpora`` (its value is a module that registers on import), see docs/corpora/adding.md.
"""

from __future__ import annotations

from importlib import import_module, metadata

from mepipe.datasets.base import CORPORA, Clip, Corpus
from mepipe.errors import MepipeError

__all__ = ["CORPORA", "Clip", "Corpus", "get_corpus", "list_corpora"]

_MODULES = ("casme2", "samm", "smic", "dfme", "casme3", "mmew", "fourdme")


def _load() -> None:
    for module in _MODULES:
        import_module(f"mepipe.datasets.{module}")
    for entry in metadata.entry_points(group="mepipe.corpora"):
        try:
            entry.load()
        except Exception as e:  # somebody else's code: whatever it raises must name whose it is
            do = "repair or uninstall the package that brings it"
            raise MepipeError(f"the corpus plug-in {entry.name} ({entry.value}) cannot be loaded: {e}", do=do) from e


def list_corpora() -> list[str]:
    """Names of all corpora, bundled ones first."""
    _load()
    return CORPORA.names()


def get_corpus(name: str) -> Corpus:
    """The corpus called ``name``. Raises UsageError that lists the valid names."""
    _load()
    return CORPORA.get(name)()
