"""Vectors as numbers: bodies of several arrays in one pass, which LLVM would make of narrower vectors, or of none.

`load` gives a `Lanes`, as many numbers as a vector of the processor holds, with which one computes as with a number;
a number beside it stands in every lane. Behind the end of a row nothing is read or written: `count` says what is left.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import errors
from numba.core.datamodel import models
from numba.core.extending import register_model
from numba.extending import intrinsic, overload

from bpnet_numpy.fused.code.registers import (
    I32,
    I64,
    VECTOR,
    declared,
    element_of,
    first_lanes,
    in_all_lanes,
    load_some,
    store_some,
    suffix_of,
)

BYTES = VECTOR or 16


class Lanes(types.Type):  # type: ignore[misc]
    """The type of a vector."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        element = ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def _count(p: Any) -> int:
    return BYTES // (4 if p.dtype == types.float32 else 8)


def _lanes(p: Any) -> Lanes:
    return Lanes(p.dtype, _count(p))


@intrinsic
def numbers(typing: Any, p: Any) -> Any:
    """How many numbers a vector holds."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(I64, _count(p))

    return types.int64(p), generate


def _as_lanes(context: Any, b: Any, x: Any, kind: Any, wanted: Lanes) -> Any:
    if isinstance(kind, Lanes):
        return x
    return in_all_lanes(b, context.cast(b, x, kind, wanted.dtype), context.get_value_type(wanted))


def _same(*kinds: Any) -> Lanes:
    """The type of the vectors among some types."""
    found = {each for each in kinds if isinstance(each, Lanes)}
    if len(found) != 1:
        raise errors.TypingError(f"vectors of one type are needed, got {kinds}")
    return found.pop()


@intrinsic
def load(typing: Any, p: Any, address: Any, count: Any) -> Any:
    """The numbers at an address, `count` at most; 0 behind them."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, address, count = arguments
        vector = ir.VectorType(element_of(p), _count(p))
        return load_some(b, b.inttoptr(address, vector.as_pointer()), vector, first_lanes(b, vector.count, count))

    return _lanes(p)(p, types.int64, types.int64), generate


@intrinsic
def load_or(typing: Any, p: Any, address: Any, count: Any, other: Any) -> Any:
    """As `load`, with another number than 0 behind them."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, address, count, other = arguments
        vector = ir.VectorType(element_of(p), _count(p))
        there = first_lanes(b, vector.count, count)
        found = load_some(b, b.inttoptr(address, vector.as_pointer()), vector, there)
        return b.select(there, found, in_all_lanes(b, other, vector))

    return _lanes(p)(p, types.int64, types.int64, p.dtype), generate


@intrinsic
def store(typing: Any, x: Any, address: Any, count: Any) -> Any:
    """Write the numbers to an address, `count` at most."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, address, count = arguments
        store_some(b, x, b.inttoptr(address, x.type.as_pointer()), first_lanes(b, x.type.count, count))
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64), generate


@intrinsic
def spread(typing: Any, p: Any, x: Any) -> Any:
    """A number in every lane, of the type that is computed in."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return _as_lanes(context, b, arguments[1], x, _lanes(p))

    return _lanes(p)(p, x), generate


def _between(make: Callable[[Any, Any, Any], Any]) -> Any:
    """A function of two vectors, or of one and a number."""

    @intrinsic
    def found(typing: Any, x: Any, y: Any) -> Any:
        kind = _same(x, y)

        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            both = zip(arguments, signature.args, strict=True)
            return make(b, *(_as_lanes(context, b, each, its, kind) for each, its in both))

        return kind(x, y), generate

    return found


def _operate(which: Any, make: Callable[[Any, Any, Any], Any]) -> None:
    body = _between(make)

    @overload(which)
    def _(x: Any, y: Any) -> Any:
        def both(x: Any, y: Any) -> Any:
            return body(x, y)

        return both if isinstance(x, Lanes) or isinstance(y, Lanes) else None


_FUSED = ("contract",)
_operate(operator.add, lambda b, x, y: b.fadd(x, y, flags=_FUSED))
_operate(operator.sub, lambda b, x, y: b.fsub(x, y, flags=_FUSED))
_operate(operator.mul, lambda b, x, y: b.fmul(x, y, flags=_FUSED))
_operate(operator.truediv, lambda b, x, y: b.fdiv(x, y))


@intrinsic
def size(typing: Any, x: Any) -> Any:
    """|x|."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0].type
        return b.call(declared(b.module, f"llvm.fabs.{suffix_of(vector)}", vector, [vector]), arguments)

    return x(x), generate


def _choice(comparison: str) -> Any:
    """A function of x, y, a, b: in every lane a where the comparison of x with y is true, else b. With NaN none is."""

    @intrinsic
    def found(typing: Any, x: Any, y: Any, one: Any, other: Any) -> Any:
        kind = _same(x, y, one, other)

        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            all_ = zip(arguments, signature.args, strict=True)
            x, y, one, other = (_as_lanes(context, b, each, its, kind) for each, its in all_)
            return b.select(b.fcmp_ordered(comparison, x, y), one, other)

        return kind(x, y, one, other), generate

    return found


where_less, where_at_least, where_at_most = _choice("<"), _choice(">="), _choice("<=")


@intrinsic
def largest(typing: Any, x: Any, y: Any) -> Any:
    """The maximum of two vectors' numbers, which is NaN where one of them is."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, y = arguments
        return b.select(b.fcmp_unordered("uno", y, y), y, b.select(b.fcmp_ordered("<", x, y), y, x))

    return x(x, y), generate


def _across(fold: Callable[[Any, Any, Any], Any]) -> Any:
    """A function that makes one number of a vector's: of both halves, of their halves, and so on."""

    @intrinsic
    def found(typing: Any, x: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            (x,) = arguments
            half = x.type.count // 2
            while half:
                parts = [[*range(start, start + half)] for start in (0, half)]
                kinds = ir.VectorType(I32, half)
                x = fold(b, *(b.shuffle_vector(x, x, ir.Constant(kinds, part)) for part in parts))
                half //= 2
            return b.extract_element(x, ir.Constant(I32, 0))

        return x.dtype(x), generate

    return found


def _higher(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


higher = _between(_higher)
"""The maximum of two vectors' numbers; the second's where one of them is NaN."""
highest, total = _across(_higher), _across(lambda b, x, y: b.fadd(x, y))
"""The maximum of a vector's numbers, or any where NaN is among them; their sum."""


@intrinsic
def power_of_2(typing: Any, shifted: Any) -> Any:
    """Two to the power k, where the lowest bits of a number are k."""
    whole, shift, bias = (I32, 23, 127) if shifted.dtype == types.float32 else (I64, 52, 1023)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0].type
        integers = ir.VectorType(whole, vector.count)
        exponent = b.shl(b.bitcast(arguments[0], integers), ir.Constant(integers, [shift] * vector.count))
        return b.bitcast(b.add(exponent, ir.Constant(integers, [bias << shift] * vector.count)), vector)

    return shifted(shifted), generate


def by_dtype(single: Any, double: Any) -> Any:
    """A function of a vector, which returns `single` where it is one of float32 and `double` where of float64.

    The constants of a body whose source serves both; a tuple has as many terms as tell in that type.
    """

    def chosen(x: Any) -> Any:
        """Stands for what `choose` compiles."""

    @overload(chosen)
    def choose(x: Any) -> Any:
        def of_single(x: Any) -> Any:
            return single

        def of_double(x: Any) -> Any:
            return double

        return of_single if x.dtype == types.float32 else of_double

    return chosen
