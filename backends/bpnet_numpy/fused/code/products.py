"""Matrix products by the BLAS that NumPy brings, called at its address, and a row times a matrix.

Words of a product: cblas_?gemm, flags of transposition (111: as it is, 112: transposed), m, n, k, a, its row length,
b, its row length, c, its row length.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import (
    FLAGS,
    int64s,
    product_of_32,
    product_of_64,
    real,
    set_threads,
    threads_of,
    vector,
    word,
    words,
)
from bpnet_numpy.fused.code.team import next_unit, shared


def product_64(p: Any) -> None:
    """c = a b, by a BLAS whose sizes are int64."""
    a = words(p)
    product_of_64(
        p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 4), word(a, 5), real(p, 1), word(a, 6), word(a, 7),
        word(a, 8), word(a, 9), real(p, 0), word(a, 10), word(a, 11),
    )  # fmt: skip


def product_32(p: Any) -> None:
    """c = a b, by a BLAS whose sizes are int32."""
    a = words(p)
    product_of_32(
        p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 4), word(a, 5), real(p, 1), word(a, 6), word(a, 7),
        word(a, 8), word(a, 9), real(p, 0), word(a, 10), word(a, 11),
    )  # fmt: skip


def one_thread(p: Any) -> None:
    """Let OpenBLAS use one thread. Words: its functions that get and set the number, where to keep the present one."""
    a = words(p)
    kept = int64s(word(a, 2), 1)
    kept[0] = threads_of(word(a, 0))
    if kept[0] != 1:
        set_threads(word(a, 1), 1)


def threads_again(p: Any) -> None:
    """Let it use as many as before. Words: as in `one_thread`."""
    a = words(p)
    kept = int64s(word(a, 2), 1)
    if kept[0] != 1:
        set_threads(word(a, 1), kept[0])


@njit(**FLAGS)
def _columns(p: Any, x: Any, W: Any, y: Any, n: Any, m: Any, first: Any, last: Any) -> None:
    """Columns first ... last - 1 of x W, at the rate at which W can be read: four of its rows at a time."""
    size, wide = vector(p, x, 1).itemsize, last - first
    x, y = vector(p, x, n), vector(p, y + first * size, wide)
    for j in range(wide):
        y[j] = real(p, 0)
    for b in range(n // 4):
        i = 4 * b
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        w0 = vector(p, W + (i * m + first) * size, wide)
        w1 = vector(p, W + ((i + 1) * m + first) * size, wide)
        w2 = vector(p, W + ((i + 2) * m + first) * size, wide)
        w3 = vector(p, W + ((i + 3) * m + first) * size, wide)
        for j in range(wide):
            y[j] += (x0 * w0[j] + x1 * w1[j]) + (x2 * w2[j] + x3 * w3[j])
    for i in range(n // 4 * 4, n):
        w0 = vector(p, W + (i * m + first) * size, wide)
        for j in range(wide):
            y[j] += x[i] * w0[j]


def row_product(p: Any) -> None:
    """y = x W for one row. Words: y, x, W, n, m."""
    a = words(p)
    _columns(p, word(a, 1), word(a, 2), word(a, 0), word(a, 3), word(a, 4), 0, word(a, 4))


def row_share(p: Any, team: Any, place: Any) -> None:
    """One thread's part of the columns."""
    a = words(p)
    m, parts = word(a, 7), word(a, 8)
    unit = next_unit(team, place)
    while unit >= 0:
        # cut between lines of the cache
        first, last = m * unit // parts // 16 * 16, m if unit == parts - 1 else m * (unit + 1) // parts // 16 * 16
        _columns(p, word(a, 4), word(a, 5), word(a, 3), word(a, 6), m, first, last)
        unit = next_unit(team, place)


def row_product_divided(p: Any) -> None:
    """The same by a team. Words: team, the BLAS's function that tells its threads or 0, the body of a share; y, x, W,
    n, m; the number of parts."""
    a = words(p)
    shared(word(a, 0), word(a, 1), word(a, 2), a, word(a, 8))
