"""Convolutions and attention by cuDNN, where the extra is installed: bodies that are asked before those of the kernels.

A rule of the shapes and the precision says what cuDNN is asked for. Where it has no plan, the body that was registered
before does it. cuDNN wants the filters of images with channels last as (K, R, S, C), and attention in bfloat16, so
filters are transposed and numbers rounded on the way, by kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.attention import keeps_probabilities
from bpnet.ops.windows import Window
from bpnet_cupy import cudnn_graphs as graphs
from bpnet_cupy.cudnn import Cudnn
from bpnet_cupy.cudnn_graphs import FILTERS, IMAGES, PLACES, Attention, Convolution
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.attention import thirds
from bpnet_cupy.kernels.axes import swapped
from bpnet_cupy.kernels.bfloat16 import rounding, single, widening
from bpnet_cupy.kernels.common import FLOAT32, UINT16, Array
from bpnet_cupy.kernels.convolution import After
from bpnet_cupy.problem import current_precision

MODES = {"float32": ("float32",), "tf32": ("tf32",), "bf16": ("bf16", "tf32")}
"""How cuDNN may compute products, by what is asked for. It cannot sum all products of bfloat16 into float32, least on
other GPUs than Hopper; then it makes more exact ones, of TF32."""

Library = Callable[[], Cudnn | None]


class _Bits:
    """Roundings to bfloat16, each array's once."""

    def __init__(self, driver: Driver, calls: list[Call]) -> None:
        self.driver, self.calls = driver, calls
        self._found: list[tuple[Array, Array]] = []

    def of(self, x: Array) -> Array:
        """The bits of x, once the calls have been made."""
        for known, bits in self._found:
            if known is x:
                return bits
        bits = self.driver.empty(x.shape, UINT16)
        self.calls.append(rounding(self.driver, bits, x))
        self._found.append((x, bits))
        return bits


class _Convolutions:
    """The three operations of one convolution of float32 arrays.

    images, places, filters : shapes; those of the filters as W has them
    """

    def __init__(self, driver: Driver, library: Cudnn, images: Any, places: Any, filters: Any, window: Window) -> None:
        self.driver, self.library = driver, library
        self.modes = MODES[current_precision()]
        self._description = partial(
            Convolution,
            images=tuple(images),
            filters=tuple(filters),
            places=tuple(places),
            stride=window.stride,
            dilation=window.dilation,
            padding=window.padding,
        )
        self.filters = filters
        self.calls: list[Call] = []
        self._bits = _Bits(driver, self.calls)

    def _described(self, kind: str) -> Convolution:
        """What is asked for: the last of the modes, or one before that cuDNN has a plan for."""
        *first, last = (self._description(kind, mode=mode) for mode in self.modes)
        return next((each for each in first if self.library.plan(each) is not None), last)

    def has(self, kind: str, *arrays: Array) -> bool:
        """Whether cuDNN does that."""
        return self.library.has(self._described(kind), *arrays)

    def _call(self, kind: str, factors: dict[int, Array], made: dict[int, Array]) -> None:
        description = self._described(kind)
        if description.mode == "bf16":
            factors = {number: self._bits.of(x) for number, x in factors.items()}
        self.calls.append(self.library.call(description, factors | made))

    def _turned(self) -> tuple[Array, int, int]:
        """A place for filters as cuDNN has them, and the rows and columns of W's matrix."""
        *window, outputs = self.filters
        depth = math.prod(window)
        return self.driver.empty((outputs, depth), FLOAT32), depth, outputs

    def filtered(self, kind: str, out: Array, source: Array, W: Array) -> None:
        """`fprop`: out = what the windows see of the images. `dgrad`: out = images of what the places give back."""
        turned, rows, columns = self._turned()
        self.calls.append(swapped(self.driver, turned, W, 1, rows, columns, 1))
        to, of = (PLACES, IMAGES) if kind == "fprop" else (IMAGES, PLACES)
        self._call(kind, {of: source, FILTERS: turned}, {to: out})

    def weight_gradient(self, dW: Array, images: Array, places: Array) -> None:
        """dW = what the windows saw of the images, times the places."""
        turned, rows, columns = self._turned()
        self._call("wgrad", {IMAGES: images, PLACES: places}, {FILTERS: turned})
        self.calls.append(swapped(self.driver, dW, turned, 1, columns, rows, 1))


