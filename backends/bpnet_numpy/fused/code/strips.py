"""Pieces of matrix products in vector registers, of a first factor whose elements lie anywhere.

Element (i, k) of it is the number at `starts[i] + steps[k]` behind a place. So windows of images are multiplied where
they are: an element of a window is at the sum of where the window begins in the image and the element in the window,
and nothing is gathered. With the two tables exchanged it is the transpose. Rows of the second factor are read as they
lie.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.registers import (
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
)
from bpnet_numpy.fused.sizes import strip_height

HEIGHT = strip_height(VECTOR)


def _strip(module: Any, kind: Any, count: int, rows: int, vectors: int) -> Any:
    """The function that makes one tile of `rows` rows and `vectors` vectors of `count` numbers; see `strip`."""
    name = f"bpnet_strip_{rows}_{vectors}_{count}"
    if name in module.globals:
        return module.globals[name]
    vector, flag = ir.VectorType(kind, count), ir.VectorType(ir.IntType(1), count)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 13), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, starts, steps, k, right, leap, c, targets, columns, adding, bias, shifted, rectified = function.args
    fma = declared(module, f"llvm.fma.{suffix_of(vector)}", vector, [vector] * 3)
    entry, loop, behind = (function.append_basic_block(each) for each in ("entry", "loop", "behind"))
    b = ir.IRBuilder(entry)
    a, right, c, bias = (b.inttoptr(each, kind.as_pointer()) for each in (a, right, c, bias))
    starts, steps, targets = (b.inttoptr(each, I64.as_pointer()) for each in (starts, steps, targets))
    places = [b.gep(a, [b.load(at(b, starts, integer(i)))]) for i in range(rows)]
    masks = [first_lanes(b, count, b.sub(columns, integer(j * count))) for j in range(vectors)]
    b.branch(loop)
    b.position_at_end(loop)
    step, row = b.phi(I64), b.phi(right.type)
    step.add_incoming(integer(0), entry)
    row.add_incoming(right, entry)
    sums = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    factors = [load_some(b, at(b, row, integer(j * count), vector), vector, masks[j]) for j in range(vectors)]
    offset = b.load(at(b, steps, step))
    new = []
    for i in range(rows):
        x = in_all_lanes(b, b.load(at(b, places[i], offset)), vector)
        new.append([b.call(fma, [x, factors[j], sums[i][j]]) for j in range(vectors)])
    for i in range(rows):
        for j in range(vectors):
            sums[i][j].add_incoming(ir.Constant(vector, [0.0] * count), entry)
            sums[i][j].add_incoming(new[i][j], loop)
    after = b.add(step, integer(1))
    step.add_incoming(after, loop)
    row.add_incoming(b.gep(row, [leap]), loop)
    b.cbranch(b.icmp_signed("<", after, k), loop, behind)
    b.position_at_end(behind)
    zero, none = ir.Constant(vector, [0.0] * count), ir.Constant(flag, [0] * count)
    added, shift, cut = (b.icmp_signed("!=", each, integer(0)) for each in (adding, shifted, rectified))
    biases = []
    for j in range(vectors):
        place = at(b, bias, integer(j * count), vector)
        biases.append(load_some(b, place, vector, b.select(shift, masks[j], none)))
    for i in range(rows):
        to = b.gep(c, [b.load(at(b, targets, integer(i)))])
        for j in range(vectors):
            place = at(b, to, integer(j * count), vector)
            x = b.fadd(new[i][j], load_some(b, place, vector, b.select(added, masks[j], none)))
            x = b.fadd(x, biases[j])
            x = b.select(b.and_(b.fcmp_ordered("<=", x, zero), _spread(b, cut, flag)), zero, x)
            store_some(b, x, place, masks[j])
    b.ret_void()
    return function


def _spread(b: Any, value: Any, flags: Any) -> Any:
    """A truth value in every lane."""
    ones, none = ir.Constant(flags, [1] * flags.count), ir.Constant(flags, [0] * flags.count)
    return b.select(value, ones, none)


@intrinsic
def strip(
    typing: Any, p: Any, rows: Any, vectors: Any, a: Any, starts: Any, steps: Any, k: Any, right: Any, leap: Any,
    c: Any, targets: Any, columns: Any, adding: Any, bias: Any, shifted: Any, rectified: Any,
) -> Any:  # fmt: skip
    """A tile of a product: `rows` rows, at most HEIGHT, by up to two vectors of columns.

    a, starts, steps  : the first factor's place; int64 tables, in numbers, of where rows and columns of it begin
    k                 : the length of the sum, at least 1
    right, leap       : the second factor's place, and from one of its rows to the next, in numbers
    c, targets        : the result's place; a table of where its rows begin
    columns           : how many columns there are of the vectors'
    adding            : whether what is there is added
    bias, shifted     : a place that can be read, and whether what is there is added to every row
    rectified         : whether max(x, 0) follows; NaN stays
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, vectors, *rest = arguments
        end = builder.append_basic_block("stripped")
        which = builder.add(builder.mul(builder.sub(vectors, integer(1)), integer(HEIGHT)), rows)
        choice = builder.switch(which, end)
        for v in (1, 2):
            for r in range(1, HEIGHT + 1):
                block = builder.append_basic_block(f"strip{r}x{v}")
                choice.add_case(integer((v - 1) * HEIGHT + r), block)
                with builder.goto_block(block):
                    builder.call(_strip(builder.module, element_of(p), lanes(p), r, v), rest)
                    builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(p, *([types.int64] * 15)), generate
