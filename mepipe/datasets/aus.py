"""Action units as annotators write them, as far as they can be read for certain.

``4+7+L10``, ``12C``, ``AU7B``, ``10A/B``, ``AD31`` become units; ``L12 or L14``, ``ref(7B)``, ``soft focus``,
``?`` say something that no list of units says, and are kept as they stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"(?:AU|AD|M)?([LR]?)(?:AU|AD|M)?(\d{1,2})([A-E](?:/[A-E])?)?", re.IGNORECASE)
_PLUS = re.compile(r"[+,;](?![^()]*\))")  # not inside brackets: "(R6+R12)" is one thing
_BLANK = frozenset({"", "/", "\\", "-", "nan", "none", "n/a"})


@dataclass(frozen=True)
class Unit:
    """One action unit or descriptor of FACS.

    side: ``L`` or ``R`` (the subject's own) for a one-sided one, else "".  number: FACS's.
    intensity: ``A`` to ``E``, ``A/B`` where the coder wavered, "" where none was coded.
    """

    side: str
    number: int
    intensity: str = ""

    def __str__(self) -> str:
        return f"{self.side}{self.number}{self.intensity}"


@dataclass(frozen=True)
class AUs:
    """The units of one cell in its order; rest: what could not be read for certain, verbatim."""

    units: tuple[Unit, ...] = ()
    rest: tuple[str, ...] = ()


def parse_aus(text: str) -> AUs:
    """The action units of a cell; nothing of it is dropped except the marks for "none"."""
    units, rest = [], []
    for part in _PLUS.split(text):
        token = part.strip()
        if token.casefold() in _BLANK:
            continue
        found = _TOKEN.fullmatch(re.sub(r"\s+", "", token)) if " or " not in token.casefold() else None
        if found:
            side, number, intensity = found[1].upper(), int(found[2]), (found[3] or "").upper()
            units.append(Unit(side, number, intensity))
        else:
            rest.append(token)
    return AUs(tuple(units), tuple(rest))
