"""Pieces of matrix products in the processor's vector registers, which no loop that LLVM finds by itself comes near.

A tile is what registers hold of a product: up to `rows` rows by up to two vectors of columns. Its factors are packed,
so that each step of the sum reads one column of the first and one row of the second, all beside each other.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()


def _vector_bytes() -> int:
    """The bytes of this processor's vectors; 0 where tiles are not made for them."""
    if config.CPU_NAME == "generic":
        return 0
    given = config.CPU_FEATURES
    if given is None:
        found = llvmlite.binding.get_host_cpu_features()
        has = {name for name, there in found.items() if there}
    else:
        has = {name[1:] for name in given.split(",") if name.startswith("+")}
    if {"avx512f", "avx512vl"} <= has:
        return 64
    return 32 if {"avx2", "fma"} <= has else 0


VECTOR = _vector_bytes()
ROWS = 14 if VECTOR == 64 else 6
"""The most rows of a tile: with two vectors for each, the factors' vectors find room in the registers beside them."""


LOOSE = 3
"""What stands for the number of vectors where there is one and the first factor is not packed."""


def lanes(p: Any) -> int:
    """How many numbers a vector holds of the type that `p` points at."""
    return VECTOR // (4 if p.dtype == types.float32 else 8)


def _kind(p: Any) -> Any:
    return FLOAT if p.dtype == types.float32 else DOUBLE


def _suffix(vector: Any) -> str:
    return f"v{vector.count}f{32 if vector.element == FLOAT else 64}"