def suited(window: Window, groups: int, channels: int, *arrays: Array) -> bool:
    """Whether cuDNN is asked at all: a window of one pixel is a product, and depthwise ones have a kernel."""
    return single(*arrays) and not (window.plain and groups == 1) and not 1 < groups == channels


class _Before:
    """The body that was asked until now: it does what cuDNN does not."""

    def __init__(self, op: Kernel, array_type: type) -> None:
        found = next(variant for cls, variant in op.variants() if cls is array_type)
        self.accepts: Callable[..., bool] = found.accepts or (lambda *_: True)
        self.allocate: Callable[..., Any] = found.allocate or (lambda *_: None)
        self._bind = found.bind

    def bind(self, out: Any, *args: Any) -> list[Call]:
        """Its calls."""
        assert self._bind is not None
        return self._bind(out, *args)


def register(array_type: type, driver: Driver, library: Library) -> None:
    """Register the bodies for arrays of `array_type`. library : returns cuDNN, or None where it is not to be asked"""
    _register_convolutions(array_type, driver, library)
    attentions = _Attentions(driver, library)
    _register_apart(array_type, driver, attentions)
    _register_joined(array_type, driver, attentions)


def _register_convolutions(array_type: type, driver: Driver, library: Library) -> None:
    for op, kind in ((ops.conv2d, "fprop"), (ops.conv_transpose2d, "dgrad")):
        _register_forward(op, kind, array_type, driver, library)
    for op, kind in ((ops.conv2d_backward, "dgrad"), (ops.conv_transpose2d_backward, "fprop")):
        _register_backward(op, kind, array_type, driver, library)


def _register_forward(op: Kernel, kind: str, array_type: type, driver: Driver, library: Library) -> None:
    """kind : what the op is to cuDNN: `fprop` makes places of images, `dgrad`, the transposed one, images of places"""
    before = _Before(op, array_type)
    settled = 5 if kind == "fprop" else 6  # arguments before the activation

    def asked(out_shape: Any, x: Array, W: Array, window: Window) -> _Convolutions | None:
        found = library()
        if found is None:
            return None
        images, places = (x.shape, out_shape) if kind == "fprop" else (out_shape, x.shape)
        return _Convolutions(driver, found, images, places, W.shape, window)

    def made(x: Array, W: Array, window: Window, groups: int, *size: Any) -> tuple[int, ...]:
        if kind == "fprop":
            return (x.shape[0], *window.places(x.shape[1], x.shape[2]), W.shape[3])
        return (x.shape[0], *size[0], W.shape[2] * groups)

    def accepts(x: Array, W: Array, b: Array | None, window: Window, groups: int, *rest: Any) -> bool:
        if library() is None or not before.accepts(x, W, b, window, groups, *rest):
            return False
        shape = made(x, W, window, groups, *rest[: settled - 5])
        if not suited(window, groups, (x.shape if kind == "fprop" else shape)[3], x, W):
            return False
        found = asked(shape, x, W, window)
        return found is not None and found.has(kind, x)

    @op.register_bound(array_type, accepts=accepts, allocate=before.allocate, name="cudnn")
    def _(out: Array, x: Array, W: Array, b: Array | None, window: Window, groups: int, *rest: Any) -> list[Call]:
        found = asked(out.shape, x, W, window)
        if found is None or not found.has(kind, x, out):
            return before.bind(out, x, W, b, window, groups, *rest)
        found.filtered(kind, out, x, W)
        activation, *settings = rest[settled - 5 :] or (None,)
        return found.calls + After(b, activation, tuple(settings)).calls(driver, out)


