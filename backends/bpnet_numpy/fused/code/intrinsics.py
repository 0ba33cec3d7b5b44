"""What compiled bodies are written in: an instruction's words, arrays at addresses, bits as numbers.

Every body has one argument, a pointer of the type that it computes in, to its words: int64 numbers, addresses of
arrays, and the bits of float64 numbers. So one source serves float32 and float64. A body makes no arrays of its own and
raises nothing, so that it needs nothing of numba's when it runs; memory that it needs it takes from C.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.registers import BYTE_POINTER, DOUBLE, FLOAT, I32, I64, declared, element_of

FLAGS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""How everything here is compiled: no checks of divisors, products may be fused with sums; NaN and infinities stay."""

ANY_ORDER: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
"""The same, and sums may be taken in another order, so that they become SIMD instructions."""

AS_IT_IS, TRANSPOSED = 111, 112
"""How the BLAS says whether a factor is transposed."""
_ROW_MAJOR = 101


@intrinsic
def words(typing: Any, p: Any) -> Any:
    """The address of an instruction's words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], I64)

    return types.intp(p), generate


@intrinsic
def word(typing: Any, address: Any, index: Any) -> Any:
    """The int64 number `index` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.int64(types.intp, types.intp), generate


@intrinsic
def number(typing: Any, address: Any, index: Any) -> Any:
    """The float64 number `index` at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], DOUBLE.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.float64(types.intp, types.intp), generate


@intrinsic
def real(typing: Any, p: Any, x: Any) -> Any:
    """The number `x` in the type that is computed in."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], x, p.dtype)

    return p.dtype(p, x), generate


@intrinsic
def _pointer(typing: Any, p: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(signature.return_type))

    return p(p, types.intp), generate


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.intp), generate

    return pointer


_pointer_uint8 = _pointer_to(types.uint8)
_pointer_int32 = _pointer_to(types.int32)
_pointer_int64 = _pointer_to(types.int64)
_pointer_uint64 = _pointer_to(types.uint64)
_pointer_float64 = _pointer_to(types.float64)


@njit(**FLAGS)
def vector(p: Any, address: Any, n: Any) -> Any:
    """The n numbers at an address, of the type that is computed in."""
    return carray(_pointer(p, address), (n,))


@njit(**FLAGS)
def matrix(p: Any, address: Any, n: Any, m: Any) -> Any:
    """The (n, m) numbers at an address, of the type that is computed in."""
    return carray(_pointer(p, address), (n, m))


@njit(**FLAGS)
def uint8s(address: Any, n: Any) -> Any:
    """The n bytes at an address."""
    return carray(_pointer_uint8(address), (n,))


@njit(**FLAGS)
def int32s(address: Any, n: Any) -> Any:
    """The n int32 at an address."""
    return carray(_pointer_int32(address), (n,))


@njit(**FLAGS)
def int64s(address: Any, n: Any) -> Any:
    """The n int64 at an address."""
    return carray(_pointer_int64(address), (n,))


@njit(**FLAGS)
def uint64s(address: Any, n: Any) -> Any:
    """The n uint64 at an address."""
    return carray(_pointer_uint64(address), (n,))


@njit(**FLAGS)
def float64s(address: Any, n: Any) -> Any:
    """The n float64 at an address."""
    return carray(_pointer_float64(address), (n,))


@intrinsic
def bits(typing: Any, x: Any) -> Any:
    """The bits of a floating number as an integer of its size."""
    kind = types.int32 if x == types.float32 else types.int64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], I32 if x == types.float32 else I64)

    return kind(x), generate


def _turned(builder: Any, k: Any) -> Any:
    """All bits but the sign turned around where an integer is negative; its own inverse."""
    size = k.type.width
    sign = builder.ashr(k, ir.Constant(k.type, size - 1))
    return builder.xor(k, builder.and_(sign, ir.Constant(k.type, (1 << (size - 1)) - 1)))


@intrinsic
def ordered(typing: Any, x: Any) -> Any:
    """An integer of its size that grows with x. A positive NaN is the largest, a negative one the smallest."""
    kind = types.int32 if x == types.float32 else types.int64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _turned(builder, builder.bitcast(arguments[0], I32 if x == types.float32 else I64))

    return kind(x), generate


@intrinsic
def from_ordered(typing: Any, like: Any, k: Any) -> Any:
    """The number, of the type of `like`, of which `ordered` makes k."""
    kind = types.int32 if like == types.float32 else types.int64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = FLOAT if like == types.float32 else DOUBLE
        return builder.bitcast(_turned(builder, arguments[1]), real)

    return like(like, kind), generate


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two integers of one type, and of that type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *arguments), *arguments)

    return a(a, a), generate


