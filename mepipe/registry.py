"""A name -> thing table with a decorator to fill it and an error that lists what is in it.

Corpora, detectors, apex spotters, flow engines and models all register this way, so adding
one touches its own file and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mepipe.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, in the order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: put the decorated thing under ``name``; a second owner of a name is a bug."""

        def put(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = thing
            return thing

        return put

    def get(self, name: str) -> T:
        """The thing called ``name``.  Raises UsageError that lists the valid names."""
        if name not in self._things:
            close = difflib.get_close_matches(name, self._things, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"no {self.kind} is called {name!r}", do=f"{hint}valid: {', '.join(self._things)}")
        return self._things[name]

    def names(self) -> list[str]:
        return list(self._things)

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)
