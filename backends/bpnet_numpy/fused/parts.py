"""Programs that the threads of `helpers` run at the same time.

How work is divided depends on its size and on the number of threads that are wanted when it is bound, never on who is
free: every part is the same whoever runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet_numpy.fused.blas import address
from bpnet_numpy.fused.helpers import team, wanted
from bpnet_numpy.fused.instruction import FLOAT32, Program, instruction, machine
from bpnet_numpy.scratch import borrow
from bpnet_numpy.threads import openblas

Array = Any
PASS = 1 << 14
"""Numbers of a pass over memory that are worth a thread."""
MULTIPLICATIONS = 1 << 18
"""Multiplications that are worth a thread."""
CACHE_LINE = 16
"""Numbers, of float32, that several threads should not write in: so ranges of columns begin at a multiple."""


def together(parts: Sequence[Program]) -> Program:
    """A program that runs these programs at the same time; no part may touch what another one writes."""
    if len(parts) == 1:
        return parts[0]
    library = openblas()
    state, tell = team()
    laid = [np.concatenate((np.array([each.words.size], np.int64), each.words)) for each in parts]
    functions = (tell, 0 if library is None else address(library.set), machine().address("fork_share", FLOAT32))
    whole = instruction("fork", FLOAT32, state, *functions, len(parts), *laid)
    return whole.keeping(array for each in parts for array in each.arrays)


def pieces(n: int, work: int, least: int, step: int = 1) -> list[slice]:
    """Ranges of n rows of equal length, nearly, whose ends are multiples of `step`: one for every thread, fewer where
    the work of one would be less than `least`."""
    return ranges(n, max(1, min(wanted(), work // max(1, least), n // step)), step)


def ranges(n: int, count: int, step: int = 1) -> list[slice]:
    """So many ranges of n rows, nearly equal, whose ends are multiples of `step`."""
    ends = [round(n / step * k / count) * step for k in range(count)] + [n]
    return [slice(a, b) for a, b in pairwise(ends)]


def split(n: int, work: int, make: Callable[[slice], list[Program]], *, least: int, step: int = 1) -> list[Call]:
    """One program of what `make` returns for ranges of n rows, which are made at the same time.

    work : what there is to do in all, least : what is worth a thread, in the same unit; make : rows -> programs
    """
    return [together([Program.join(make(rows)) for rows in pieces(n, work, least, step)])]


def column_sums(out: Array, x: Array) -> list[Call]:
    """The calls that set `out` to the sums of the columns of x, on all threads where that is long."""

    def make(some: slice) -> list[Program]:
        part = x[:, some]
        return [instruction("sum_columns", x.dtype, out[some], part, *part.shape, x.strides[0] // x.itemsize)]

    return split(len(out), x.size, make, least=PASS, step=CACHE_LINE)


def sums_of_parts(
    outs: Sequence[Array | None], parts: Sequence[slice], make: Callable[[slice, list[Any]], Program], like: Array
) -> list[Call]:
    """The calls that set vectors to sums over parts, made at the same time: each by a program that writes its own.

    make : a part, and where its sums go, 0 where None -> program; like : an argument of the kernel
    """
    if len(parts) == 1:
        return [make(parts[0], [0 if out is None else out for out in outs])]
    wanted = [out for out in outs if out is not None]
    ends = list(accumulate((len(out) for out in wanted), initial=0))
    terms = borrow((len(parts), ends[-1]), like.dtype, like)
    own = [terms[:, a:b] for a, b in pairwise(ends)]
    programs = []
    for i, some in enumerate(parts):
        places = iter(own)
        programs.append(make(some, [0 if out is None else next(places)[i] for out in outs]))
    added = (column_sums(out, each) for out, each in zip(wanted, own, strict=True))
    return [together(programs), *chain.from_iterable(added)]
