"""The errors a user may meet. Each is one line: what is wrong, where, and what to do.

``cli`` prints ``error: <message>`` and exits with ``exit_code``; a script catches
``MepipeError``.  Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class MepipeError(Exception):
    """The data or the work failed (exit code 1).

    what: the fact, with the file or row it is about.  do: what the reader can do now.
    """

    exit_code = 1

    def __init__(self, what: str, *, do: str | None = None) -> None:
        self.what = what
        self.do = do
        super().__init__(one_line(f"{what}; {do}" if do else what))


class DataError(MepipeError):
    """An input is missing, damaged or not what its format promises (exit code 1)."""


class UsageError(MepipeError):
    """The request itself is wrong: an unknown name, a value out of range (exit code 2)."""

    exit_code = 2


def one_line(text: str) -> str:
    """``text`` on a single line, control characters made visible (names come from strangers)."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
