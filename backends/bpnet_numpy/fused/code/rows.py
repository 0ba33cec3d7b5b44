"""A row times a matrix, which takes as long as the matrix takes to be read.

A long matrix is divided by its rows, so that each part lies in one piece. Parts are as many as its size says, whoever
makes them, and what they give is added in their order: the number of threads changes no bit. A thread takes the same
parts in every call, unless it is late; so a part that its processor's cache holds stays there from call to call.
Columns are summed in registers, 16 vectors of them at a time.

Words: team, the BLAS's function that tells its threads or 0, the body of a share, y, x, W, its rows, its columns, a
bias or 0, whether max(x, 0) follows, the number of parts, room for what they give, and how many numbers one has there.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.registers import (
    BYTE_POINTER,
    FLOAT,
    I32,
    I64,
    VECTOR,
    at,
    declared,
    element_of,
    first_lanes,
    in_all_lanes,
    integer,
    lanes,
    load_some,
    store_some,
    suffix_of,
    width,
)
from bpnet_numpy.fused.code.team import next_unit, shared

TEAM, THREADS, SHARE, Y, X, W, N, M, BIAS, RECTIFIED, PARTS, SPACE, PITCH = range(13)

WIDTHS = (16, 8, 4, 2, 1) if VECTOR == 64 else (8, 4, 2, 1)
"""Vectors whose columns are summed together."""
CHAINS = 8
"""Sums that wait for none of each other: of few columns those of every so many rows are apart until the end."""
AHEAD = 4
"""Rows that are fetched before they are read: the processor itself sees no pattern across pages."""


def _weighted_columns(module: Any, kind: Any, count: int, vectors: int) -> Any:
    """The function that sums some columns. Its arguments: x, W, the numbers between its rows, y, how many rows, and how
    many columns there are: no more than `vectors` vectors, and more than one vector less."""
    name = f"bpnet_columns_{vectors}_{count}"
    if name in module.globals:
        return module.globals[name]
    vector, size, chains = ir.VectorType(kind, count), 4 if kind == FLOAT else 8, max(1, CHAINS // vectors)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    x, w, stride, y, n, columns = function.args
    fma = declared(module, f"llvm.fma.{suffix_of(vector)}", vector, [vector] * 3)
    fetch = declared(module, "llvm.prefetch.p0", ir.VoidType(), [BYTE_POINTER, I32, I32, I32])
    b = ir.IRBuilder(function.append_basic_block("entry"))
    x, w, y = (b.inttoptr(each, kind.as_pointer()) for each in (x, w, y))
    last = first_lanes(b, count, b.sub(columns, integer((vectors - 1) * count)))
    far = b.mul(stride, integer(AHEAD))

    def add(step: Any, sums: list[Any]) -> list[Any]:
        number = in_all_lanes(b, b.load(at(b, x, step)), vector)
        start = at(b, w, b.mul(step, stride))
        soon = at(b, start, far)
        for byte in range(0, vectors * VECTOR, 64):
            there = b.bitcast(at(b, soon, integer(byte // size)), BYTE_POINTER)
            b.call(fetch, [there, *(ir.Constant(I32, each) for each in (0, 3, 1))])
        row = [b.load(at(b, start, integer(j * count), vector), align=size) for j in range(vectors - 1)]
        row.append(load_some(b, at(b, start, integer((vectors - 1) * count), vector), vector, last))
        return [b.call(fma, [number, each, before]) for each, before in zip(row, sums, strict=True)]

    def loop(first: Any, end: Any, high: int, sums: list[list[Any]]) -> list[list[Any]]:
        """Add rows, `high` at a time, each to a chain of its own."""
        before = b.block
        head, body, behind = (function.append_basic_block(each) for each in ("head", "body", "behind"))
        b.branch(head)
        b.position_at_end(head)
        step, now = b.phi(I64), [[b.phi(vector) for _ in chain] for chain in sums]
        b.cbranch(b.icmp_signed("<", step, end), body, behind)
        b.position_at_end(body)
        new = [add(b.add(step, integer(i)), now[i]) if i < high else now[i] for i in range(len(sums))]
        step.add_incoming(first, before)
        step.add_incoming(b.add(step, integer(high)), b.block)
        for phis, given, found in zip(now, sums, new, strict=True):
            for phi, one, other in zip(phis, given, found, strict=True):
                phi.add_incoming(one, before)
                phi.add_incoming(other, b.block)
        b.branch(head)
        b.position_at_end(behind)
        return now

    sums = [[ir.Constant(vector, [0.0] * count)] * vectors for _ in range(chains)]
    even = b.sub(n, b.srem(n, integer(chains)))
    sums = loop(integer(0), even, chains, sums)
    if chains > 1:
        sums = loop(even, n, 1, sums)
    while len(sums) > 1:
        half = len(sums) // 2
        pairs = zip(sums[:half], sums[half:], strict=True)
        sums = [[b.fadd(one, other) for one, other in zip(*pair, strict=True)] for pair in pairs]
    for j, each in enumerate(sums[0]):
        place = at(b, y, integer(j * count), vector)
        if j == vectors - 1:
            store_some(b, each, place, last)
        else:
            b.store(each, place, align=size)
    b.ret_void()
    return function


@intrinsic
def weighted_columns(
    typing: Any, p: Any, vectors: Any, x: Any, w: Any, stride: Any, y: Any, n: Any, columns: Any
) -> Any:
    """The sums of some columns of w, weighted by x, by the number of their vectors; see `_weighted_columns`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, vectors, *rest = arguments
        end = builder.append_basic_block("summed")
        choice = builder.switch(vectors, end)
        for v in WIDTHS:
            block = builder.append_basic_block(f"columns{v}")
            choice.add_case(integer(v), block)
            with builder.goto_block(block):
                builder.call(_weighted_columns(builder.module, element_of(p), lanes(p), v), rest)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 7)), generate