def _register_backward(op: Kernel, kind: str, array_type: type, driver: Driver, library: Library) -> None:
    """kind : what dx is to cuDNN"""
    before = _Before(op, array_type)

    def asked(dy: Array, x: Array, W: Array, window: Window) -> _Convolutions | None:
        found = library()
        if found is None:
            return None
        images, places = (x, dy) if kind == "dgrad" else (dy, x)
        return _Convolutions(driver, found, images.shape, places.shape, W.shape, window)

    def accepts(
        dy: Array, x: Array, W: Array, window: Window, groups: int, dx: bool = True, db: bool = True, dW: bool = True
    ) -> bool:
        if library() is None or not before.accepts(dy, x, W, window, groups):
            return False
        if not suited(window, groups, (x if kind == "dgrad" else dy).shape[3], dy, x, W):
            return False
        found = asked(dy, x, W, window)
        return found is not None and ((dx and found.has(kind, dy)) or (dW and found.has("wgrad", x, dy)))

    @op.register_bound(array_type, accepts=accepts, allocate=before.allocate, name="cudnn")
    def _(out: Any, dy: Array, x: Array, W: Array, window: Window, groups: int, *_: bool) -> list[Call]:
        dx, dW, db = out
        found = asked(dy, x, W, window)
        calls: list[Call] = []
        if found is not None:
            if dW is not None and found.has("wgrad", x, dy):
                found.weight_gradient(dW, *((x, dy) if kind == "dgrad" else (dy, x)))
                dW = None
            if dx is not None and found.has(kind, dy, dx):
                found.filtered(kind, dx, dy, W)
                dx = None
            calls = found.calls
        return calls + before.bind((dx, dW, db), dy, x, W, window, groups)


# --- attention ---


