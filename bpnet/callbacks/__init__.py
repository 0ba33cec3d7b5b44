"""Callbacks: what is told of a fit while it runs, and may end it."""

from bpnet.callbacks.base import Callback

__all__ = ["Callback"]
