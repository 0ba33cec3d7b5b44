"""The ops that `python -m benchmarks.ops` times: for each its arrays, bpnet's kernels, and PyTorch's function.

Arrays are drawn by a seed, in bpnet's layout, images with their channels last; in every process they are the same. A
forward gives one result or several, of which the first is y; its backward gets dy, an array like y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpnet.ops.windows import Window

Array = Any
Arrays = dict[str, Array]

IMAGE, WEIGHT = "image", "weight"
"""How an array lies in bpnet: (N, H, W, C), (KH, KW, C, O)."""


@dataclass(frozen=True)
class OpCase:
    """An op and the way back.

    draw    : rng -> the arrays by name, in the order of PyTorch's arguments
    forward : the name of bpnet's kernel; arguments : arrays -> its arguments
    backward: the name of the other kernel, '' where there is none; given : dy, arrays, forward's results -> arguments
    torch   : torch, and its tensors by name -> y
    wrt     : the arrays whose gradients `backward` returns, in that order
    layouts : of arrays that do not lie in PyTorch as in bpnet, "y" among them
    into    : which argument a kernel without results writes to; -1: it has results
    """

    name: str
    what: str
    draw: Callable[[np.random.Generator], Arrays]
    forward: str
    arguments: Callable[[Arrays], tuple[Any, ...]]
    torch: Callable[[Any, Arrays], Any]
    backward: str = ""
    given: Callable[[Array, Arrays, tuple[Any, ...]], tuple[Any, ...]] | None = None
    wrt: tuple[str, ...] = ()
    layouts: dict[str, str] = field(default_factory=dict)
    into: int = -1

    def arrays(self) -> Arrays:
        """float32 where they are floating."""
        found = self.draw(np.random.default_rng(0))
        return {name: each.astype(np.float32) if each.dtype.kind == "f" else each for name, each in found.items()}

    def gradient(self, y: Array) -> Array:
        """dy."""
        return np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)


def _normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[Array]]:
    return lambda rng: [rng.standard_normal(shape) for shape in shapes]


def _named(names: str, *shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    draw = _normal(*shapes)
    return lambda rng: dict(zip(names.split(), draw(rng), strict=True))


def _padded(size: int, stride: int = 1, padding: int = 0) -> Window:
    return Window((size, size), (stride, stride), (1, 1), ((padding, padding), (padding, padding)))


IMAGES = {"x": IMAGE, "y": IMAGE}


def _convolution(
    name: str, images: tuple[int, ...], size: int, n_out: int, stride: int = 1, padding: int = 1, groups: int = 1
) -> OpCase:
    window, c = _padded(size, stride, padding), images[3] // groups
    what = f"{'x'.join(map(str, images))} to {n_out}, {size}x{size}"
    what += (f", stride {stride}" if stride > 1 else "") + (f", {groups} groups" if groups > 1 else "")
    return OpCase(
        name,
        what,
        _named("x W b", images, (size, size, c, n_out), (n_out,)),
        "conv2d",
        lambda a: (a["x"], a["W"], a["b"], window, groups),
        lambda torch, a: torch.nn.functional.conv2d(*a.values(), stride=stride, padding=padding, groups=groups),
        "conv2d_backward",
        lambda dy, a, _: (dy, a["x"], a["W"], window, groups),
        ("x", "W", "b"),
        IMAGES | {"W": WEIGHT},
    )


def _transposed(name: str, images: tuple[int, ...], size: int, n_out: int, stride: int, padding: int) -> OpCase:
    window = _padded(size, stride, padding)
    places = tuple((n - 1) * stride + size - 2 * padding for n in images[1:3])
    return OpCase(
        name,
        f"{'x'.join(map(str, images))} to {n_out}, {size}x{size}, stride {stride}",
        _named("x W b", images, (size, size, n_out, images[3]), (n_out,)),
        "conv_transpose2d",
        lambda a: (a["x"], a["W"], a["b"], window, 1, places),
        lambda torch, a: torch.nn.functional.conv_transpose2d(*a.values(), stride=stride, padding=padding),
        "conv_transpose2d_backward",
        lambda dy, a, _: (dy, a["x"], a["W"], window, 1),
        ("x", "W", "b"),
        IMAGES | {"W": WEIGHT},
    )


def _batch_norm(name: str, shape: tuple[int, ...]) -> OpCase:
    return OpCase(
        name,
        "x".join(map(str, shape)),
        _named("x weight bias", shape, shape[-1:], shape[-1:]),
        "batch_norm",
        lambda a: (*a.values(), 1e-5),
        lambda torch, a: torch.nn.functional.batch_norm(a["x"], None, None, a["weight"], a["bias"], True),
        "batch_norm_backward",
        lambda dy, a, out: (dy, a["x"], *out[1:], a["weight"], 1e-5),
        ("x", "weight", "bias"),
        IMAGES if len(shape) == 4 else {},
    )


def _pool(name: str, images: tuple[int, ...], window: Window, torch: str, *more: bool) -> OpCase:
    size, stride, padding = window.size[0], window.stride[0], window.padding[0][0]
    back = f"{name}_backward"
    return OpCase(
        f"{name} {size}x{size}",
        f"{'x'.join(map(str, images))}, stride {stride}",
        _named("x", images),
        name,
        lambda a: (a["x"], window, *more),
        lambda t, a: getattr(t.nn.functional, torch)(a["x"], size, stride, padding),
        back,
        lambda dy, a, _: (dy, a["x"], window) if not more else (dy, window, images[1:3], *more),
        ("x",),
        IMAGES,
    )


def _loss(name: str, kernel: str, torch: str, shape: tuple[int, ...] = (256, 512), probable: bool = False) -> OpCase:
    def draw(rng: np.random.Generator) -> Arrays:
        x = rng.standard_normal(shape)
        return {"x": 1 / (1 + np.exp(-x)) if probable else x, "t": rng.random(shape)}

    total = float(np.prod(shape))
    return OpCase(
        name,
        "x".join(map(str, shape)),
        draw,
        kernel,
        lambda a: (a["x"], a["t"], total),
        lambda t, a: getattr(t.nn.functional, torch)(a["x"], a["t"]),
        f"{kernel}_backward",
        lambda dy, a, _: (a["x"], a["t"], total, float(dy)),
        ("x",),
    )


def _labels(rng: np.random.Generator) -> Arrays:
    p = rng.random((256, 100)) + 0.1
    return {"x": p / p.sum(1, keepdims=True), "t": rng.integers(0, 100, 256)}


def _tokens(rng: np.random.Generator) -> Arrays:
    return {"ids": rng.integers(0, 5000, (32, 128)), "W": rng.standard_normal((5000, 128))}


def _parts(a: Arrays) -> tuple[Array, ...]:
    return tuple(a.values())


LAYER, ROWS = (64, 28, 28, 64), (512, 1000)
CASES = {
    each.name: each
    for each in (
        _convolution("conv2d", (32, 28, 28, 32), 3, 64),
        _convolution("conv2d strided", (32, 28, 28, 32), 3, 64, stride=2),
        _convolution("conv2d grouped", (16, 28, 28, 128), 3, 128, groups=8),
        _convolution("conv2d in 32 groups", (16, 28, 28, 128), 3, 128, groups=32),
        _convolution("conv2d depthwise", (16, 28, 28, 128), 3, 128, groups=128),
        _convolution("conv2d 1x1, stride 2", (32, 28, 28, 64), 1, 128, stride=2, padding=0),
        _transposed("conv_transpose2d 2x2", (16, 16, 16, 64), 2, 32, 2, 0),
        _transposed("conv_transpose2d 4x4", (16, 16, 16, 64), 4, 32, 2, 1),
        _batch_norm("batch_norm of images", LAYER),
        _batch_norm("batch_norm of rows", (256, 512)),
        OpCase(
            "scale_shift", "64x28x28x64",
            lambda rng: _named("x mean bias weight", LAYER, *[(64,)] * 3)(rng) | {"variance": rng.random(64) + 0.5},
            "scale_shift",
            lambda a: (a["x"], a["mean"], a["variance"], a["weight"], a["bias"], 1e-5),
            lambda torch, a: torch.nn.functional.batch_norm(
                a["x"], a["mean"], a["variance"], a["weight"], a["bias"], False
            ),
            layouts=IMAGES,
        ),
        OpCase(
            "group_norm", "64x28x28x64, 8 groups",
            _named("x weight bias", LAYER, (64,), (64,)),
            "group_norm", lambda a: (*a.values(), 8, 1e-5),
            lambda torch, a: torch.nn.functional.group_norm(a["x"], 8, a["weight"], a["bias"]),
            "group_norm_backward", lambda dy, a, out: (dy, a["x"], *out[1:], a["weight"], 8, 1e-5),
            ("x", "weight", "bias"), IMAGES,
        ),
        OpCase(
            "layer_norm", "4096x128", _named("x gain bias", (4096, 128), (128,), (128,)),
            "layer_norm", lambda a: (*a.values(), 1e-5),
            lambda torch, a: torch.nn.functional.layer_norm(a["x"], (128,), a["gain"], a["bias"]),
            "layer_norm_backward", lambda dy, a, out: (dy, *out[1:], a["gain"]), ("x", "gain", "bias"),
        ),
        OpCase(
            "rms_norm", "4096x128", _named("x gain", (4096, 128), (128,)),
            "rms_norm", lambda a: (*a.values(), 1e-5),
            lambda torch, a: torch.nn.functional.rms_norm(a["x"], (128,), a["gain"], 1e-5),
            "rms_norm_backward", lambda dy, a, out: (dy, *out[1:], a["gain"]), ("x", "gain"),
        ),
        OpCase(
            "prelu", "64x28x28x64", _named("x a", LAYER, (64,)),
            "prelu", _parts, lambda torch, a: torch.nn.functional.prelu(a["x"], a["a"]),
            "prelu_backward", lambda dy, a, _: (dy, a["x"], a["a"]), ("x", "a"), IMAGES,
        ),
        OpCase(
            "log_softmax", "512x1000", _named("x", ROWS),
            "log_softmax", _parts, lambda torch, a: torch.log_softmax(a["x"], -1),
            "log_softmax_backward", lambda dy, a, out: (dy, *out), ("x",),
        ),
        _loss("sigmoid and BCE", "sigmoid_binary_cross_entropy", "binary_cross_entropy_with_logits"),
        _loss("BCE of probabilities", "binary_cross_entropy", "binary_cross_entropy", probable=True),
        _loss("mean absolute error", "mean_absolute_error", "l1_loss"),
        _loss("mean squared error", "mean_squared_error", "mse_loss"),
        OpCase(
            "huber", "256x512", _named("x t", (256, 512), (256, 512)),
            "huber", lambda a: (*a.values(), 1.0),
            lambda torch, a: torch.nn.functional.huber_loss(a["x"], a["t"], reduction="none"),
            "huber_backward", lambda dy, a, _: (dy, *a.values(), 1.0), ("x",),
        ),
        OpCase(
            "NLL of probabilities", "256x100", _labels,
            "categorical_cross_entropy", lambda a: (*a.values(), 256.0),
            lambda torch, a: torch.nn.functional.nll_loss(torch.log(a["x"]), a["t"]),
            "categorical_cross_entropy_backward", lambda dy, a, _: (*a.values(), 256.0, float(dy)), ("x",),
        ),
        _pool("max_pool2d", LAYER, _padded(2, 2), "max_pool2d"),
        _pool("max_pool2d", LAYER, _padded(3, 2, 1), "max_pool2d"),
        _pool("avg_pool2d", LAYER, _padded(2, 2), "avg_pool2d", True),
        _pool("avg_pool2d", LAYER, _padded(3, 2, 1), "avg_pool2d", True),
        OpCase(
            "global_avg_pool", "64x28x28x64", _named("x", LAYER),
            "global_avg_pool", _parts, lambda torch, a: a["x"].mean((2, 3)),
            "global_avg_pool_backward", lambda dy, a, _: (dy, (28, 28)), ("x",), {"x": IMAGE},
        ),
        OpCase(
            "global_max_pool", "64x28x28x64", _named("x", LAYER),
            "global_max_pool", _parts, lambda torch, a: torch.nn.functional.adaptive_max_pool2d(a["x"], 1).flatten(1),
            "global_max_pool_backward", lambda dy, a, _: (dy, a["x"]), ("x",), {"x": IMAGE},
        ),
        OpCase(
            "embedding", "32x128 of 5000, 128", _tokens,
            "embedding", _parts, lambda torch, a: torch.nn.functional.embedding(a["ids"], a["W"]),
            "embedding_backward", lambda dy, a, _: (dy, a["ids"], 5000), ("W",),
        ),
        OpCase(
            "concatenate", "2 of 64x28x28x32", _named("x z", (64, 28, 28, 32), (64, 28, 28, 32)),
            "concatenate", lambda a: (_parts(a), 3), lambda torch, a: torch.cat(_parts(a), 1),
            "split", lambda dy, a, _: (dy, (32, 32), 3), ("x", "z"), IMAGES | {"z": IMAGE},
        ),
        OpCase(
            "clip_norm_", "1,000,000",
            lambda rng: {"g": rng.standard_normal(1_000_000) * 1e-3, "ok": np.ones(1, bool)},
            "clip_norm_", lambda a: (a["g"], a["ok"], 1e3),
            lambda torch, a: _clip(torch, a["g"]), into=0,
        ),
    )
}  # fmt: skip


def _clip(torch: Any, g: Any) -> Any:
    """Clip the norm of one parameter; it is below the limit, so that every call does the same."""
    g.grad = g.detach()
    torch.nn.utils.clip_grad_norm_([g], 1e3)
    return g


def of(name: str) -> tuple[OpCase, bool]:
    """The case of an op, and whether its way back is meant: 'prelu, backward'."""
    plain = name.removesuffix(", backward")
    return CASES[plain], plain != name


def names() -> list[str]:
    """All ops, each with its way back behind it."""
    return [each for name, case in CASES.items() for each in (name, f"{name}, backward")[: 1 + bool(case.backward)]]


def reference(name: str) -> list[Array]:
    """The results of the reference body in float64."""
    from bpnet import ops

    case, backward = of(name)
    arrays = {key: x.astype(np.float64) if x.dtype.kind == "f" else x for key, x in case.arrays().items()}
    args = case.arguments(arrays)
    out = getattr(ops, case.forward).reference.body(*args)
    if case.into >= 0:
        return [args[case.into]]
    made = out if isinstance(out, tuple) else (out,)
    if not backward:
        return [made[0]]
    assert case.given is not None
    found = getattr(ops, case.backward).reference.body(
        *case.given(case.gradient(made[0]).astype(np.float64), arrays, made)
    )
    return list(found) if isinstance(found, tuple) else [found]


def fingerprints(results: list[Array]) -> list[float]:
    """Of every result its size by the root of the mean square, and a sum weighted at random: what peers compare."""
    found: list[float] = []
    for each in results:
        flat = np.asarray(each, np.float64).reshape(-1)
        weights = np.random.default_rng(2).standard_normal(flat.size)
        root = max(float(np.linalg.norm(flat)), 1e-30)
        found += [root / max(flat.size, 1) ** 0.5, float(flat @ weights) / root]
    return found
