"""Matrix products by the BLAS that NumPy brings, called at its address.

Words: cblas_?gemm, flags of transposition (111: as it is, 112: transposed), m, n, k, a, its row length, b, its row
length, c, its row length.
"""

from __future__ import annotations

from typing import Any

from bpnet_numpy.fused.code.intrinsics import product_of_32, product_of_64, word, words


def product_64(p: Any) -> None:
    """c = a b, by a BLAS whose sizes are int64."""
    a = words(p)
    product_of_64(
        p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 4), word(a, 5), word(a, 6), word(a, 7), word(a, 8),
        word(a, 9), word(a, 10), word(a, 11),
    )  # fmt: skip


def product_32(p: Any) -> None:
    """c = a b, by a BLAS whose sizes are int32."""
    a = words(p)
    product_of_32(
        p, word(a, 0), word(a, 1), word(a, 2), word(a, 3), word(a, 4), word(a, 5), word(a, 6), word(a, 7), word(a, 8),
        word(a, 9), word(a, 10), word(a, 11),
    )  # fmt: skip
