"""Callbacks: what is told of a fit while it runs, and may end it."""

from bpnet.callbacks.base import Callback
from bpnet.callbacks.checkpoint import BestCheckpoint
from bpnet.callbacks.functions import EveryEpoch, EveryStep
from bpnet.callbacks.logs import CSVLogger, JSONLogger
from bpnet.callbacks.plateau import ReduceOnPlateau
from bpnet.callbacks.stopping import EarlyStopping, TimeLimit
from bpnet.callbacks.tensorboard import TensorBoard

__all__ = [
    "BestCheckpoint",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "EveryEpoch",
    "EveryStep",
    "JSONLogger",
    "ReduceOnPlateau",
    "TensorBoard",
    "TimeLimit",
]
