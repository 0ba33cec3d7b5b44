"""What makes the input of a product in bfloat16, and writes its bits in the same pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.bfloat16 import single
from bpnet_cupy.kernels.common import BLOCK, FLOAT32, UINT16, Array, packs
from bpnet_cupy.kernels.features import WITH_SLOPE, slope_of
from bpnet_cupy.kernels.norms import row_norm
from bpnet_cupy.names import ACTIVATIONS

NORMS = ("layer_norm", "rms_norm")
WITH_PLACE = (ops.dropout, ops.attention_bf16, ops.self_attention_bf16)
"""Ops whose own bodies write the bits of their first result to a place behind the other results, where there is one."""


def register(array_type: type, driver: Driver) -> None:
    """Register the body for arrays of `array_type`."""

    def accepts(x: Array, op: Kernel, *rest: Any) -> bool:
        if op in WITH_PLACE:
            return op.choose((x, *rest)).bind is not None and (op is not ops.dropout or x.dtype == FLOAT32)
        if op.name in NORMS:
            gains = [each for each in rest[:-1] if each is not None]
            return single(x, *gains) and x.ndim > 0 and all(each.shape == x.shape[-1:] for each in gains)
        return single(x) and (op.name in ACTIVATIONS or op.name in WITH_SLOPE)

    def allocate(x: Array, op: Kernel, *rest: Any) -> Any:
        if op in WITH_PLACE:
            found = op.choose((x, *rest)).allocate
            assert found is not None
            results = found(x, *rest)
            return (*results, driver.empty(results[0].shape, UINT16))
        more: tuple[tuple[int, ...], ...] = ()
        if op.name in NORMS:
            more = (x.shape, (*x.shape[:-1], 1))
        elif op.name in WITH_SLOPE:
            more = (x.shape,)
        return (*(driver.empty(shape, FLOAT32) for shape in (x.shape, *more)), driver.empty(x.shape, UINT16))

    @ops.also_bf16.register_bound(array_type, accepts=accepts, allocate=allocate)
    def _(out: Any, x: Array, op: Kernel, *rest: Any) -> list[Call]:
        if op in WITH_PLACE:
            bind = op.choose((x, *rest)).bind
            assert bind is not None
            return bind(out, x, *rest)
        if op.name in NORMS:
            return [row_norm(driver, out, x, *rest)]
        if op.name in WITH_SLOPE:
            return [slope_of(driver, out, x, WITH_SLOPE[op.name])]
        args = (*out, x, np.int64(x.size), np.float32(rest[0] if rest else 0))
        kernel = f"activation_bf16<{ACTIVATIONS[op.name]}>"
        return [driver.launch(kernel, packs(driver, x.size, x.dtype), BLOCK, args)]
