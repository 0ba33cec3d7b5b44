"""Callbacks: what happens beside the training, told at the end of steps, epochs and fits."""

from bpnet.callbacks.base import Callback

__all__ = ["Callback"]
