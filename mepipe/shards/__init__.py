"""Flow shards: HDF5 files of samples, written whole or not at all, checked before they are read.

    <corpus>-<NNNNN>.h5, format "mepipe.flow", version 1
    flow        (N, 3, 224, 224) float32 or float16: u (px, right), v (px, down), magnitude (px); chunk = one sample
    corpus, subject, clip, emotion, label3, label7, split, key    (N,) UTF-8
    onset, apex, offset                                           (N,) int32 frame numbers
    checksum    (N,) uint32: CRC-32 of the sample's stored bytes
    attributes  format, version, normalised=false, channels (JSON: u, v, magnitude), engine, parameters (JSON),
                versions (JSON), complete=true

Other programs may read them with any HDF5 library.  Nothing in them is normalised or clipped, except where
``mepipe shards import`` took over arrays that were: then normalised=true, channels says what they are (such as
u, v, strain), and span (JSON) the lowest and the highest value.
"""

from __future__ import annotations

from mepipe.shards.file import ShardFile
from mepipe.shards.read import Shards, list_shards, open_shards, shard_hash
from mepipe.shards.sample import FLOW_SHAPE, FORMAT, MAX_SAMPLES, PX, VERSION, Content, Sample
from mepipe.shards.verify import Finding, verify_shards
from mepipe.shards.write import ShardWriter, write_shard

__all__ = [
    "FLOW_SHAPE",
    "FORMAT",
    "MAX_SAMPLES",
    "PX",
    "VERSION",
    "Content",
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
