"""The inner loop of Adam, with a division that the processor's one unit for divisions does not hold up.

A quotient m / d begins with an estimate of 1 / d to 14 bits and is corrected by what is left of m, r (m - d q), to the
last bit but one. Where d or the quotient is so small or large that this could leave the numbers' range, and where
something is not finite, it is a division. What an element becomes does not depend on those beside it.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector
from bpnet_numpy.fused.code.registers import (
    FLOAT,
    I32,
    I64,
    VECTOR,
    at,
    declared,
    first_lanes,
    in_all_lanes,
    integer,
    load_some,
    store_some,
)

COUNT = 16
TINY, HUGE = 2.0**-60, 2.0**60
"""Between these estimates and what they are multiplied with are normal numbers."""


def _loop(module: Any) -> Any:
    """The function that updates n float32 numbers: n, places of w, g, m, v, then rest1, rest2, keep, factor, floor, and
    the smallest m and v that are not 0."""
    name = "bpnet_adam"
    if name in module.globals:
        return module.globals[name]
    x16 = ir.VectorType(FLOAT, COUNT)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5 + [FLOAT] * 7), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    n, *places = function.args[:5]
    x8 = ir.VectorType(FLOAT, COUNT // 2)
    fma = declared(module, "llvm.fma.v16f32", x16, [x16] * 3)
    size = declared(module, "llvm.fabs.v16f32", x16, [x16])
    half_root = declared(module, "llvm.sqrt.v8f32", x8, [x8])
    bits = ir.IntType(COUNT)
    estimate = declared(module, "llvm.x86.avx512.rcp14.ps.512", x16, [x16, x16, bits])
    b = ir.IRBuilder(function.append_basic_block("entry"))
    places = [b.inttoptr(each, FLOAT.as_pointer()) for each in places]

    def all_of(x: float) -> Any:
        return ir.Constant(x16, [x] * COUNT)

    def some(first: int, count: int) -> Any:
        return ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))

    def root(x: Any) -> Any:
        """By halves: processors take three times as long for the root of 16 numbers as for that of 8."""
        halves = [b.call(half_root, [b.shuffle_vector(x, x, some(first, COUNT // 2))]) for first in (0, COUNT // 2)]
        return b.shuffle_vector(*halves, some(0, COUNT))

    rest1, rest2, keep, factor, floor, tiny1, tiny2 = (in_all_lanes(b, each, x16) for each in function.args[5:])
    taken = b.fsub(all_of(-0.0), factor)
    zero = all_of(0.0)

    def update(start: Any, mask: Any) -> None:
        """Update one vector; where a mask is given, its elements alone."""

        def read(place: Any) -> Any:
            there = at(b, place, start, x16)
            return b.load(there, align=4) if mask is None else load_some(b, there, x16, mask)

        def write(place: Any, x: Any) -> None:
            there = at(b, place, start, x16)
            if mask is None:
                b.store(x, there, align=4)
            else:
                store_some(b, x, there, mask)

        w, g, m, v = map(read, places)
        m = b.call(fma, [rest1, b.fsub(g, m), m])
        v = b.call(fma, [rest2, b.call(fma, [g, g, b.fsub(all_of(-0.0), v)]), v])
        m = b.select(b.fcmp_ordered("<", b.call(size, [m]), tiny1), zero, m)
        v = b.select(b.fcmp_ordered("<", v, tiny2), zero, v)
        d = b.fadd(root(v), floor)
        r = b.call(estimate, [d, zero, ir.Constant(bits, -1)])
        first = b.fmul(m, r)
        left = b.call(fma, [b.fsub(all_of(-0.0), d), first, m])
        q = b.call(fma, [left, r, first])
        tame = b.and_(b.fcmp_ordered(">", d, all_of(TINY)), b.fcmp_ordered("<", d, all_of(HUGE)))
        tame = b.and_(tame, b.fcmp_ordered("<", b.call(size, [first]), all_of(HUGE)))
        before = b.block
        with b.if_then(b.icmp_unsigned("!=", b.bitcast(tame, bits), ir.Constant(bits, -1)), likely=False):
            divided = b.select(tame, q, b.fdiv(m, d))
            inside = b.block
        merged = b.phi(x16)
        merged.add_incoming(q, before)
        merged.add_incoming(divided, inside)
        write(places[2], m)
        write(places[3], v)
        write(places[0], b.call(fma, [taken, merged, b.fmul(keep, w)]))

    head, body, behind, rest, end = map(function.append_basic_block, ("head", "body", "behind", "rest", "end"))
    entry = b.block
    whole = b.and_(n, integer(-COUNT))
    b.branch(head)
    b.position_at_end(head)
    start = b.phi(I64)
    start.add_incoming(integer(0), entry)
    b.cbranch(b.icmp_signed("<", start, whole), body, behind)
    b.position_at_end(body)
    update(start, None)
    start.add_incoming(b.add(start, integer(COUNT)), b.block)
    b.branch(head)
    b.position_at_end(behind)
    b.cbranch(b.icmp_signed("<", whole, n), rest, end)
    b.position_at_end(rest)
    update(whole, first_lanes(b, COUNT, b.sub(n, whole)))
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic
def _by_vectors(
    typing: Any, n: Any, w: Any, g: Any, m: Any, v: Any, rest1: Any, rest2: Any, keep: Any, factor: Any, floor: Any,
    tiny1: Any, tiny2: Any,
) -> Any:  # fmt: skip
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.call(_loop(builder.module), arguments)
        return context.get_dummy_value()

    return types.void(*([types.int64] * 5), *([types.float32] * 7)), generate


def adam_elements(
    p: Any, n: Any, w: Any, g: Any, m: Any, v: Any, rest1: Any, rest2: Any, keep: Any, factor: Any, floor: Any,
    tiny1: Any, tiny2: Any,
) -> Any:  # fmt: skip
    """Update n numbers, whose addresses are given, and their moments."""


@overload(adam_elements, jit_options=FLAGS)
def _adam_elements(
    p: Any, n: Any, w: Any, g: Any, m: Any, v: Any, rest1: Any, rest2: Any, keep: Any, factor: Any, floor: Any,
    tiny1: Any, tiny2: Any,
) -> Any:  # fmt: skip
    def by_vectors(
        p: Any, n: Any, w: Any, g: Any, m: Any, v: Any, rest1: Any, rest2: Any, keep: Any, factor: Any, floor: Any,
        tiny1: Any, tiny2: Any,
    ) -> None:  # fmt: skip
        _by_vectors(n, w, g, m, v, rest1, rest2, keep, factor, floor, tiny1, tiny2)

    def one_by_one(
        p: Any, n: Any, w: Any, g: Any, m: Any, v: Any, rest1: Any, rest2: Any, keep: Any, factor: Any, floor: Any,
        tiny1: Any, tiny2: Any,
    ) -> None:  # fmt: skip
        values, slopes, first, second = vector(p, w, n), vector(p, g, n), vector(p, m, n), vector(p, v, n)
        zero = real(p, 0)
        for i in range(n):
            g_i = slopes[i]
            m_i = first[i] + rest1 * (g_i - first[i])
            v_i = second[i] + rest2 * (g_i * g_i - second[i])
            m_i = zero if abs(m_i) < tiny1 else m_i
            v_i = zero if v_i < tiny2 else v_i
            first[i] = m_i
            second[i] = v_i
            values[i] = keep * values[i] - factor * (m_i / (math.sqrt(v_i) + floor))

    return by_vectors if VECTOR == 64 and p.dtype == types.float32 else one_by_one
