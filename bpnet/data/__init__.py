"""Data sets: loading by name or from files, batching by (seed, epoch), and the checks at the door."""

from bpnet.data.checks import check_finite, check_labels
from bpnet.data.dataset import Dataset, batches
from bpnet.data.idx import read_idx
from bpnet.data.named import available, load
from bpnet.data.split import split

__all__ = [
    "Dataset",
    "available",
    "batches",
    "check_finite",
    "check_labels",
    "load",
    "read_idx",
    "split",
]