def _declared(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def _whole(n: int) -> Any:
    return ir.Constant(I64, n)


def _at(b: Any, start: Any, index: Any, vector: Any = None) -> Any:
    """The place of element `index` behind a pointer, as one of a vector where that is given."""
    place = b.gep(start, [index])
    return place if vector is None else b.bitcast(place, vector.as_pointer())


def _mask(b: Any, n: int, count: Any) -> Any:
    """True in the first `count` of n lanes."""
    numbers, wanted = ir.VectorType(I32, n), b.trunc(count, I32)
    spread = b.insert_element(ir.Constant(numbers, ir.Undefined), wanted, ir.Constant(I32, 0))
    spread = b.shuffle_vector(spread, spread, ir.Constant(numbers, [0] * n))
    return b.icmp_signed("<", ir.Constant(numbers, list(range(n))), spread)


def _load_some(b: Any, place: Any, vector: Any, mask: Any) -> Any:
    """The elements where the mask is true; 0 elsewhere, and nothing is read there."""
    masks = ir.VectorType(I1, vector.count)
    name = f"llvm.masked.load.{_suffix(vector)}.p0"
    load = _declared(b.module, name, vector, [vector.as_pointer(), I32, masks, vector])
    size = 4 if vector.element == FLOAT else 8
    return b.call(load, [place, ir.Constant(I32, size), mask, ir.Constant(vector, [0.0] * vector.count)])


def _load(b: Any, place: Any, vector: Any, mask: Any) -> Any:
    """All elements, or where a mask is given those where it is true."""
    if mask is not None:
        return _load_some(b, place, vector, mask)
    return b.load(place, align=4 if vector.element == FLOAT else 8)


def _store_some(b: Any, x: Any, place: Any, mask: Any) -> None:
    """Write the elements where the mask is true."""
    masks = ir.VectorType(I1, x.type.count)
    name = f"llvm.masked.store.{_suffix(x.type)}.p0"
    store = _declared(b.module, name, ir.VoidType(), [x.type, x.type.as_pointer(), I32, masks])
    b.call(store, [x, place, ir.Constant(I32, 4 if x.type.element == FLOAT else 8), mask])


def _fetch(b: Any, place: Any, size: int, writing: bool = False) -> None:
    """Ask for so many bytes: for the second-level cache, or for the first where they will be written."""
    fetch = _declared(b.module, "llvm.prefetch.p0", ir.VoidType(), [BYTES, I32, I32, I32])
    hints = [ir.Constant(I32, each) for each in ((1, 3, 1) if writing else (0, 2, 1))]
    for line in range(0, size, 64):
        b.call(fetch, [b.inttoptr(b.add(place, _whole(line)), BYTES), *hints])


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
    fma = _declared(module, f"llvm.fma.{_suffix(vector)}", vector, [vector] * 3)
    names = "entry", "loop", "fetch", "multiply", "behind"
    entry, loop, fetch, work, behind = (function.append_basic_block(each) for each in names)
    b = ir.IRBuilder(entry)
    adding = b.icmp_signed("!=", before, _whole(0))
    a, c, b_, before = (b.inttoptr(each, kind.as_pointer()) for each in (a, c, b_, before))
    length = soon if loose else _whole(rows)
    lines = [b.gep(a, [b.mul(length, _whole(i)) if loose else _whole(i)]) for i in range(rows)]
    between = b.sub(b.shl(_whole(1), pace), _whole(1))
    b.branch(loop)
    b.position_at_end(loop)
    step = b.phi(I64)
    step.add_incoming(_whole(0), entry)
    sums = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    b.cbranch(b.icmp_signed("==", b.and_(step, between), _whole(0)), fetch, work)
    b.position_at_end(fetch)
    row = b.ashr(step, pace)
    own = b.select(b.icmp_signed("<", row, _whole(rows)), row, _whole(rows - 1))
    _fetch(b, b.ptrtoint(b.gep(c, [b.mul(stride, own)]), I64), vectors * VECTOR, writing=True)
    with b.if_then(adding):
        _fetch(b, b.ptrtoint(b.gep(before, [b.mul(before_stride, own)]), I64), vectors * VECTOR, writing=True)
    if not loose:
        _fetch(b, b.add(soon, b.mul(row, leap)), 128)
    b.branch(work)
    b.position_at_end(work)
    here = b.mul(step, _whole(vectors * count))
    right = [b.load(_at(b, b_, b.add(here, _whole(j * count)), vector), align=VECTOR) for j in range(vectors)]
    first = step if loose else b.mul(step, _whole(rows))
    new = []
    for i in range(rows):
        x = b.insert_element(ir.Constant(vector, ir.Undefined), b.load(_at(b, lines[i], first)), ir.Constant(I32, 0))
        x = b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, count), [0] * count))
        new.append([b.call(fma, [x, right[j], sums[i][j]]) for j in range(vectors)])
    for i in range(rows):
        for j in range(vectors):
            sums[i][j].add_incoming(ir.Constant(vector, [0.0] * count), entry)
            sums[i][j].add_incoming(new[i][j], work)
    after = b.add(step, _whole(1))
    step.add_incoming(after, work)
    b.cbranch(b.icmp_signed("<", after, k), loop, behind)
    b.position_at_end(behind)
    full = b.icmp_signed(">=", columns, _whole(vectors * count))
    masks = [_mask(b, count, b.sub(columns, _whole(j * count))) for j in range(vectors)]
    with b.if_else(full) as (whole, partly):
        for branch, masked in ((whole, False), (partly, True)):
            with branch, b.if_else(adding) as (add, put):
                for way, added in ((add, True), (put, False)):
                    with way:
                        for i in range(rows):
                            for j in range(vectors):
                                x = new[i][j]
                                if added:
                                    there = b.add(b.mul(before_stride, _whole(i)), _whole(j * count))
                                    there = _at(b, before, there, vector)
                                    x = b.fadd(_load(b, there, vector, masks[j] if masked else None), x)
                                place = _at(b, c, b.add(b.mul(stride, _whole(i)), _whole(j * count)), vector)
                                if masked:
                                    _store_some(b, x, place, masks[j])
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
        which = builder.add(builder.mul(builder.sub(vectors, _whole(1)), _whole(ROWS)), rows)
        choice = builder.switch(which, end)
        for v in (1, 2, LOOSE):
            for r in range(1, ROWS + 1):
                block = builder.append_basic_block(f"tile{r}x{v}")
                choice.add_case(_whole((v - 1) * ROWS + r), block)
                with builder.goto_block(block):
                    made = _tile(builder.module, _kind(p), lanes(p), r, 1 if v == LOOSE else v, v == LOOSE)
                    builder.call(made, rest)
                    builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 13)), generate


