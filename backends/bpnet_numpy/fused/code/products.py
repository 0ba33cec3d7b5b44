"""Matrix products by the BLAS that NumPy brings, called at its address.

Words of a product: cblas_?gemm, flags of transposition (111: as it is, 112: transposed), m, n, k, a, its row length,
b, its row length, c, its row length.
"""

from __future__ import annotations

from typing import Any

from bpnet_numpy.fused.code.intrinsics import (
    int64s,
    product_of_32,
    product_of_64,
    real,
    set_threads,
    threads_of,
    word,
    words,
)


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
