"""The corpora mepipe reads. ``get_corpus(name).clips(raw)`` lists every annotated clip.

A corpus is one module here that registers itself; a package of yours adds one through the entry
point group ``mepipe.corpora`` (its value is a module that registers on import), see docs/corpora/adding.md.
"""

from __future__ import annotations

from importlib import import_module, metadata

from mepipe import progress
from mepipe.datasets.base import CORPORA, Clip, Corpus
from mepipe.errors import MepipeError, one_line

__all__ = ["CORPORA", "Clip", "Corpus", "get_corpus", "list_corpora"]

_MODULES = (
    "casme2", "samm", "smic", "dfme", "casme3", "mmew", "fourdme", "rafdb", "ferplus", "affectnet",
    "dfew", "ferv39k", "deap", "imagefolder",
)  # fmt: skip


_broken: dict[str, str] = {}  # the name of a plug-in's entry point -> why it cannot be loaded, told once


def _load() -> None:
    for module in _MODULES:
        import_module(f"mepipe.datasets.{module}")
    for entry in metadata.entry_points(group="mepipe.corpora"):
        if entry.name in _broken:
            continue
        try:
            entry.load()
        except Exception as e:  # somebody else's code must not stop the commands that do not need it
            what = f"the corpus plug-in {entry.name} ({entry.value}) cannot be loaded: {type(e).__name__}: {e}"
            _broken[entry.name] = one_line(what)
            progress.say(f"warning: {_broken[entry.name]}; it is left out")


def list_corpora() -> list[str]:
    """Names of all corpora.

    Returns
    -------
    list[str]
        Bundled ones first, then those of installed packages.
    """
    _load()
    places = {f"mepipe.datasets.{module}": n for n, module in enumerate(_MODULES)}  # whatever was imported first
    return sorted(CORPORA.names(), key=lambda name: places.get(CORPORA.get(name).__module__, len(places)))


def get_corpus(name: str) -> Corpus:
    """The corpus called ``name``.

    Parameters
    ----------
    name
        As ``mepipe datasets`` lists them: "casme2", "samm", ...

    Returns
    -------
    Corpus
        ``.clips(raw)`` lists its annotated clips.

    Raises
    ------
    UsageError
        No corpus has that name; the valid ones are listed.
    MepipeError
        The plug-in of that name is broken.
    """
    _load()
    if name in _broken and name not in CORPORA:
        raise MepipeError(_broken[name], do="repair or uninstall the package that brings it")
    return CORPORA.get(name)()
