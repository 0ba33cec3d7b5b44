"""Attention by cuDNN, where the extra is installed: bodies that are asked before those of the kernels.

cuDNN multiplies bits of bfloat16 and gives bits back. Float32 arrays are rounded for it, where `matmul_precision` is
"bf16"; bits are handed over as they are. What it gives is widened.
"""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.attention import keeps_probabilities
from bpnet_cupy import cudnn_graphs as graphs
from bpnet_cupy.cudnn_graphs import Attention
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.attention import thirds
from bpnet_cupy.kernels.bfloat16 import single, widening
from bpnet_cupy.kernels.by_cudnn import Before, Conversions, Library
from bpnet_cupy.kernels.common import UINT16, Array, halves
from bpnet_cupy.problem import current_precision


def asked_for(kind: str, q: Array, k: Array, mask: Any, keep: Any, heads: int, causal: bool) -> Attention | None:
    """What cuDNN is asked for; None where it is not: it keeps no probabilities, and takes no mask of ours."""
    (n, queries, width), keys = q.shape, k.shape[1]
    suits = (
        (q.dtype == UINT16 or current_precision() == "bf16")
        and mask is None
        and keep is None
        and not keeps_probabilities(n, heads, queries, keys)
        and not (causal and queries > keys)  # queries that see nothing
    )
    return Attention(kind, (n, heads, queries, keys, width // heads), causal, joined=False) if suits else None


def asked_for_joined(kind: str, qkv: Array, mask: Any, keep: Any, heads: int, causal: bool) -> Attention | None:
    """The same of q, k and v that lie side by side."""
    q, k, _ = thirds(qkv)
    found = asked_for(kind, q, k, mask, keep, heads, causal)
    return None if found is None else Attention(found.kind, found.shape, found.causal, joined=True)


class _Attentions:
    """Attention as cuDNN does it, on bits of bfloat16."""

    def __init__(self, driver: Driver, library: Library) -> None:
        self.driver, self._library = driver, library

    def has(self, asked: Attention | None, factors: tuple[Array, ...], *arrays: Array) -> bool:
        """Whether cuDNN is asked for that, and does it. factors : numbers, which are rounded for it, or bits"""
        if asked is None or (found := self._library()) is None:
            return False
        if halves(*factors):
            return found.has(asked, *factors, *arrays)
        return single(*factors) and found.has(asked, *arrays)

    def _call(self, asked: Attention, arrays: dict[int, Array]) -> Call:
        found = self._library()
        assert found is not None
        return found.call(asked, arrays)

    def forward(self, asked: Attention, out: Any, converted: Conversions, *factors: Array) -> list[Call]:
        """The calls that give y, the logarithms, and where `out` has a place for them the bits of y.

        factors : the bits of q, k and v, which `converted` makes
        """
        y, logs, *places = out
        bits = places[0] if places else self.driver.empty(y.shape, UINT16)
        arrays = dict(zip((graphs.Q, graphs.K, graphs.V, graphs.Y, graphs.LOGS), (*factors, bits, logs), strict=True))
        return [*converted.calls, self._call(asked, arrays), widening(self.driver, y, bits)]

    def backward(
        self, asked: Attention, converted: Conversions, factors: tuple[Array, ...], to: tuple[Array, ...], dy: Array,
        y: Array, logs: Array,
    ) -> list[Call]:  # fmt: skip
        """The calls that give `to`, the bits of the gradients. factors : the bits of q, k and v"""
        numbers = (graphs.Q, graphs.K, graphs.V, graphs.DQ, graphs.DK, graphs.DV)
        arrays = dict(zip(numbers, (*factors, *to), strict=True))
        arrays |= {graphs.Y: converted.bits(y), graphs.DY: converted.bits(dy), graphs.LOGS: logs}
        return [*converted.calls, self._call(asked, arrays)]


def register(array_type: type, driver: Driver, library: Library) -> None:
    """Register the bodies for arrays of `array_type`. library : returns cuDNN, or None where it is not to be asked"""
    by_cudnn = _Attentions(driver, library)
    for op, back in (
        (ops.attention, ops.attention_backward),
        (ops.attention_bf16, ops.attention_bf16_backward),
    ):
        _register_apart(op, back, array_type, driver, by_cudnn)
    for op, back in (
        (ops.self_attention, ops.self_attention_backward),
        (ops.self_attention_bf16, ops.self_attention_bf16_backward),
    ):
        _register_joined(op, back, array_type, driver, by_cudnn)


def _register_apart(op: Kernel, op_backward: Kernel, array_type: type, driver: Driver, by_cudnn: _Attentions) -> None:
    before, back = Before(op, array_type), Before(op_backward, array_type)

    @op.register_bound(
        array_type,
        accepts=lambda q, k, v, mask, keep, heads, causal, rate: (
            before.accepts(q, k, v, mask, keep, heads, causal, rate)
            and by_cudnn.has(asked_for("forward", q, k, mask, keep, heads, causal), (q, k, v))
        ),
        allocate=before.allocate,
        name="cudnn",
    )
    def _(
        out: Any, q: Array, k: Array, v: Array, mask: Any, keep: Any, heads: int, causal: bool, rate: float
    ) -> list[Call]:
        asked = asked_for("forward", q, k, mask, keep, heads, causal)
        if asked is None or not by_cudnn.has(asked, (q, k, v), *out[1:]):
            return before.bind(out, q, k, v, mask, keep, heads, causal, rate)
        converted = Conversions(driver, [])
        return by_cudnn.forward(asked, out, converted, *(converted.bits(x) for x in (q, k, v)))

    @op_backward.register_bound(
        array_type,
        accepts=lambda dy, y, q, k, v, kept, mask, keep, heads, causal, rate: (
            back.accepts(dy, y, q, k, v, kept, mask, keep, heads, causal, rate)
            and by_cudnn.has(asked_for("backward", q, k, mask, keep, heads, causal), (q, k, v), kept)
        ),
        allocate=back.allocate,
        name="cudnn",
    )
    def _(
        out: Any, dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Any, keep: Any, heads: int,
        causal: bool, rate: float,
    ) -> list[Call]:  # fmt: skip
        asked = asked_for("backward", q, k, mask, keep, heads, causal)
        assert asked is not None
        converted = Conversions(driver, [])
        to = tuple(driver.empty(x.shape, UINT16) for x in (q, k, v))
        factors = tuple(converted.bits(x) for x in (q, k, v))
        calls = by_cudnn.backward(asked, converted, factors, to, dy, y, kept)
        return calls + [widening(driver, x, bits) for x, bits in zip(out, to, strict=True)]


def _register_joined(op: Kernel, op_backward: Kernel, array_type: type, driver: Driver, by_cudnn: _Attentions) -> None:
    before, back = Before(op, array_type), Before(op_backward, array_type)

    @op.register_bound(
        array_type,
        accepts=lambda qkv, mask, keep, heads, causal, rate: (
            before.accepts(qkv, mask, keep, heads, causal, rate)
            and by_cudnn.has(asked_for_joined("forward", qkv, mask, keep, heads, causal), (qkv,))
        ),
        allocate=before.allocate,
        name="cudnn",
    )
    def _(out: Any, qkv: Array, mask: Any, keep: Any, heads: int, causal: bool, rate: float) -> list[Call]:
        asked = asked_for_joined("forward", qkv, mask, keep, heads, causal)
        if asked is None or not by_cudnn.has(asked, (qkv,), *out[1:]):
            return before.bind(out, qkv, mask, keep, heads, causal, rate)
        converted = Conversions(driver, [])
        return by_cudnn.forward(asked, out, converted, *thirds(converted.bits(qkv)))

    @op_backward.register_bound(
        array_type,
        accepts=lambda dy, y, qkv, kept, mask, keep, heads, causal, rate: (
            back.accepts(dy, y, qkv, kept, mask, keep, heads, causal, rate)
            and by_cudnn.has(asked_for_joined("backward", qkv, mask, keep, heads, causal), (qkv,), kept)
        ),
        allocate=back.allocate,
        name="cudnn",
    )
    def _(
        out: Array, dy: Array, y: Array, qkv: Array, kept: Array, mask: Any, keep: Any, heads: int, causal: bool,
        rate: float,
    ) -> list[Call]:  # fmt: skip
        asked = asked_for_joined("backward", qkv, mask, keep, heads, causal)
        assert asked is not None
        converted = Conversions(driver, [])
        to = driver.empty(qkv.shape, UINT16)
        calls = by_cudnn.backward(asked, converted, thirds(converted.bits(qkv)), thirds(to), dy, y, kept)
        return [*calls, widening(driver, out, to)]