def _attention(kind: str, q: Array, k: Array, mask: Any, keep: Any, heads: int, causal: bool) -> Attention | None:
    """What cuDNN is asked for; None where it is not: it keeps no probabilities, and takes no mask of ours."""
    (n, queries, width), keys = q.shape, k.shape[1]
    suits = (
        current_precision() == "bf16"
        and mask is None
        and keep is None
        and not keeps_probabilities(n, heads, queries, keys)
        and not (causal and queries > keys)  # queries that see nothing
    )
    return Attention(kind, (n, heads, queries, keys, width // heads), causal, joined=False) if suits else None


def _joined(kind: str, qkv: Array, mask: Any, keep: Any, heads: int, causal: bool) -> Attention | None:
    q, k, _ = thirds(qkv)
    found = _attention(kind, q, k, mask, keep, heads, causal)
    return None if found is None else Attention(found.kind, found.shape, found.causal, joined=True)


class _Attentions:
    """Attention as cuDNN does it, on the bits of bfloat16 of float32 arrays."""

    def __init__(self, driver: Driver, library: Library) -> None:
        self.driver, self._library = driver, library

    def has(self, asked: Attention | None, *arrays: Array) -> bool:
        """Whether cuDNN is asked for that, and does it."""
        if asked is None or (found := self._library()) is None:
            return False
        return found.has(asked, *arrays)

    def _call(self, asked: Attention, arrays: dict[int, Array]) -> Call:
        found = self._library()
        assert found is not None
        return found.call(asked, arrays)

    def forward(self, asked: Attention, out: Any, rounded: _Bits, q: Array, k: Array, v: Array) -> list[Call]:
        """The calls that give y and the logarithms. q, k, v : bits, which `rounded` makes"""
        y, logs = out
        bits = self.driver.empty(y.shape, UINT16)
        arrays = {graphs.Q: q, graphs.K: k, graphs.V: v, graphs.Y: bits, graphs.LOGS: logs}
        return [*rounded.calls, self._call(asked, arrays), widening(self.driver, y, bits)]

    def backward(
        self, asked: Attention, rounded: _Bits, factors: tuple[Array, ...], to: tuple[Array, ...], dy: Array, y: Array,
        logs: Array,
    ) -> list[Call]:  # fmt: skip
        """The calls that give `to`, the bits of the gradients. factors : the bits of q, k and v"""
        numbers = (graphs.Q, graphs.K, graphs.V, graphs.DQ, graphs.DK, graphs.DV)
        arrays = dict(zip(numbers, (*factors, *to), strict=True))
        arrays |= {graphs.Y: rounded.of(y), graphs.DY: rounded.of(dy), graphs.LOGS: logs}
        return [*rounded.calls, self._call(asked, arrays)]


def _register_apart(array_type: type, driver: Driver, by_cudnn: _Attentions) -> None:
    before, back = _Before(ops.attention, array_type), _Before(ops.attention_backward, array_type)

    @ops.attention.register_bound(
        array_type,
        accepts=lambda q, k, v, mask, keep, heads, causal, rate: (
            before.accepts(q, k, v, mask, keep, heads, causal, rate)
            and single(q, k, v)
            and by_cudnn.has(_attention("forward", q, k, mask, keep, heads, causal))
        ),
        allocate=before.allocate,
        name="cudnn",
    )
    def _(
        out: Any, q: Array, k: Array, v: Array, mask: Any, keep: Any, heads: int, causal: bool, rate: float
    ) -> list[Call]:
        asked = _attention("forward", q, k, mask, keep, heads, causal)
        if asked is None or not by_cudnn.has(asked, out[1]):
            return before.bind(out, q, k, v, mask, keep, heads, causal, rate)
        bits = _Bits(driver, [])
        return by_cudnn.forward(asked, out, bits, bits.of(q), bits.of(k), bits.of(v))

    @ops.attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, q, k, v, kept, mask, keep, heads, causal, rate: (
            back.accepts(dy, y, q, k, v, kept, mask, keep, heads, causal, rate)
            and single(dy, y, q, k, v)
            and by_cudnn.has(_attention("backward", q, k, mask, keep, heads, causal), kept)
        ),
        allocate=back.allocate,
        name="cudnn",
    )
    def _(
        out: Any, dy: Array, y: Array, q: Array, k: Array, v: Array, kept: Array, mask: Any, keep: Any, heads: int,
        causal: bool, rate: float,
    ) -> list[Call]:  # fmt: skip
        asked = _attention("backward", q, k, mask, keep, heads, causal)
        assert asked is not None
        rounded = _Bits(driver, [])
        to = tuple(driver.empty(x.shape, UINT16) for x in (q, k, v))
        factors = tuple(rounded.of(x) for x in (q, k, v))
        calls = by_cudnn.backward(asked, rounded, factors, to, dy, y, kept)
        return calls + [widening(driver, x, bits) for x, bits in zip(out, to, strict=True)]


def _register_joined(array_type: type, driver: Driver, by_cudnn: _Attentions) -> None:
    before, back = _Before(ops.self_attention, array_type), _Before(ops.self_attention_backward, array_type)

    @ops.self_attention.register_bound(
        array_type,
        accepts=lambda qkv, mask, keep, heads, causal, rate: (
            before.accepts(qkv, mask, keep, heads, causal, rate)
            and single(qkv)
            and by_cudnn.has(_joined("forward", qkv, mask, keep, heads, causal))
        ),
        allocate=before.allocate,
        name="cudnn",
    )
    def _(out: Any, qkv: Array, mask: Any, keep: Any, heads: int, causal: bool, rate: float) -> list[Call]:
        asked = _joined("forward", qkv, mask, keep, heads, causal)
        if asked is None or not by_cudnn.has(asked, out[1]):
            return before.bind(out, qkv, mask, keep, heads, causal, rate)
        bits = _Bits(driver, [])
        return by_cudnn.forward(asked, out, bits, *thirds(bits.of(qkv)))

    @ops.self_attention_backward.register_bound(
        array_type,
        accepts=lambda dy, y, qkv, kept, mask, keep, heads, causal, rate: (
            back.accepts(dy, y, qkv, kept, mask, keep, heads, causal, rate)
            and single(dy, y, qkv)
            and by_cudnn.has(_joined("backward", qkv, mask, keep, heads, causal), kept)
        ),
        allocate=back.allocate,
        name="cudnn",
    )
    def _(
        out: Array, dy: Array, y: Array, qkv: Array, kept: Array, mask: Any, keep: Any, heads: int, causal: bool,
        rate: float,
    ) -> list[Call]:  # fmt: skip
        asked = _joined("backward", qkv, mask, keep, heads, causal)
        assert asked is not None
        rounded = _Bits(driver, [])
        to = driver.empty(qkv.shape, UINT16)
        calls = by_cudnn.backward(asked, rounded, thirds(rounded.of(qkv)), thirds(to), dy, y, kept)
        return [*calls, widening(driver, out, to)]
