"""Small matrix products from where their factors lie, in vector registers.

To pack factors, as large products do, would take longer than to multiply what a first-level cache holds. A patch of the
product is up to `ROWS` rows by `VECTORS` vectors of columns; each step of its sum reads one number of each row of the
first factor and a row of the second. Only a transposed second factor is turned first. What follows the product is done
before its numbers leave the registers. Every sum is made in the order of its steps.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.intrinsics import FLAGS, vector, word, words
from bpnet_numpy.fused.code.registers import (
    FLOAT,
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
    room,
    store_some,
    suffix_of,
    turned,
    width,
)
from bpnet_numpy.fused.sizes import TURNED

(TA, TB, M, N, K, A, LDA, B, LDB, C, LDC, BIAS, RECTIFIED, GATE) = range(14)

ROWS, VECTORS = (8, 3) if VECTOR == 64 else (4, 2)
"""The most of a patch: its sums, a row of the second factor and one number find room in the registers."""
SPACE = 3 * 64 * TURNED


def _patch(module: Any, kind: Any, count: int, rows: int, vectors: int) -> Any:
    """The function that makes patches of `rows` rows and `vectors` vectors of `count` numbers, one below the other.

    Its arguments: how many patches; the first factor, the numbers between its rows, and between the steps of a sum in
    it; the second factor, and the numbers between its rows; the product, and the numbers between its rows; the length
    of the sum, how many columns there are; a bias for them or 0; whether max(x, 0) follows; an array like the product,
    above 0 where this stays, and 0 elsewhere, or none: 0.
    """
    name = f"bpnet_patch_{rows}_{vectors}_{count}"
    if name in module.globals:
        return module.globals[name]
    vector, size = ir.VectorType(kind, count), 4 if kind == FLOAT else 8
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 13), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    patches, a, a_row, a_step, right, stride, c, c_row, k, columns, bias, rectified, gate = function.args
    fma = declared(module, f"llvm.fma.{suffix_of(vector)}", vector, [vector] * 3)
    zeros = ir.Constant(vector, [0.0] * count)
    entry, begin, loop, behind, end = map(function.append_basic_block, ("entry", "begin", "loop", "behind", "end"))
    b = ir.IRBuilder(entry)
    a, right, c = (b.inttoptr(each, kind.as_pointer()) for each in (a, right, c))
    a_high, c_high = (b.mul(each, integer(rows)) for each in (a_row, c_row))
    last = first_lanes(b, count, b.sub(columns, integer((vectors - 1) * count)))

    def read(start: Any) -> list[Any]:
        full = [b.load(at(b, start, integer(j * count), vector), align=size) for j in range(vectors - 1)]
        return [*full, load_some(b, at(b, start, integer((vectors - 1) * count), vector), vector, last)]

    b.branch(begin)
    b.position_at_end(begin)
    done, above, below = b.phi(I64), b.phi(I64), b.phi(I64)
    lines = [at(b, a, b.add(above, b.mul(a_row, integer(i)))) for i in range(rows)]
    b.branch(loop)
    b.position_at_end(loop)
    step, left, here = b.phi(I64), b.phi(I64), b.phi(I64)
    sums = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    row = read(at(b, right, here))
    new = []
    for i in range(rows):
        x = in_all_lanes(b, b.load(at(b, lines[i], left)), vector)
        new.append([b.call(fma, [x, row[j], sums[i][j]]) for j in range(vectors)])
        for j in range(vectors):
            sums[i][j].add_incoming(zeros, begin)
            sums[i][j].add_incoming(new[i][j], loop)
    for phi, next_ in ((step, integer(1)), (left, a_step), (here, stride)):
        phi.add_incoming(integer(0), begin)
        phi.add_incoming(b.add(phi, next_), loop)
    b.cbranch(b.icmp_signed("<", b.add(step, integer(1)), k), loop, behind)
    b.position_at_end(behind)

    def follow(condition: Any, found: list[list[Any]], change: Any) -> list[list[Any]]:
        """What `change` makes of the patch where the condition holds."""
        before = b.block
        with b.if_then(condition):
            changed = change()
            inside = b.block
        merged: list[list[Any]] = []
        for old, others in zip(found, changed, strict=True):
            merged.append([])
            for x, y in zip(old, others, strict=True):
                phi = b.phi(vector)
                phi.add_incoming(x, before)
                phi.add_incoming(y, inside)
                merged[-1].append(phi)
        return merged

    def shifted() -> list[list[Any]]:
        added = read(b.inttoptr(bias, kind.as_pointer()))
        return [[b.fadd(x, y) for x, y in zip(line, added, strict=True)] for line in new]

    new = follow(b.icmp_signed("!=", bias, integer(0)), new, shifted)
    new = follow(
        b.icmp_signed("!=", rectified, integer(0)),
        new,
        lambda: [[b.select(b.fcmp_ordered("<=", x, zeros), zeros, x) for x in line] for line in new],  # NaN stays
    )

    def gated() -> list[list[Any]]:
        start = at(b, b.inttoptr(gate, kind.as_pointer()), below)
        found = []
        for i, line in enumerate(new):
            signs = read(at(b, start, b.mul(c_row, integer(i))))
            found.append([b.select(b.fcmp_ordered(">", y, zeros), x, zeros) for x, y in zip(line, signs, strict=True)])
        return found

    new = follow(b.icmp_signed("!=", gate, integer(0)), new, gated)
    for i, line in enumerate(new):
        start = at(b, c, b.add(below, b.mul(c_row, integer(i))))
        for j, x in enumerate(line):
            place = at(b, start, integer(j * count), vector)
            if j == vectors - 1:
                store_some(b, x, place, last)
            else:
                b.store(x, place, align=size)
    for phi, next_ in ((done, integer(1)), (above, a_high), (below, c_high)):
        phi.add_incoming(integer(0), entry)
        phi.add_incoming(b.add(phi, next_), b.block)
    b.cbranch(b.icmp_signed("<", b.add(done, integer(1)), patches), begin, end)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic
def patch(
    typing: Any, p: Any, rows: Any, vectors: Any, patches: Any, a: Any, a_row: Any, a_step: Any, b: Any, stride: Any,
    c: Any, c_row: Any, k: Any, columns: Any, bias: Any, rectified: Any, gate: Any,
) -> Any:  # fmt: skip
    """Patches of a product, by the numbers of their rows and its vectors; see `_patch`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, vectors, *rest = arguments
        end = builder.append_basic_block("patched")
        which = builder.add(builder.mul(builder.sub(vectors, integer(1)), integer(ROWS)), rows)
        choice = builder.switch(which, end)
        for v in range(1, VECTORS + 1):
            for r in range(1, ROWS + 1):
                block = builder.append_basic_block(f"patch{r}x{v}")
                choice.add_case(integer((v - 1) * ROWS + r), block)
                with builder.goto_block(block):
                    builder.call(_patch(builder.module, element_of(p), lanes(p), r, v), rest)
                    builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 15)), generate


