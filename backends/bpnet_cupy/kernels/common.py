"""What the bodies share: which arrays they take, numbers as the kernels want them, sizes of grids."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Kernel
from bpnet_cupy.driver import Driver
from bpnet_cupy.names import TYPES

Array = Any

REAL = (np.dtype("float32"), np.dtype("float64"))
LABELS = (np.dtype("int32"), np.dtype("int64"))
FLOAT64, INT64, BOOL = np.dtype("float64"), np.dtype("int64"), np.dtype("bool")
FLOAT32, UINT16 = np.dtype("float32"), np.dtype("uint16")

BLOCK = 256
"""Threads of a block: enough to hide the memory's latency, few enough for every kernel's registers."""

PARTIALS = 256
"""Blocks of a sum at most. It depends on nothing, so that a sum has the same bits on every device."""


def op(name: str) -> Kernel:
    """The op of that name."""
    found: Kernel = getattr(ops, name)
    return found


def real(*arrays: Array) -> bool:
    """Whether all arrays are C-contiguous, not empty, and of one dtype, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype in REAL and all(a.dtype == dtype and a.size > 0 and a.flags.c_contiguous for a in arrays)


def alike(*arrays: Array) -> bool:
    """Whether they are so, and of one shape."""
    return all(a.shape == arrays[0].shape for a in arrays) and real(*arrays)


def halves(*arrays: Array) -> bool:
    """Whether all arrays are C-contiguous bits of bfloat16, and not empty."""
    return all(a.dtype == UINT16 and a.size > 0 and a.flags.c_contiguous for a in arrays)


def flag(ok: Array) -> bool:
    """Whether `ok` is one bool."""
    return bool(ok.size == 1 and ok.dtype == BOOL)


def rate(x: Array) -> bool:
    """Whether `x` is one float64 number."""
    return bool(x.size == 1 and x.dtype == FLOAT64)


def counts(counters: Array) -> bool:
    """Whether these are the store's counters."""
    return bool(counters.dtype == INT64 and counters.ndim == 1 and counters.size > 0 and counters.flags.c_contiguous)


def labels_of(labels: Array, rows: int) -> bool:
    """Whether these are the labels of so many rows, in a dtype that the kernels take."""
    return bool(labels.size == rows and labels.dtype in LABELS and labels.flags.c_contiguous)


def number(x: Any) -> bool:
    """Whether `x` is a number of Python's, and no array."""
    return isinstance(x, (int, float))


def normal(normalizer: Any) -> bool:
    """Whether `normalizer` is a number, or one float64 number on the device."""
    return number(normalizer) or rate(normalizer)


def normalizer_args(normalizer: Any) -> tuple[Any, Any]:
    """The two arguments of a kernel for it: the array or None, the number or 0."""
    return (None, np.float64(normalizer)) if number(normalizer) else (normalizer, np.float64(0))


def named(*arrays: Array) -> str:
    """The C++ name of the first array's elements."""
    return TYPES[arrays[0].dtype]


def packs(driver: Driver, n: int, dtype: Any) -> int:
    """The blocks for n elements that are moved in packs of 16 bytes."""
    return blocks(driver, -(-n * dtype.itemsize // 16))


def blocks(driver: Driver, n: int) -> int:
    """The blocks for n threads: at most sixteen a multiprocessor, which then go through several parts."""
    return min(-(-n // BLOCK), 16 * driver.sm_count)


def partial_blocks(n: int, each: int = 8 * BLOCK) -> int:
    """The blocks that sum n elements, `each` of them a block."""
    return max(1, min(-(-n // each), PARTIALS))


def scratch(driver: Driver, grid: int, sums: int = 1) -> tuple[Array | None, Array | None]:
    """What the sums of a grid need: the partial sums and the counter; nothing for a single block."""
    if grid == 1:
        return None, None
    return driver.empty(grid * sums, FLOAT64), driver.zeros(1, np.dtype("uint32"))


def lanes(columns: int, widest: int = 256) -> int:
    """How many threads share a row of so many elements."""
    return 8 if columns <= 16 else 32 if columns <= 1024 or widest == 32 else 256


def row_grid(driver: Driver, rows: int, width: int) -> int:
    """The blocks for so many rows, `width` threads each."""
    return blocks(driver, rows * width)


def row_sum_grid(rows: int, width: int) -> int:
    """The same for a kernel that also sums over rows: a number that depends on nothing but them."""
    return partial_blocks(rows * width, BLOCK)


def nothing(*_: Any) -> None:
    """Allocate nothing: the op writes into its arguments."""
