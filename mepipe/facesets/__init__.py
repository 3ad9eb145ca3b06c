"""Labelled faces into shards: WORKSPACE/faces/<corpus>-<NNNNN>.h5, and <corpus>.csv with a row for every clip.

prepare_faces(ws, corpus, raw, config)      a corpus of faces, from its own files (``mepipe prepare rafdb RAW``)
faces_of_crops(ws, corpora, config)         the crops of prepared micro-expression corpora (``mepipe faces casme2``)
"""

from __future__ import annotations

from mepipe.facesets.crops import faces_of_crops
from mepipe.facesets.run import FaceSummary, prepare_faces

__all__ = ["FaceSummary", "faces_of_crops", "prepare_faces"]
