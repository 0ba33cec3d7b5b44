"""What the recurrent bodies share: the states of some samples times a weight, the same at every step; lengths.

Where the processor has vectors that tiles are made for, the weight lies in panels of two of them, laid out once for the
whole sequence, and the states are multiplied with a panel in registers. Else the BLAS multiplies.
"""

from __future__ import annotations

from typing import Any

from numba import int64, njit

from bpnet_numpy.fused.code.intrinsics import AS_IT_IS, FLAGS, int32s, int64s, matrix_product, real, vector, word, words
from bpnet_numpy.fused.code.registers import VECTOR, width
from bpnet_numpy.fused.code.strips import HEIGHT, strip

SMALL = 100**3


@njit(**FLAGS)
def _by_tiles(
    p: Any, gemm: Any, bits: Any, tables: Any, samples: Any, n: Any, k: Any, h: Any, U: Any, out: Any, item: Any
) -> None:
    tiles, panel = (samples + HEIGHT - 1) // HEIGHT, 2 * width(p)
    for j in range(0, n, panel):
        vectors = 2 if n - j > width(p) else 1
        for i in range(tiles):
            s = samples * i // tiles
            place = out + item * (s * n + j)
            strip(
                p, samples * (i + 1) // tiles - s, vectors, h + item * s * k, tables, tables + 8 * 2 * HEIGHT, k,
                U + item * j * k, vectors * width(p), place, tables + 8 * HEIGHT, n - j, 0, place, 0, 0,
            )  # fmt: skip


@njit(**FLAGS)
def _by_blas(
    p: Any, gemm: Any, bits: Any, tables: Any, samples: Any, n: Any, k: Any, h: Any, U: Any, out: Any, item: Any
) -> None:
    """So many columns at a time that OpenBLAS multiplies without packing U, which would take as long as the product of
    few rows. [OpenBLAS, interface/gemm.c: small matrices are of up to 100^3 multiplications]"""
    step = SMALL // (samples * k) // 16 * 16
    step = n if step < 16 else min(n, step)
    for j in range(0, n, step):
        matrix_product(
            p, gemm, bits, AS_IT_IS, AS_IT_IS, samples, min(step, n - j), k, real(p, 1), h, k, U + item * j, n,
            real(p, 0), out + item * j, n,
        )  # fmt: skip


step_product = _by_tiles if VECTOR else _by_blas
"""(p, gemm, bits of its sizes, tables, samples, n, k, h, U, out, bytes of a number): out (samples, n) = h U, all
contiguous; U (k, n) in panels, and tables of where HEIGHT rows of h and of out begin, and 0 ... k - 1, for tiles."""


@njit(**FLAGS)
def clear(p: Any, out: Any, n: Any) -> None:
    """Write n zeros."""
    to = vector(p, out, n)
    for j in range(n):
        to[j] = real(p, 0)


@njit(**FLAGS)
def copy(p: Any, out: Any, source: Any, n: Any) -> None:
    """Write n numbers that are elsewhere."""
    to, come = vector(p, out, n), vector(p, source, n)
    for j in range(n):
        to[j] = come[j]


@njit(**FLAGS)
def begin(p: Any, out: Any, source: Any, n: Any) -> None:
    """Write n numbers that are elsewhere, or zeros where `source` is 0."""
    if source != 0:
        copy(p, out, source, n)
    else:
        clear(p, out, n)


@njit(**FLAGS)
def length_of(lengths: Any, bytes: Any, sample: Any, steps: Any) -> Any:
    """How many steps a sample has: all where `lengths` is 0, else what the int32 or int64 there say."""
    if lengths == 0:
        return steps
    return int64s(lengths, sample + 1)[sample] if bytes == 8 else int64(int32s(lengths, sample + 1)[sample])


def present_rows(p: Any) -> None:
    """Copy the rows that samples have, and zeros behind them. Words: out, x, lengths, bytes of a length, samples, T,
    numbers of a row."""
    a = words(p)
    steps, width = word(a, 5), word(a, 6)
    item = vector(p, a, 1).itemsize
    for s in range(word(a, 4)):
        there = min(max(length_of(word(a, 2), word(a, 3), s, steps), 0), steps)
        start = item * s * steps * width
        copy(p, word(a, 0) + start, word(a, 1) + start, there * width)
        clear(p, word(a, 0) + start + item * there * width, (steps - there) * width)