def _turned(b: Any, vectors: list[Any]) -> list[Any]:
    """The transpose of a square in registers: neighbours at distance 1, 2, 4, ... exchange what is not theirs."""
    n, distance = len(vectors), 1
    indices = ir.VectorType(I32, n)
    while distance < n:
        found = list(vectors)
        for i in range(n):
            if i & distance == 0:
                x, y = vectors[i], vectors[i + distance]
                low = [j if j & distance == 0 else n + j - distance for j in range(n)]
                high = [j + distance if j & distance == 0 else n + j for j in range(n)]
                found[i] = b.shuffle_vector(x, y, ir.Constant(indices, low))
                found[i + distance] = b.shuffle_vector(x, y, ir.Constant(indices, high))
        vectors = found
        distance *= 2
    return vectors


@intrinsic
def turn(typing: Any, p: Any, source: Any, stride: Any, rows: Any, out: Any, out_stride: Any, count: Any) -> Any:
    """Write a square's transpose: one vector of each of its rows, which are `stride` numbers apart.

    rows  : how many there are; behind the last the last is read again
    count : how many numbers of each result are written
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, stride, rows, out, out_stride, count = arguments
        n, kind, b = lanes(p), _kind(p), builder
        vector, size = ir.VectorType(kind, n), 4 if kind == FLOAT else 8
        source, out = (b.inttoptr(each, kind.as_pointer()) for each in (source, out))
        last = b.sub(rows, _whole(1))
        read = []
        for i in range(n):
            row = b.select(b.icmp_signed("<", last, _whole(i)), last, _whole(i))
            read.append(b.load(_at(b, source, b.mul(row, stride), vector), align=size))
        mask = _mask(b, n, count)
        for i, x in enumerate(_turned(b, read)):
            _store_some(b, x, _at(b, out, b.mul(out_stride, _whole(i)), vector), mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 6)), generate


@intrinsic
def move(typing: Any, p: Any, source: Any, out: Any, count: Any, written: Any) -> Any:
    """Copy up to one vector of numbers, and write zeros behind them until so many are written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, out, count, written = arguments
        vector = ir.VectorType(_kind(p), lanes(p))
        source, out = (builder.inttoptr(each, vector.as_pointer()) for each in (source, out))
        x = _load_some(builder, source, vector, _mask(builder, lanes(p), count))
        _store_some(builder, x, out, _mask(builder, lanes(p), written))
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
        vector = ir.VectorType(_kind(p), n)
        row, bias = (b.inttoptr(each, _kind(p).as_pointer()) for each in (row, bias))
        zero = ir.Constant(vector, [0.0] * n)
        cut = b.icmp_signed("!=", rectified, _whole(0))
        for j in range(2):
            mask = _mask(b, n, b.sub(count, _whole(j * n)))
            place = _at(b, row, _whole(j * n), vector)
            x = b.fadd(
                _load_some(b, place, vector, mask), _load_some(b, _at(b, bias, _whole(j * n), vector), vector, mask)
            )
            negative = b.select(b.fcmp_ordered("<=", x, zero), zero, x)
            _store_some(b, b.select(cut, negative, x), place, mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 4)), generate


@intrinsic
def gate_row(typing: Any, p: Any, row: Any, gate: Any, count: Any) -> Any:
    """Set up to two vectors of a row to 0 where those at `gate` are not above 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, row, gate, count = arguments
        n, b = lanes(p), builder
        vector = ir.VectorType(_kind(p), n)
        row, gate = (b.inttoptr(each, _kind(p).as_pointer()) for each in (row, gate))
        zero = ir.Constant(vector, [0.0] * n)
        for j in range(2):
            mask = _mask(b, n, b.sub(count, _whole(j * n)))
            place = _at(b, row, _whole(j * n), vector)
            x = _load_some(b, place, vector, mask)
            y = _load_some(b, _at(b, gate, _whole(j * n), vector), vector, mask)
            _store_some(b, b.select(b.fcmp_ordered(">", y, zero), x, zero), place, mask)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 3)), generate


@intrinsic
def width(typing: Any, p: Any) -> Any:
    """How many numbers a vector holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _whole(lanes(p))

    return types.int64(p), generate


@intrinsic(prefer_literal=True)
def room(typing: Any, p: Any, bytes: Any) -> Any:
    """The address of that many bytes, a number written in the source, that are the function's own until it returns."""
    size = bytes.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            found = builder.alloca(ir.ArrayType(ir.IntType(8), size))
            found.align = 64
        return builder.ptrtoint(found, I64)

    return types.int64(p, bytes), generate
