"""Scores of tokens whose product takes bfloat16 and sums in float32: `unembed`'s, of rounded numbers."""

from __future__ import annotations

from bpnet.dispatch import Array, kernel
from bpnet.ops.bfloat16 import ROUNDED, from_bf16, rounded
from bpnet.ops.costs import kernel_flops, size
from bpnet.ops.sequences import unembed, unembed_backward


@kernel(flops=lambda x, W: kernel_flops(unembed, (x, W)) + size(x) + size(W))
def unembed_bf16(x: Array, W: Array) -> Array:
    """y = x W^T in float32, of x (..., D) and W (V, D) in bfloat16, bits as uint16. Returns (..., V)."""
    return unembed(from_bf16(x), from_bf16(W))


def _unembed_bf16_backward_flops(dy: Array, x: Array, W: Array, need_dx: bool = True, need_dW: bool = True) -> int:
    widened = size(x) + size(W) + ROUNDED * size(dy)
    return kernel_flops(unembed_backward, (dy, x, W, need_dx, need_dW)) + widened


@kernel(flops=_unembed_bf16_backward_flops, unread=unembed_backward.unread)
def unembed_bf16_backward(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_dW: bool = True
) -> tuple[Array | None, Array | None]:
    """dx = r(dy) W and dW = r(dy)^T x, where r rounds to bfloat16; None where not needed. Results are float32."""
    return unembed_backward(rounded(dy), from_bf16(x), from_bf16(W), need_dx, need_dW)  # type: ignore[no-any-return]
