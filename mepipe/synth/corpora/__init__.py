"""The layouts in which corpora can be made up, one module per corpus; ``WRITERS`` holds them by name."""

from mepipe.synth.corpora import casme2, dfme, samm, smic
from mepipe.synth.corpora.base import WRITERS, ClipPlan, Writer

__all__ = ["WRITERS", "ClipPlan", "Writer", "casme2", "dfme", "samm", "smic"]
