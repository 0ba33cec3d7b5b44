"""What a kernel makes, and its bits in bfloat16, in one call."""

from __future__ import annotations

from typing import Any

from bpnet.dispatch import Array, Kernel, kernel
from bpnet.ops.attention_bf16 import self_attention_bf16
from bpnet.ops.bfloat16 import to_bf16
from bpnet.ops.costs import kernel_flops, size


def _also_bf16_flops(x: Array, op: Kernel, *rest: Any) -> int:
    made = size(x) // 3 if op is self_attention_bf16 else size(x)
    return kernel_flops(op, (x, *rest)) + 2 * made


@kernel(flops=_also_bf16_flops)
def also_bf16(x: Array, op: Kernel, *rest: Any) -> tuple[Array, ...]:
    """What `op(x, *rest)` returns, and behind it the bits of the nearest bfloat16 of every number of its first result.

    op : a kernel whose first result has x's shape, or `self_attention_bf16`
    A plan puts it in the place of the two, where a backend can do both in one pass.
    """
    found = op(x, *rest)
    results = found if isinstance(found, tuple) else (found,)
    return *results, to_bf16(results[0])
