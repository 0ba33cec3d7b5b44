"""Optimizers: one pass over each run of parameters that are treated alike, of the model's store."""

from bpnet.optimizers.adam import Adam, AdamW
from bpnet.optimizers.adaptive import Adagrad, Lion, RMSprop
from bpnet.optimizers.base import Optimizer
from bpnet.optimizers.groups import Group
from bpnet.optimizers.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Group", "Lion", "Optimizer", "RMSprop"]
