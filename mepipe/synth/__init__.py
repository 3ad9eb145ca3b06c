"""Made-up corpora: each real corpus's layout, a photograph that may be shown, motion that is known.

    make_corpus("casme2", Path("raw"))            a corpus on disk, with its sheet and truth.csv
    synthetic_clip("casme2", 0, 2, 5)             one clip in memory: frames, true motion, landmarks

What they are for: trying the whole job without a licensed face, and measuring it against the truth.
What they are not: evidence about real micro-expressions.  See docs/synth.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["WRITERS", "SynthSummary", "SyntheticClip", "make_corpus", "synthetic_clip"]

_WHERE = {
    "WRITERS": "mepipe.synth.corpora",
    "SynthSummary": "mepipe.synth.make",
    "SyntheticClip": "mepipe.synth.render",
    "make_corpus": "mepipe.synth.make",
    "synthetic_clip": "mepipe.synth.make",
}

if TYPE_CHECKING:
    from mepipe.synth.corpora import WRITERS
    from mepipe.synth.make import SynthSummary, make_corpus, synthetic_clip
    from mepipe.synth.render import SyntheticClip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mepipe.synth' has no attribute {name!r}")
