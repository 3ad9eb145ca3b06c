"""The layouts in which corpora can be made up, one module per corpus; ``WRITERS`` holds them by name."""

from mepipe.synth.corpora import casme2, casme3, dfme, fourdme, mmew, samm, smic
from mepipe.synth.corpora.base import WRITERS, ClipPlan, Defect, Writer

__all__ = [
    "WRITERS", "ClipPlan", "Defect", "Writer", "casme2", "casme3", "dfme", "fourdme", "mmew", "samm", "smic",
]  # fmt: skip
