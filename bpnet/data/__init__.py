"""Data sets: loading by name or from files, batching by (seed, epoch), and the checks at the door."""

from bpnet.data.checks import check_finite, check_labels
from bpnet.data.dataset import Dataset, batches
from bpnet.data.idx import read_idx
from bpnet.data.lazy import LazyRows
from bpnet.data.named import available, load
from bpnet.data.prefetch import prefetch
from bpnet.data.readers import memmap, read_csv, read_npz
from bpnet.data.split import split
from bpnet.data.statistics import mean_and_std
from bpnet.data.text import decode, encode

__all__ = [
    "Dataset",
    "LazyRows",
    "available",
    "batches",
    "check_finite",
    "check_labels",
    "decode",
    "encode",
    "load",
    "mean_and_std",
    "memmap",
    "prefetch",
    "read_csv",
    "read_idx",
    "read_npz",
    "split",
]
