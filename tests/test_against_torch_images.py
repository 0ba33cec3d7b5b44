"""Convolutions, pools and norms against PyTorch's in float64, outputs and gradients, to 1e-10.

Weights are brought over by `permute(2, 3, 1, 0)`, images by channels="first" on this side. Where definitions differ:
- padding="same" with a stride above 1: PyTorch has none; bpnet's is TensorFlow's, and is not compared here;
- running statistics change in the forward of a module in training mode there, and by the update of a step here;
- AvgPool2d's count_padding is PyTorch's count_include_pad.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import bpnet as bp

torch = pytest.importorskip("torch", reason="compares with PyTorch where it is installed: pip install torch==2.13.0")
nn = torch.nn

RNG = np.random.default_rng(12)


def tensor(x: Any) -> Any:
    return torch.tensor(np.array(x, dtype=np.float64))


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-10, atol=1e-10)


def compare(ours: bp.Layer, theirs: Any, x: Any, weights: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Outputs, dx and the parameters' gradients agree. weights : our name: (theirs, our axes of theirs)"""
    theirs = theirs.double()
    model = ours.initialize(dtype="float64")
    for name, (other, axes) in weights.items():
        value = getattr(theirs, other)
        with torch.no_grad():
            value.copy_(tensor(RNG.normal(size=tuple(value.shape))))
        getattr(model, name).value = value.detach().numpy().transpose(axes)
    tx = tensor(x).requires_grad_()
    ty = theirs(tx)
    y = model.forward(x)
    same(y, ty)
    dy = RNG.normal(size=y.shape)
    ty.backward(tensor(dy))
    same(model.backward(dy), tx.grad)
    for name, (other, axes) in weights.items():
        same(getattr(model, name).grad, getattr(theirs, other).grad.permute(axes))


CONVOLUTIONS = [
    (size, stride, padding, dilation, groups)
    for size, stride, padding, dilation, groups in itertools.product(
        (1, 3, (3, 2)), (1, (1, 3)), (0, (2, 1), "same"), (1, (2, 1)), (1, 2, 4)
    )
    if not (padding == "same" and stride != 1)
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 3])
def test_conv2d(groups: int, n: int) -> None:
    for size, stride, padding, dilation, g in CONVOLUTIONS:
        if g != groups:
            continue
        keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        for bias in (True, False):
            ours = bp.Conv2d(4, 8, size, bias=bias, channels="first", **keywords)  # type: ignore[arg-type]
            theirs = nn.Conv2d(4, 8, size, bias=bias, **keywords)
            weights = {"weight": ("weight", (2, 3, 1, 0))} | ({"bias": ("bias", (0,))} if bias else {})
            compare(ours, theirs, RNG.normal(size=(n, 4, 7, 6)), weights)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("groups", [1, 2])
def test_conv1d(groups: int) -> None:
    for size, stride, padding, dilation in itertools.product((1, 2, 5), (1, 3), (0, 2, "same"), (1, 2)):
        if padding == "same" and stride != 1:
            continue
        keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        ours = bp.Conv1d(4, 6, size, channels="first", **keywords)  # type: ignore[arg-type]
        weights = {"weight": ("weight", (2, 1, 0)), "bias": ("bias", (0,))}
        compare(ours, nn.Conv1d(4, 6, size, **keywords), RNG.normal(size=(2, 4, 11)), weights)


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose2d(groups: int) -> None:
    for size, stride, padding, more, dilation in itertools.product(
        (1, 2, (3, 2)), (1, 2, (3, 2)), (0, 1), (0, 1), (1, 2)
    ):
        strides = (stride, stride) if isinstance(stride, int) else stride
        sizes = (size, size) if isinstance(size, int) else size
        if any(more >= s for s in strides) or any(
            dilation * (k - 1) + 1 + more + 2 * s - 2 * padding < 1 for k, s in zip(sizes, strides, strict=True)
        ):
            continue
        keywords = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
        ours = bp.ConvTranspose2d(4, 6, size, groups=groups, channels="first", **keywords)  # type: ignore[arg-type]
        theirs = nn.ConvTranspose2d(4, 6, size, groups=groups, **keywords)
        weights = {"weight": ("weight", (2, 3, 1, 0)), "bias": ("bias", (0,))}
        compare(ours, theirs, RNG.normal(size=(2, 4, 4, 3)), weights)


def test_max_pool2d() -> None:
    for size, stride, padding, dilation in itertools.product((1, 2, 3, (2, 3)), (None, 1, 2, (3, 1)), (0, 1), (1, 2)):
        if padding and size == 1:
            continue
        keywords = {"stride": stride, "padding": padding, "dilation": dilation}
        for x in (RNG.normal(size=(2, 3, 8, 9)), RNG.integers(0, 3, (2, 3, 8, 9)).astype(np.float64)):
            ours = bp.MaxPool2d(size, channels="first", **keywords)  # type: ignore[arg-type]
            compare(bp.Sequential(ours), nn.MaxPool2d(size, **keywords), x, {})


def test_avg_pool2d() -> None:
    for size, stride, padding, count in itertools.product(
        (1, 2, 3, (2, 3)), (None, 1, 2, (3, 1)), (0, 1), (True, False)
    ):
        if padding and size == 1:
            continue
        ours = bp.AvgPool2d(size, stride=stride, padding=padding, count_padding=count, channels="first")  # type: ignore[arg-type]
        theirs = nn.AvgPool2d(size, stride=stride, padding=padding, count_include_pad=count)
        compare(bp.Sequential(ours), theirs, RNG.normal(size=(2, 3, 7, 8)), {})