@intrinsic
def scaled_one(typing: Any, x: Any, low: Any) -> Any:
    """Two to the power k, of the type of x, where the lowest bits of `low` are k; no result is undefined."""
    single = x == types.float32
    size, shift, bias = (I32, 23, 127) if single else (I64, 52, 1023)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.shl(arguments[1], ir.Constant(size, shift))
        whole = builder.add(exponent, ir.Constant(size, bias << shift))
        return builder.bitcast(whole, FLOAT if single else DOUBLE)

    return x(x, types.int32 if single else types.int64), generate


@intrinsic
def upper(typing: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), I64)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def reserve(typing: Any, size: Any) -> Any:
    """The address of so many bytes of memory; who asks for them gives them back by `release`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = builder.ptrtoint(builder.call(declared(builder.module, "malloc", BYTE_POINTER, [I64]), arguments), I64)
        with builder.if_then(builder.icmp_unsigned("==", found, ir.Constant(I64, 0)), likely=False):
            builder.call(declared(builder.module, "abort", ir.VoidType(), []), [])  # a wrong result would be worse
        return found

    return types.int64(types.int64), generate


@intrinsic
def release(typing: Any, address: Any) -> Any:
    """Give back what `reserve` found."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        free = declared(builder.module, "free", ir.VoidType(), [BYTE_POINTER])
        builder.call(free, [builder.inttoptr(arguments[0], BYTE_POINTER)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def without_interpreter(typing: Any) -> Any:
    """Let other threads of Python run; returns what `with_interpreter` needs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        save = declared(builder.module, "PyEval_SaveThread", BYTE_POINTER, [])
        return builder.ptrtoint(builder.call(save, []), I64)

    return types.int64(), generate


@intrinsic
def with_interpreter(typing: Any, state: Any) -> Any:
    """Go on as a thread of Python; returns None, as a new reference to that object."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, module = BYTE_POINTER, builder.module
        restore = declared(module, "PyEval_RestoreThread", ir.VoidType(), [place])
        builder.call(restore, [builder.inttoptr(arguments[0], place)])
        none = module.globals.get("_Py_NoneStruct") or ir.GlobalVariable(module, ir.IntType(8), "_Py_NoneStruct")
        return builder.ptrtoint(builder.call(declared(module, "Py_NewRef", place, [place]), [none]), I64)

    return types.int64(types.int64), generate


@intrinsic
def call(typing: Any, function: Any, address: Any) -> Any:
    """Call the compiled body at one address with the words at another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [BYTE_POINTER])
        body = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(body, [builder.inttoptr(arguments[1], BYTE_POINTER)])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def threads_of(typing: Any, function: Any) -> Any:
    """What a C function without arguments at an address returns, an int."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        body = builder.inttoptr(arguments[0], ir.FunctionType(I32, []).as_pointer())
        return builder.sext(builder.call(body, []), I64)

    return types.int64(types.intp), generate


@intrinsic
def set_threads(typing: Any, function: Any, n: Any) -> Any:
    """Call a C function of one int at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        body = builder.inttoptr(arguments[0], ir.FunctionType(ir.VoidType(), [I32]).as_pointer())
        builder.call(body, [builder.trunc(arguments[1], I32)])
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


def _product_of(integer: Any) -> Any:
    """A call of cblas_?gemm, c = alpha a b + beta c, at an address; `integer` is the type of its sizes."""

    @intrinsic
    def product(
        typing: Any, p: Any, gemm: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any,
        ldb: Any, beta: Any, c: Any, ldc: Any,
    ) -> Any:  # fmt: skip
        kind, place = element_of(p), BYTE_POINTER
        sizes, floats = [integer] * 3, [kind, place, integer, place, integer, kind, place, integer]
        function = ir.FunctionType(ir.VoidType(), [I32, I32, I32, *sizes, *floats])

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def size(x: Any) -> Any:
                return x if integer is I64 else builder.trunc(x, integer)

            def at(x: Any) -> Any:
                return builder.inttoptr(x, place)

            _, gemm, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = arguments
            flags = [ir.Constant(I32, _ROW_MAJOR), builder.trunc(ta, I32), builder.trunc(tb, I32)]
            first = [*flags, size(m), size(n), size(k), alpha, at(a), size(lda), at(b), size(ldb)]
            body = builder.inttoptr(gemm, function.as_pointer())
            builder.call(body, [*first, beta, at(c), size(ldc)])
            return context.get_dummy_value()

        whole = [types.int64] * 6
        return types.void(p, *whole, p.dtype, *([types.int64] * 4), p.dtype, types.int64, types.int64), generate

    return product


product_of_64, product_of_32 = _product_of(I64), _product_of(I32)


@njit(**FLAGS)
def matrix_product(
    p: Any, gemm: Any, bits: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any,
    ldb: Any, beta: Any, c: Any, ldc: Any,
) -> None:  # fmt: skip
    """c = alpha a b + beta c, by a BLAS whose sizes have so many bits."""
    if bits == 64:
        product_of_64(p, gemm, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
    else:
        product_of_32(p, gemm, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