@njit(**FLAGS)
def _by_columns(p: Any, x: Any, w: Any, y: Any, n: Any, m: Any) -> None:
    """y = x w, of n rows."""
    size, lanes = vector(p, x, 1).itemsize, width(p)
    done = 0
    while done < m:
        left, vectors = (m - done + lanes - 1) // lanes, WIDTHS[0]
        while vectors > left:
            vectors //= 2
        columns = min(m - done, vectors * lanes)
        weighted_columns(p, vectors, x, w + done * size, m, y + done * size, n, columns)
        done += columns


@njit(**FLAGS)
def _by_rows(p: Any, x: Any, w: Any, y: Any, n: Any, m: Any) -> None:
    """The same where no vectors are made by hand: four rows at a time."""
    size = vector(p, x, 1).itemsize
    x, y = vector(p, x, n), vector(p, y, m)
    for j in range(m):
        y[j] = real(p, 0)
    for b in range(n // 4):
        i = 4 * b
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        w0, w1 = vector(p, w + i * m * size, m), vector(p, w + (i + 1) * m * size, m)
        w2, w3 = vector(p, w + (i + 2) * m * size, m), vector(p, w + (i + 3) * m * size, m)
        for j in range(m):
            y[j] += (x0 * w0[j] + x1 * w1[j]) + (x2 * w2[j] + x3 * w3[j])
    for i in range(n // 4 * 4, n):
        w0 = vector(p, w + i * m * size, m)
        for j in range(m):
            y[j] += x[i] * w0[j]


_rows = _by_columns if VECTOR else _by_rows


@njit(**FLAGS)
def _part(p: Any, a: Any, unit: Any) -> None:
    size, n, m = vector(p, a, 1).itemsize, word(a, N), word(a, M)
    first, behind = n * unit // word(a, PARTS), n * (unit + 1) // word(a, PARTS)
    to = word(a, SPACE) + unit * word(a, PITCH) * size
    _rows(p, word(a, X) + first * size, word(a, W) + first * m * size, to, behind - first, m)


def row_share(p: Any, team: Any, place: Any) -> None:
    """One thread's parts."""
    unit = next_unit(team, place)
    while unit >= 0:
        _part(p, words(p), unit)
        unit = next_unit(team, place)


def row_product(p: Any) -> None:
    """y = x W for one row, and bias and max(x, 0) behind it."""
    a = words(p)
    size, m, parts = vector(p, a, 1).itemsize, word(a, M), word(a, PARTS)
    y = vector(p, word(a, Y), m)
    if parts == 1:
        _rows(p, word(a, X), word(a, W), word(a, Y), word(a, N), m)
    else:
        shared(word(a, TEAM), word(a, THREADS), word(a, SHARE), a, parts)
        first, second = vector(p, word(a, SPACE), m), vector(p, word(a, SPACE) + word(a, PITCH) * size, m)
        for j in range(m):
            y[j] = first[j] + second[j]
        for part in range(2, parts):
            more = vector(p, word(a, SPACE) + part * word(a, PITCH) * size, m)
            for j in range(m):
                y[j] += more[j]
    if word(a, BIAS) != 0:
        bias = vector(p, word(a, BIAS), m)
        for j in range(m):
            y[j] += bias[j]
    if word(a, RECTIFIED) != 0:
        for j in range(m):
            y[j] = real(p, 0) if y[j] <= 0 else y[j]  # NaN stays