def test_pools_of_signals() -> None:
    for size, stride, padding in itertools.product((1, 2, 3), (None, 1, 2, 3), (0, 1)):
        if padding and size == 1:
            continue
        x = RNG.normal(size=(2, 3, 8))
        for dilation in (1, 2):
            keywords = {"stride": stride, "padding": padding, "dilation": dilation}
            ours: bp.Layer = bp.MaxPool1d(size, channels="first", **keywords)  # type: ignore[arg-type]
            compare(bp.Sequential(ours), nn.MaxPool1d(size, **keywords), x, {})
        for count in (True, False):
            ours = bp.AvgPool1d(size, stride=stride, padding=padding, count_padding=count, channels="first")
            theirs = nn.AvgPool1d(size, stride=stride, padding=padding, count_include_pad=count)
            compare(bp.Sequential(ours), theirs, x, {})
    for ours, theirs in (
        (bp.GlobalAveragePool1d(channels="first"), nn.AdaptiveAvgPool1d(1)),
        (bp.GlobalMaxPool1d(channels="first"), nn.AdaptiveMaxPool1d(1)),
    ):
        compare(bp.Sequential(ours), nn.Sequential(theirs, nn.Flatten()), RNG.normal(size=(2, 3, 5)), {})


def test_global_pools() -> None:
    x = RNG.normal(size=(2, 3, 5, 4))
    for ours, theirs in (
        (bp.GlobalAveragePool2d(channels="first"), nn.AdaptiveAvgPool2d(1)),
        (bp.GlobalMaxPool2d(channels="first"), nn.AdaptiveMaxPool2d(1)),
    ):
        compare(bp.Sequential(ours), nn.Sequential(theirs, nn.Flatten()), x, {})


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 5), (2, 6, 3, 4)])
def test_group_norm(groups: int, shape: tuple[int, ...]) -> None:
    if groups == 6 and len(shape) == 2:
        return  # one value a group has no spread, and PyTorch refuses it
    for epsilon in (1e-5, 0.3):
        ours = bp.GroupNorm(groups, 6, epsilon=epsilon, channels="first")
        weights = {"weight": ("weight", (0,)), "bias": ("bias", (0,))}
        compare(ours, nn.GroupNorm(groups, 6, eps=epsilon), RNG.normal(3.0, 2.0, shape), weights)


@pytest.mark.parametrize("shape", [(7, 6), (3, 6, 5), (2, 6, 3, 4)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_batch_norm_and_its_running_statistics(shape: tuple[int, ...], affine: bool, momentum: float) -> None:
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    theirs = kind(6, momentum=momentum, affine=affine, eps=1e-3)
    ours = bp.BatchNorm(6, momentum=momentum, affine=affine, epsilon=1e-3, channels="first")
    weights = {"weight": ("weight", (0,)), "bias": ("bias", (0,))} if affine else {}
    compare(ours, theirs, RNG.normal(3.0, 2.0, shape), weights)
    for _ in range(3):
        bp.SGD(1e-30).step(ours)
        same(ours.running_mean.value, theirs.running_mean)
        same(ours.running_variance.value, theirs.running_var)
        x = RNG.normal(1.0, 4.0, shape)
        y = ours.forward(x)
        ours.backward(np.zeros_like(y))
        theirs(tensor(x))
    bp.SGD(1e-30).step(ours)
    theirs.eval()
    x = RNG.normal(size=shape)
    np.testing.assert_allclose(ours(x), theirs(tensor(x)).detach().numpy(), rtol=1e-7)


def test_a_frozen_batch_norm_is_one_in_evaluation_mode() -> None:
    theirs = nn.BatchNorm1d(4).eval()
    ours = bp.BatchNorm(4, fixed=True)
    compare(ours, theirs, RNG.normal(size=(5, 4)), {"weight": ("weight", (0,)), "bias": ("bias", (0,))})


def test_a_network_learns_step_by_step_as_the_same_one_in_pytorch() -> None:
    ours = bp.Sequential(
        bp.Conv2d(1, 4, 3, padding="same", channels="first"),
        bp.BatchNorm(4, channels="first"),
        bp.ReLU(),
        bp.MaxPool2d(2, channels="first"),
        bp.Conv2d(4, 6, 3, channels="first"),
        bp.ReLU(),
        bp.GlobalAveragePool2d(channels="first"),
        bp.Dense(6, 3),
    ).initialize(seed=4, dtype="float64")
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for index, other in ((0, 0), (4, 4)):
            theirs[other].weight.copy_(tensor(ours[index].weight.value.transpose(3, 2, 0, 1)))  # type: ignore[attr-defined]
            theirs[other].bias.zero_()
        theirs[8].weight.copy_(tensor(ours[7].weight.value.T))  # type: ignore[attr-defined]
        theirs[8].bias.zero_()
    trainer = bp.Trainer(ours, bp.SoftmaxCrossEntropy(), bp.SGD(0.1, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    for _ in range(12):
        x, y = RNG.normal(size=(8, 1, 8, 8)), RNG.integers(0, 3, 8)
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(theirs(tensor(x)), torch.tensor(y))
        value.backward()
        optimizer.step()
        np.testing.assert_allclose(trainer.step(x, y), value.item(), rtol=1e-9)
    theirs.eval()
    x = RNG.normal(size=(5, 1, 8, 8))
    np.testing.assert_allclose(ours(x), theirs(tensor(x)).detach().numpy(), rtol=1e-8, atol=1e-9)
