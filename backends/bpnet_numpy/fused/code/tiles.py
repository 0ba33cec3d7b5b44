"""Pieces of matrix products in the processor's vector registers, which no loop that LLVM finds by itself comes near.

A tile is what registers hold of a product: up to `rows` rows by up to two vectors of columns. Its factors are packed,
so that each step of the sum reads one column of the first and one row of the second, all beside each other.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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
    turned,
)

ROWS = 14 if VECTOR == 64 else 6
"""The most rows of a tile: with two vectors for each, the factors' vectors find room in the registers beside them."""


LOOSE = 3
"""What stands for the number of vectors where there is one and the first factor is not packed."""


def _load(b: Any, place: Any, vector: Any, mask: Any) -> Any:
    """All elements, or where a mask is given those where it is true."""
    if mask is not None:
        return load_some(b, place, vector, mask)
    return b.load(place, align=4 if vector.element == FLOAT else 8)


def _fetch(b: Any, place: Any, size: int, writing: bool = False) -> None:
    """Ask for so many bytes: for the second-level cache, or for the first where they will be written."""
    fetch = declared(b.module, "llvm.prefetch.p0", ir.VoidType(), [BYTE_POINTER, I32, I32, I32])
    hints = [ir.Constant(I32, each) for each in ((1, 3, 1) if writing else (0, 2, 1))]
    for line in range(0, size, 64):
        b.call(fetch, [b.inttoptr(b.add(place, integer(line)), BYTE_POINTER), *hints])


def _tile(module: Any, kind: Any, count: int, rows: int, vectors: int, loose: bool = False) -> Any:
    """The function that makes one tile of `rows` rows and `vectors` vectors of `count` numbers.

    Its arguments: the packed factors, the place of the result, the length of the sum, the result's row length, how
    many columns there are, the place of what it adds to, or 0, and its row length, and what will be needed soon: a
    place, the bytes from one row there to the next, and the logarithm of the steps of the sum between two rows. Of each
    row two cache lines come into the second-level cache, and those of a row of the result and of what it adds to into
    the first. They are asked for once, and not many at a time: what is asked for again holds up what the sum reads.

    loose : the first factor is not packed; in the place of what will be needed stands its row length
    """
    name = f"bpnet_{'loose_' if loose else ''}tile_{rows}_{vectors}_{count}"
    if name in module.globals:
        return module.globals[name]
    vector, size = ir.VectorType(kind, count), 4 if kind == FLOAT else 8
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 11), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, b_, c, k, stride, columns, before, before_stride, soon, leap, pace = function.args
    fma = declared(module, f"llvm.fma.{suffix_of(vector)}", vector, [vector] * 3)
    names = "entry", "loop", "fetch", "multiply", "behind"
    entry, loop, fetch, work, behind = (function.append_basic_block(each) for each in names)
    b = ir.IRBuilder(entry)
    adding = b.icmp_signed("!=", before, integer(0))
    a, c, b_, before = (b.inttoptr(each, kind.as_pointer()) for each in (a, c, b_, before))
    length = soon if loose else integer(rows)
    lines = [b.gep(a, [b.mul(length, integer(i)) if loose else integer(i)]) for i in range(rows)]
    between = b.sub(b.shl(integer(1), pace), integer(1))
    b.branch(loop)
    b.position_at_end(loop)
    step = b.phi(I64)
    step.add_incoming(integer(0), entry)
    sums = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    b.cbranch(b.icmp_signed("==", b.and_(step, between), integer(0)), fetch, work)
    b.position_at_end(fetch)
    row = b.ashr(step, pace)
    own = b.select(b.icmp_signed("<", row, integer(rows)), row, integer(rows - 1))
    _fetch(b, b.ptrtoint(b.gep(c, [b.mul(stride, own)]), I64), vectors * VECTOR, writing=True)
    with b.if_then(adding):
        _fetch(b, b.ptrtoint(b.gep(before, [b.mul(before_stride, own)]), I64), vectors * VECTOR, writing=True)
    if not loose:
        _fetch(b, b.add(soon, b.mul(row, leap)), 128)
    b.branch(work)
    b.position_at_end(work)
    here = b.mul(step, integer(vectors * count))
    right = [b.load(at(b, b_, b.add(here, integer(j * count)), vector), align=VECTOR) for j in range(vectors)]
    first = step if loose else b.mul(step, integer(rows))
    new = []
    for i in range(rows):
        x = in_all_lanes(b, b.load(at(b, lines[i], first)), vector)
        new.append([b.call(fma, [x, right[j], sums[i][j]]) for j in range(vectors)])
    for i in range(rows):
        for j in range(vectors):
            sums[i][j].add_incoming(ir.Constant(vector, [0.0] * count), entry)
            sums[i][j].add_incoming(new[i][j], work)
    after = b.add(step, integer(1))
    step.add_incoming(after, work)
    b.cbranch(b.icmp_signed("<", after, k), loop, behind)
    b.position_at_end(behind)
    full = b.icmp_signed(">=", columns, integer(vectors * count))
    masks = [first_lanes(b, count, b.sub(columns, integer(j * count))) for j in range(vectors)]
    with b.if_else(full) as (whole, partly):
        for branch, masked in ((whole, False), (partly, True)):
            with branch, b.if_else(adding) as (add, put):
                for way, added in ((add, True), (put, False)):
                    with way:
                        for i in range(rows):
                            for j in range(vectors):
                                x = new[i][j]
                                if added:
                                    there = b.add(b.mul(before_stride, integer(i)), integer(j * count))
                                    there = at(b, before, there, vector)
                                    x = b.fadd(_load(b, there, vector, masks[j] if masked else None), x)
                                place = at(b, c, b.add(b.mul(stride, integer(i)), integer(j * count)), vector)
                                if masked:
                                    store_some(b, x, place, masks[j])
                                else:
                                    b.store(x, place, align=size)
    b.ret_void()
    return function


