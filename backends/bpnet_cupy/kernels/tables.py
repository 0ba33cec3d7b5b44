"""Rows of a table by number, and the table's gradient: places sorted by number, then added up in their order."""

from __future__ import annotations

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.common import BLOCK, INT64, LABELS, Array, blocks, named, packs, real

TILE = 1024
"""As in tables.cu: places that are sorted by a block."""


GRID_Y = 65535
"""Blocks along the second axis of a grid at most."""


def _ids(ids: Array) -> bool:
    return bool(ids.dtype in LABELS and ids.size > 0 and ids.flags.c_contiguous)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    @ops.embedding.register_bound(
        array_type,
        accepts=lambda ids, W: _ids(ids) and real(W),
        allocate=lambda ids, W: driver.empty((*ids.shape, W.shape[1]), W.dtype),
    )
    def _(out: Array, ids: Array, W: Array) -> list[Call]:
        args = (out, ids, W, *map(np.int64, (ids.size, W.shape[1], W.shape[0])))
        kernel = f"take_rows<{named(W)}, {named(ids)}>"
        return [driver.launch(kernel, packs(driver, out.size, out.dtype), BLOCK, args)]

    @ops.embedding_backward.register_bound(
        array_type,
        accepts=lambda dy, ids, n_tokens: real(dy) and _ids(ids) and n_tokens > 0,
        allocate=lambda dy, ids, n_tokens: driver.empty((n_tokens, dy.shape[-1]), dy.dtype),
    )
    def _(out: Array, dy: Array, ids: Array, n_tokens: int) -> list[Call]:
        n, columns = ids.size, dy.shape[-1]
        tiles = -(-n // TILE)
        sorted_ids, places = driver.empty(n, INT64), driver.empty(n, INT64)
        calls = [driver.launch(f"sort_tiles<{named(ids)}>", tiles, BLOCK, (sorted_ids, places, ids, np.int64(n)))]
        if tiles > 1:
            parts = (sorted_ids, places)
            sorted_ids, places = driver.empty(n, INT64), driver.empty(n, INT64)
            args = (sorted_ids, places, *parts, np.int64(n))
            calls.append(driver.launch("merge_tiles<0>", blocks(driver, n), BLOCK, args))
        grid = (-(-columns * dy.dtype.itemsize // (32 * 16)), min(n_tokens, GRID_Y))
        args = (out, dy, sorted_ids, places, *map(np.int64, (n, columns, n_tokens)))
        calls.append(driver.launch(f"sum_rows<{named(dy)}>", grid, (32, 8), args))
        return calls
