"""Shards: HDF5 files of samples, flow or faces, written whole or not at all, checked before they are read.

    <corpus>-<NNNNN>.h5, format "mepipe.flow", version 1
    flow        (N, 3, 224, 224) float32 or float16: u (px, right), v (px, down), magnitude (px); chunk = one sample
                (N, 4, 224, 224) with --strain: and the optical strain (px per px)
    corpus, subject, clip, emotion, label3, label7, split, key    (N,) UTF-8
    onset, apex, offset                                           (N,) int32 frame numbers
    onset_frames, apex_frames   (N,) int32, only with --average: how many crops were averaged into either image
    checksum    (N,) uint32: CRC-32 of the sample's stored bytes
    attributes  format, version, normalised=false, channels (JSON: u, v, magnitude), engine, parameters (JSON),
                versions (JSON), complete=true

A file with four channels is version 1 all the same: a reader that knows three only finds another shape, and another
list of channels, and refuses it; and what every reader may rely on, u, v and magnitude in channels 0 to 2, stays.
The datasets of --average can be overlooked without harm; its parameter "average" stands among the others.

    faces/<corpus>-<NNNNN>.h5, format "mepipe.faces", version 1: the same, with these in place of flow
    image       (N, 224, 224, 3) uint8 RGB, an aligned face; or
    frames      (N, T, 224, 224, 3) uint8 RGB, an aligned sequence resampled to T frames
    landmarks   (N, 68, 2) float32: x, y in px of the crop, dlib's order; all NaN where none were found
    votes       (N, K) float32, only where annotators voted: their shares for the classes of the first list
    checksum    CRC-32 of the sample's crops, then its landmarks, then its votes
    attributes  length (T, 0 for images), class_sets (JSON: the corpus's lists of classes, the usual first), votes

Other programs may read them with any HDF5 library.  Nothing in them is normalised or clipped, except where
``mepipe shards import`` took over arrays that were: then normalised=true, channels says what they are (such as
u, v, strain), and span (JSON) the lowest and the highest value.
"""

from __future__ import annotations

from mepipe.shards.content import PX, PX_STRAIN, Content, Faces
from mepipe.shards.file import ShardFile
from mepipe.shards.read import Shards, list_shards, open_shards, shard_hash
from mepipe.shards.sample import FLOW_SHAPE, FORMAT, MAX_SAMPLES, VERSION, Sample
from mepipe.shards.verify import Finding, verify_shards
from mepipe.shards.write import ShardWriter, write_shard

__all__ = [
    "FLOW_SHAPE",
    "FORMAT",
    "MAX_SAMPLES",
    "PX",
    "PX_STRAIN",
    "VERSION",
    "Content",
    "Faces",
    "Finding",
    "Sample",
    "ShardFile",
    "ShardWriter",
    "Shards",
    "list_shards",
    "open_shards",
    "shard_hash",
    "verify_shards",
    "write_shard",
]