@intrinsic
def tile(
    typing: Any, p: Any, rows: Any, vectors: Any, a: Any, b: Any, c: Any, k: Any, stride: Any, columns: Any,
    before: Any, before_stride: Any, soon: Any, leap: Any, pace: Any,
) -> Any:  # fmt: skip
    """A tile of a product, by the numbers of its rows and its vectors, LOOSE: one, and a loose tile; see `_tile`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, vectors, *rest = arguments
        end = builder.append_basic_block("tiled")
        which = builder.add(builder.mul(builder.sub(vectors, integer(1)), integer(ROWS)), rows)
        choice = builder.switch(which, end)
        for v in (1, 2, LOOSE):
            for r in range(1, ROWS + 1):
                block = builder.append_basic_block(f"tile{r}x{v}")
                choice.add_case(integer((v - 1) * ROWS + r), block)
                with builder.goto_block(block):
                    made = _tile(builder.module, element_of(p), lanes(p), r, 1 if v == LOOSE else v, v == LOOSE)
                    builder.call(made, rest)
                    builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 13)), generate


@intrinsic
def turn(typing: Any, p: Any, source: Any, stride: Any, rows: Any, out: Any, out_stride: Any, count: Any) -> Any:
    """Write a square's transpose: one vector of each of its rows, which are `stride` numbers apart.

    rows  : how many there are; behind the last the last is read again
    count : how many numbers of each result are written
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, stride, rows, out, out_stride, count = arguments
        n, kind, b = lanes(p), element_of(p), builder
        vector, size = ir.VectorType(kind, n), 4 if kind == FLOAT else 8
        source, out = (b.inttoptr(each, kind.as_pointer()) for each in (source, out))
        last = b.sub(rows, integer(1))
        read = []
        for i in range(n):
            row = b.select(b.icmp_signed("<", last, integer(i)), last, integer(i))
            read.append(b.load(at(b, source, b.mul(row, stride), vector), align=size))
        mask = first_lanes(b, n, count)
        for i, x in enumerate(turned(b, read)):
            store_some(b, x, at(b, out, b.mul(out_stride, integer(i)), vector), mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 6)), generate


@intrinsic
def move(typing: Any, p: Any, source: Any, out: Any, count: Any, written: Any) -> Any:
    """Copy up to one vector of numbers, and write zeros behind them until so many are written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, out, count, written = arguments
        vector = ir.VectorType(element_of(p), lanes(p))
        source, out = (builder.inttoptr(each, vector.as_pointer()) for each in (source, out))
        x = load_some(builder, source, vector, first_lanes(builder, lanes(p), count))
        store_some(builder, x, out, first_lanes(builder, lanes(p), written))
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 4)), generate


@intrinsic
def fetch(typing: Any, p: Any, place: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _fetch(builder, arguments[1], 64)
        return context.get_dummy_value()

    return types.void(p, types.int64), generate


@intrinsic
def shift_row(typing: Any, p: Any, row: Any, bias: Any, count: Any, rectified: Any) -> Any:
    """Add a bias to up to two vectors of a row, and let max(x, 0) follow where `rectified` is not 0. NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, row, bias, count, rectified = arguments
        n, b = lanes(p), builder
        vector = ir.VectorType(element_of(p), n)
        row, bias = (b.inttoptr(each, element_of(p).as_pointer()) for each in (row, bias))
        zero = ir.Constant(vector, [0.0] * n)
        cut = b.icmp_signed("!=", rectified, integer(0))
        for j in range(2):
            mask = first_lanes(b, n, b.sub(count, integer(j * n)))
            place = at(b, row, integer(j * n), vector)
            x = b.fadd(
                load_some(b, place, vector, mask), load_some(b, at(b, bias, integer(j * n), vector), vector, mask)
            )
            negative = b.select(b.fcmp_ordered("<=", x, zero), zero, x)
            store_some(b, b.select(cut, negative, x), place, mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 4)), generate


@intrinsic
def gate_row(typing: Any, p: Any, row: Any, gate: Any, count: Any) -> Any:
    """Set up to two vectors of a row to 0 where those at `gate` are not above 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, row, gate, count = arguments
        n, b = lanes(p), builder
        vector = ir.VectorType(element_of(p), n)
        row, gate = (b.inttoptr(each, element_of(p).as_pointer()) for each in (row, gate))
        zero = ir.Constant(vector, [0.0] * n)
        for j in range(2):
            mask = first_lanes(b, n, b.sub(count, integer(j * n)))
            place = at(b, row, integer(j * n), vector)
            x = load_some(b, place, vector, mask)
            y = load_some(b, at(b, gate, integer(j * n), vector), vector, mask)
            store_some(b, b.select(b.fcmp_ordered(">", y, zero), x, zero), place, mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 3)), generate
