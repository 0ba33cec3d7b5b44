"""Axes in another order: two neighbours swapped, which is what layouts of images and groups of channels need."""

from __future__ import annotations

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, Array, named, packs, real

TILE = 32
GRID_YZ = 65535
"""Blocks along the second and the third axis of a grid at most."""


def swapped(driver: Driver, out: Array, x: Array, batch: int, rows: int, columns: int, inner: int) -> Call:
    """out[n, j, i, k] = x[n, i, j, k] for x (batch, rows, columns, inner), whatever the arrays' shapes."""
    if inner == 1:
        grid = (-(-columns // TILE), min(-(-rows // TILE), GRID_YZ), min(batch, GRID_YZ))
        args = (out, x, *map(np.int64, (batch, rows, columns)))
        return driver.launch(f"transpose_tiles<{named(x)}>", grid, (TILE, 8), args)
    args = (out, x, *map(np.int64, (batch, rows, columns, inner)))
    return driver.launch(f"swap_axes<{named(x)}>", packs(driver, x.size, x.dtype), BLOCK, args)


def as_swap(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """What `swapped` takes for a permutation: (batch, rows, columns, inner); None where it is no swap of neighbours.

    Axes that stay together count as one, and axes of one element not at all.
    """
    kept = [axis for axis in range(len(shape)) if shape[axis] != 1]
    runs: list[tuple[int, int]] = []  # (number of its last axis among those kept, size)
    for rank in (kept.index(axis) for axis in axes if shape[axis] != 1):
        size = shape[kept[rank]]
        if runs and runs[-1][0] + 1 == rank:
            runs[-1] = (rank, runs[-1][1] * size)
        else:
            runs.append((rank, size))
    batch = inner = 1
    if len(runs) > 1 and runs[0][0] == min(runs)[0]:
        batch = runs.pop(0)[1]
    if runs and runs[-1] == max(runs):
        inner = runs.pop()[1]
    if not runs:
        return (1, 1, 1, batch * inner)
    if len(runs) != 2:
        return None
    (_, columns), (_, rows) = runs
    return batch, rows, columns, inner


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @ops.transpose.register_bound(
        array_type,
        accepts=lambda x, axes: real(x) and as_swap(x.shape, axes) is not None,
        allocate=lambda x, axes: driver.empty(tuple(x.shape[axis] for axis in axes), x.dtype),
    )
    def _(out: Array, x: Array, axes: tuple[int, ...]) -> list[Call]:
        found = as_swap(x.shape, axes)
        assert found is not None
        return [swapped(driver, out, x, *found)]
