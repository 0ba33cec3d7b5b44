"""Compiles bodies. Imports numba, which nothing else does: what was compiled once runs without it (`image.py`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core import config
from numba.core.registry import cpu_target

from bpnet_numpy.fused.code import (
    attention,
    columns,
    convolution,
    counting,
    depthwise,
    direct,
    division,
    elementwise,
    fork,
    gated,
    groups,
    gru,
    images,
    lstm,
    matmul,
    normal,
    norms,
    pointwise,
    products,
    program,
    recurrent,
    rnn,
    rows,
    sequences,
    smooth,
    softmax,
    team,
    updates,
    windows,
)
from bpnet_numpy.fused.code.intrinsics import FLAGS
from bpnet_numpy.fused.code.registers import VECTOR

__all__ = ["NAME", "VECTOR", "address", "compiled"]

NAME = f"numba {numba.__version__}"
_MODULES = (
    elementwise,
    products,
    softmax,
    updates,
    counting,
    images,
    matmul,
    direct,
    rows,
    division,
    fork,
    norms,
    columns,
    groups,
    smooth,
    sequences,
    attention,
    recurrent,
    lstm,
    convolution,
    windows,
    depthwise,
    gated,
    pointwise,
    normal,
    gru,
    rnn,
)
_FUNCTIONS = {
    "execute": (program.execute, types.int64(types.int64, types.int64)),
    "serve": (team.serve, types.void(types.int64, types.int64)),
    "dismiss": (team.dismiss, types.void(types.int64)),
}
"""What Python calls, with the arguments of each."""
_REALS = {np.dtype("float32"): types.float32, np.dtype("float64"): types.float64}
_lock = threading.RLock()
_kept: list[Any] = []  # compiled code lives as long as these


def compiled(name: str, dtype: np.dtype[Any] | None) -> tuple[bytes, str]:
    """The body of that name for that dtype, compiled now: an object file, and the function's name in it.

    dtype : None for what Python calls
    """
    with _lock, _without_exceptions():
        function, signature = _found(name, dtype)
        made = cfunc(signature, **FLAGS)(function)
        *_, (code, _) = made._library.serialize_using_object_code()
        return code, made.native_name


def address(name: str, dtype: np.dtype[Any] | None, folder: Path | None) -> int:
    """Where the body begins that numba compiled, from and into numba's cache in a folder where that can be done."""
    with _lock, _without_exceptions():
        function, signature = _found(name, dtype)
        made = None
        if folder is not None:
            before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
            try:
                made = cfunc(signature, cache=True, **FLAGS)(function)
            except Exception:  # a damaged or foreign file, a full disk: the cache must not end a training
                pass
            finally:
                config.CACHE_DIR = before
        _kept.append(made or cfunc(signature, **FLAGS)(function))
        return int(_kept[-1].address)


def _found(name: str, dtype: np.dtype[Any] | None) -> tuple[Any, Any]:
    """The function, and its types in C."""
    if dtype is None:
        return _FUNCTIONS[name]
    function = next(getattr(each, name) for each in _MODULES if hasattr(each, name))
    # what makes a share of some work is called with the team and its place in it
    place = [types.int64] * (function.__code__.co_argcount - 1)
    return function, types.void(types.CPointer(_REALS[dtype]), *place)


@contextmanager
def _without_exceptions() -> Iterator[None]:
    """Let C functions be made that ask nobody whether there was an exception, for no body raises one.

    Those that numba makes report it to the interpreter, by functions of numba's that are not there without it.
    """
    context = cpu_target.target_context

    def create(library: Any, description: Any, environment: Any, helper: Any) -> None:
        module = context.create_module("bpnet_entry")
        convention, arguments = context.call_conv, description.argtypes
        kind = convention.get_function_type(description.restype, arguments)
        body = ir.Function(module, kind, description.llvm_func_name)
        outer = ir.FunctionType(
            context.get_value_type(description.restype), [context.get_value_type(each) for each in arguments]
        )
        function = ir.Function(module, outer, description.llvm_cfunc_wrapper_name)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        _, result = convention.call_function(
            builder, body, description.restype, arguments, function.args, attrs=("noinline",)
        )
        builder.ret(result)
        library.add_ir_module(module)

    context.create_cfunc_wrapper = create
    try:
        yield
    finally:
        del context.create_cfunc_wrapper
