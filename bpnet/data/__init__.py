"""Data sets: loading by name, batching by (seed, epoch), and the checks at the door."""

from bpnet.data.checks import check_finite, check_labels
from bpnet.data.dataset import Dataset, batches
from bpnet.data.named import available, load

__all__ = ["Dataset", "available", "batches", "check_finite", "check_labels", "load"]
