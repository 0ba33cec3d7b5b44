"""Samples that are made when a batch needs them."""

from __future__ import annotations

from typing import Any


class LazyRows:
    """Stands for an array whose rows are made batch by batch, so that the whole need not fit into memory.

    shape : (N, ...); dtype : of NumPy
    A subclass defines `take`. A Dataset takes it as x, `Trainer.fit` and `predict` too; the values of each batch are
    looked at when it is made.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def take(self, rows: Any) -> Any:
        """Some rows as a new NumPy array. rows : a slice, or integers (n,) from 0 to N - 1 in any order."""
        raise NotImplementedError(f"{type(self).__name__} must define take")

    def __getitem__(self, index: Any) -> Any:
        """`x[start:stop]` and `x[start:stop, ...]`."""
        return self.take(index[0] if isinstance(index, tuple) else index)
