"""Matrix products by NumPy's own BLAS, divided among the threads of `team`: each part is one thread's product."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bpnet.dispatch import Call
from bpnet_numpy.fused.blas import address, gemm
from bpnet_numpy.fused.instruction import Program, instruction
from bpnet_numpy.fused.team import pieces, split, team, together
from bpnet_numpy.fused.variants.activations import CACHE_LINE, FLOAT32, PASS
from bpnet_numpy.fused.variants.common import check_place
from bpnet_numpy.kernels.common import Array
from bpnet_numpy.threads import one_thread_is_enough, openblas
from bpnet_numpy.threads import product as plain_product

AS_IT_IS, TRANSPOSED = 111, 112
LEAST = 1 << 18
"""Multiplications that are worth a thread: some microseconds."""
STEP = 16
"""Parts end at multiples of so many rows or columns, which OpenBLAS's kernels compute together."""


def lies(x: Array) -> tuple[int, int]:
    """How a matrix lies in memory: the flag of transposition, and numbers between the starts of two rows (columns)."""
    rows, columns = x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    if columns == 1 or x.shape[1] == 1:
        return AS_IT_IS, max(rows, x.shape[1])
    return TRANSPOSED, max(columns, x.shape[0])


def one_product(out: Array, a: Array, b: Array) -> Program:
    """The program that sets `out` to a b; matrices whose rows or columns have no gaps, those of `out` its rows."""
    found = gemm(out.dtype)
    assert found is not None
    (flag_a, lda), (flag_b, ldb), (_, ldc) = lies(a), lies(b), lies(out)
    shape = (*out.shape, a.shape[1])
    return instruction(found.body, out.dtype, found.address, flag_a, flag_b, *shape, a, lda, b, ldb, out, ldc)


def grid(m: int, n: int, k: int) -> list[tuple[slice, slice]]:
    """Parts of an (m, n) product over k: one for every thread, as square as they can be, fewer of small ones."""
    count = max(1, min(team().size, m * n * k // LEAST))
    best, shape = float("inf"), (1, 1)
    for rows in range(1, count + 1):
        columns = count // rows
        if rows * columns < count or (rows > 1 and m // rows < STEP) or (columns > 1 and n // columns < STEP):
            continue
        if (cost := m / rows + n / columns) < best:
            best, shape = cost, (rows, columns)
    return [(i, j) for i in _ranges(m, shape[0]) for j in _ranges(n, shape[1])]


def _ranges(n: int, count: int) -> list[slice]:
    ends = [round(n / STEP * k / count) * STEP for k in range(count)] + [n]
    return [slice(a, b) for a, b in pairwise(ends)]


def parts(out: Array, a: Array, b: Array) -> list[Program]:
    """Programs that set `out` to a b when all have been run, in any order or at the same time."""
    return [one_product(out[i, j], a[i], b[:, j]) for i, j in grid(*out.shape, a.shape[1])]


def by_terms(out: Array, a: Array, b: Array) -> list[slice]:
    """Ranges of what is summed over, where that is so long that it is divided: then each thread reads its own rows of
    both factors and nothing of another's, and adding up its results costs little."""
    (m, n), k = out.shape, a.shape[1]
    return pieces(k, m * n * k, LEAST, STEP) if k >= m + n else []


def shared(out: Array, a: Array, b: Array) -> tuple[list[Program], list[Call]]:
    """Programs, one for each thread, that make `out` = a b but for the calls that must follow all of them."""
    ranges = by_terms(out, a, b)
    if len(ranges) < 2:
        return parts(out, a, b), []
    terms = [np.empty(out.shape, out.dtype) for _ in ranges[1:]]
    programs = [one_product(to, a[:, some], b[some]) for to, some in zip([out, *terms], ranges, strict=True)]
    flat = [each.reshape(-1) for each in (out, *terms)]

    def add(some: slice) -> list[Program]:
        to, *others = (each[some] for each in flat)
        return [instruction("add", to.dtype, to, to, each, to.size) for each in others]

    return programs, list(split(out.size, out.size * len(terms), add, least=PASS, step=CACHE_LINE))


def possible(out: Array, a: Array, b: Array) -> bool:
    """Whether a program can make this product."""
    return gemm(out.dtype) is not None and min(*out.shape, a.shape[1]) > 0


def product(out: Array, a: Array, b: Array) -> list[Call]:
    """The calls that set `out` to a b. Matrices whose rows or columns have no gaps; `out` is C-contiguous."""
    check_place(out, (a.shape[0], b.shape[1]), a.dtype)
    if not possible(out, a, b):
        return [plain_product(a, b, out)]
    if a.shape[0] == 1 and a.flags.c_contiguous and b.flags.c_contiguous:
        return [instruction("row_product", out.dtype, out, a, b, *b.shape)]
    programs, after = shared(out, a, b)
    return [*at_once(programs, (a.shape, b.shape, b.flags.c_contiguous)), *after]


def at_once(programs: list[Program], shapes: tuple[tuple[int, ...], tuple[int, ...], bool]) -> list[Call]:
    """The calls that run the parts of a product together; one part on one thread where more would not pay."""
    library = openblas()
    if len(programs) > 1 or library is None or not one_thread_is_enough(*shapes, library.kernel):
        return [together(programs)]
    threads = (address(library.get), address(library.set), np.zeros(1, np.int64))
    return [instruction("one_thread", FLOAT32, *threads), *programs, instruction("threads_again", FLOAT32, *threads)]


def dealt(*groups: list[Program]) -> list[Call]:
    """One program of several groups of independent programs, dealt to the threads: the first of each to the first."""
    hands: list[list[Program]] = [[] for _ in range(max(len(group) for group in groups))]
    for group in groups:
        for hand, program in zip(hands, group, strict=False):
            hand.append(program)
    return [together([Program.join(hand) for hand in hands])]