@intrinsic
def turn_some(typing: Any, p: Any, source: Any, stride: Any, rows: Any, length: Any, out: Any, out_stride: Any) -> Any:
    """Write the transpose of up to a square of numbers: `length` of each of `rows` rows, `stride` numbers apart.

    A whole vector is written for each result, 0 behind the last row.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, stride, rows, length, out, out_stride = arguments
        n, b = lanes(p), builder
        vector = ir.VectorType(element_of(p), n)
        source, out = (b.inttoptr(each, element_of(p).as_pointer()) for each in (source, out))
        read = []
        for i in range(n):
            there = b.select(b.icmp_signed("<", integer(i), rows), length, integer(0))
            read.append(
                load_some(b, at(b, source, b.mul(stride, integer(i)), vector), vector, first_lanes(b, n, there))
            )
        for i, x in enumerate(turned(b, read)):
            with b.if_then(b.icmp_signed("<", integer(i), length)):
                b.store(x, at(b, out, b.mul(out_stride, integer(i)), vector), align=4 if element_of(p) == FLOAT else 8)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 6)), generate


@njit(**FLAGS)
def _turn_columns(p: Any, a: Any, out: Any, column: Any, columns: Any, wide: Any) -> None:
    """Write rows of the second factor, which stands transposed, as `wide` columns beside each other."""
    lanes, size, k, stride = width(p), vector(p, word(a, B), 1).itemsize, word(a, K), word(a, LDB)
    for done in range(0, columns, lanes):
        for s in range(0, k, lanes):
            source = word(a, B) + ((column + done) * stride + s) * size
            to = out + (s * wide + done) * size
            turn_some(p, source, stride, min(columns - done, lanes), min(k - s, lanes), to, wide)


def direct_product(p: Any) -> None:
    """c = a b, then what follows. Words: whether the factors are transposed, m, n, k, a, its row length, b, its row
    length, c, its row length, bias or 0, whether max(x, 0) follows, an array where c stays only where it is above 0."""
    a = words(p)
    size, lanes = vector(p, word(a, A), 1).itemsize, width(p)
    m, n = word(a, M), word(a, N)
    row, step = (1, word(a, LDA)) if word(a, TA) != 0 else (word(a, LDA), 1)
    groups = (n + lanes - 1) // lanes
    parts = (groups + VECTORS - 1) // VECTORS
    space = room(p, SPACE)
    for part in range(parts):
        start, stop = groups * part // parts * lanes, min(n, groups * (part + 1) // parts * lanes)
        columns, vectors = stop - start, (stop - start + lanes - 1) // lanes
        right, stride = word(a, B) + start * size, word(a, LDB)
        if word(a, TB) != 0:
            right, stride = space, vectors * lanes
            _turn_columns(p, a, space, start, columns, stride)
        bias = word(a, BIAS) + start * size if word(a, BIAS) != 0 else 0
        for high in (ROWS, m % ROWS):
            first = 0 if high == ROWS else m - high
            patches = m // ROWS if high == ROWS else 1
            if high == 0 or patches == 0:
                continue
            corner = (first * word(a, LDC) + start) * size
            gate = word(a, GATE) + corner if word(a, GATE) != 0 else 0
            patch(
                p, high, vectors, patches, word(a, A) + first * row * size, row, step, right, stride,
                word(a, C) + corner, word(a, LDC), word(a, K), columns, bias, word(a, RECTIFIED), gate,
            )  # fmt: skip
