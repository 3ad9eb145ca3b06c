"""The layouts in which corpora can be made up, one module per corpus or family; ``WRITERS`` holds them by name."""

from importlib import import_module

from mepipe.synth.corpora.base import WRITERS, ClipPlan, Defect, Writer

# each registers its writers when it is imported
for _name in (
    "casme2", "samm", "smic", "dfme", "casme3", "mmew", "fourdme", "rafdb", "ferplus", "affectnet",
    "clipcorpora", "deap", "classfolders",
):  # fmt: skip
    import_module(f"mepipe.synth.corpora.{_name}")

__all__ = ["WRITERS", "ClipPlan", "Defect", "Writer"]
