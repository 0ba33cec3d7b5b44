"""Every loss against PyTorch's in float64, value and gradient, to 1e-10; runs where torch is installed.

Where the definitions differ, the test says so and brings PyTorch's to ours:
- soft targets: PyTorch divides by the number of rows, bpnet by sum_ic w_c t_ic s_i, which differs with class weights;
- class weights with soft targets and smoothing are otherwise the same;
- sample weights: PyTorch has none; sum(s l) / sum(s w) is made from reduction="none";
- Kullback-Leibler: bpnet's mean is over rows, PyTorch's "batchmean"; its "mean" is over elements;
- hinge of several classes: bpnet has Crammer and Singer's, PyTorch (MultiMarginLoss) Weston and Watkins's; they agree
  for two classes but for the factor 1 / C;
- binary cross-entropy on probabilities: PyTorch keeps logarithms above -100, bpnet raises p to the smallest normal
  number;
- focal losses: not in PyTorch; made from its cross-entropies, through its differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp

torch = pytest.importorskip("torch", reason="compares with PyTorch where it is installed: pip install torch==2.13.0")
F = torch.nn.functional

RNG = np.random.default_rng(11)
N, C = 7, 5
LOGITS = 3 * RNG.normal(size=(N, C))
SEQUENCES = 3 * RNG.normal(size=(4, 3, C))
LABELS = RNG.integers(0, C, N)
GRID = RNG.integers(0, C, (4, 3))
SOFT = RNG.dirichlet(np.ones(C), N)
WEIGHTS = RNG.uniform(0.1, 3.0, C)
SAMPLES = RNG.uniform(0.0, 2.0, N)
Y, T = 2 * RNG.normal(size=(N, C)), RNG.normal(size=(N, C))
BITS = RNG.uniform(size=(N, C))
SIGNS = np.where(BITS > 0.5, 1.0, -1.0)


def compare(loss: bp.Loss, x: Any, target: Any, expected: Callable[[Any, Any], Any], weight: Any = None) -> None:
    """The value and the gradient of `loss` are those of `expected(x, target)`, to 1e-10."""
    tx = torch.tensor(x, requires_grad=True)
    value = expected(tx, torch.tensor(target))
    value.backward()
    found = loss.forward(x, target, None, weight)
    np.testing.assert_allclose(found, value.item(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(loss.backward(), tx.grad.numpy(), rtol=1e-10, atol=1e-10)


def tensor(x: Any) -> Any:
    return torch.tensor(np.asarray(x, dtype=np.float64))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "class weights": {"class_weight": WEIGHTS},
    "ignored": {"ignore_index": int(LABELS[0])},
    "all": {"label_smoothing": 0.3, "class_weight": WEIGHTS, "ignore_index": int(LABELS[0])},
}


def torchs(options: dict[str, Any]) -> dict[str, Any]:
    """The options by PyTorch's names."""
    found = {name: value for name, value in options.items() if name != "class_weight"}
    return found | ({"weight": tensor(options["class_weight"])} if "class_weight" in options else {})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_labels(options: dict[str, Any], reduction: str) -> None:
    theirs = torchs(options) | {"reduction": reduction}
    loss = bp.SoftmaxCrossEntropy(**options, reduction=reduction)
    compare(loss, LOGITS, LABELS, lambda x, t: F.cross_entropy(x, t, **theirs))
    loss = bp.SoftmaxCrossEntropy(**options, reduction=reduction)
    compare(loss, SEQUENCES, GRID, lambda x, t: F.cross_entropy(x.reshape(-1, C), t.reshape(-1), **theirs))
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    log_loss = bp.CategoricalCrossEntropy(**options, reduction=reduction)
    # log p as logits would be normalized again, and PyTorch has no smoothing beside: written out
    on, rest = 1 - options.get("label_smoothing", 0.0), options.get("label_smoothing", 0.0) / C
    w = tensor(options.get("class_weight", np.ones(C)))

    def on_probabilities(x: Any, t: Any) -> Any:
        q = (on * F.one_hot(t, C).double() + rest) * w * (t != options.get("ignore_index", -100))[:, None]
        total = (w[t] * (t != options.get("ignore_index", -100))).sum() if reduction == "mean" else 1.0
        return -(q * x.log()).sum() / total

    compare(log_loss, p, LABELS, on_probabilities)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"class_weight": WEIGHTS}])
def test_cross_entropy_of_soft_targets(options: dict[str, Any]) -> None:
    """PyTorch divides by N, bpnet by sum_ic w_c t_ic."""
    share = N / float((SOFT * options.get("class_weight", np.ones(C))).sum())
    compare(
        bp.SoftmaxCrossEntropy(**options),
        LOGITS,
        SOFT,
        lambda x, t: F.cross_entropy(x, t, **torchs(options)) * share,
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cross_entropy_with_sample_weights(options: dict[str, Any]) -> None:
    """PyTorch has no sample weights: its unreduced losses, weighted."""
    counted = options.get("ignore_index", -100) != LABELS
    total = float((SAMPLES * options.get("class_weight", np.ones(C))[LABELS] * counted).sum())

    def expected(x: Any, t: Any) -> Any:
        return (F.cross_entropy(x, t, reduction="none", **torchs(options)) * tensor(SAMPLES)).sum() / total

    compare(bp.SoftmaxCrossEntropy(**options), LOGITS, LABELS, expected, SAMPLES)


@pytest.mark.parametrize("name", ["plain", "class weights", "ignored"])
def test_negative_log_likelihood(name: str) -> None:
    log_p = F.log_softmax(tensor(LOGITS), dim=1).numpy()
    theirs = torchs(OPTIONS[name])
    compare(bp.NegativeLogLikelihood(**OPTIONS[name]), log_p, LABELS, lambda x, t: F.nll_loss(x, t, **theirs))


def test_kl_divergence() -> None:
    """The mean over rows is PyTorch's "batchmean"."""
    log_p = F.log_softmax(tensor(LOGITS), dim=1).numpy()
    compare(bp.KLDivergence(), log_p, SOFT, lambda x, t: F.kl_div(x, t, reduction="batchmean"))
    onehot = np.eye(C)[LABELS]
    compare(bp.KLDivergence(reduction="sum"), log_p, onehot, lambda x, t: F.kl_div(x, t, reduction="sum"))


def focal_of(x: Any, t: Any, gamma: float) -> Any:
    each = F.cross_entropy(x, t, reduction="none")
    return (1 - (-each).exp()) ** gamma * each


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses(gamma: float) -> None:
    """From PyTorch's cross-entropies: it has no focal loss of its own."""
    compare(bp.FocalLoss(gamma), LOGITS, LABELS, lambda x, t: focal_of(x, t, gamma).mean())
    w = tensor(WEIGHTS)
    compare(
        bp.FocalLoss(gamma, class_weight=WEIGHTS), LOGITS, LABELS,
        lambda x, t: (w[t] * focal_of(x, t, gamma)).sum() / w[t].sum(),
    )  # fmt: skip

    def binary(x: Any, t: Any) -> Any:
        p = torch.sigmoid(x)
        p_t, alpha_t = p * t + (1 - p) * (1 - t), 0.25 * t + 0.75 * (1 - t)
        return (alpha_t * (1 - p_t) ** gamma * F.binary_cross_entropy_with_logits(x, t, reduction="none")).mean()

    compare(bp.BinaryFocalLoss(gamma, 0.25), Y, np.round(BITS), binary)


ELEMENTWISE: dict[str, tuple[Callable[..., bp.Loss], Any, Any, Callable[..., Any]]] = {
    "squared": (bp.MeanSquaredError, Y, T, F.mse_loss),
    "absolute": (bp.MeanAbsoluteError, Y, T, F.l1_loss),
    "huber": (lambda **o: bp.Huber(0.7, **o), Y, T, lambda x, t, **o: F.huber_loss(x, t, delta=0.7, **o)),
    "huber of 1 is smooth L1": (bp.Huber, Y, T, F.smooth_l1_loss),
    "poisson": (bp.PoissonNLL, Y, np.floor(9 * BITS), F.poisson_nll_loss),
    "binary": (bp.BinaryCrossEntropy, Y, BITS, F.binary_cross_entropy_with_logits),
    "binary, probabilities": (
        lambda **o: bp.BinaryCrossEntropy(from_logits=False, **o), 1 / (1 + np.exp(-Y)), BITS, F.binary_cross_entropy
    ),
    "log cosh": (
        bp.LogCosh, Y, T,
        lambda x, t, reduction="mean": getattr(torch, reduction)(torch.log(torch.cosh(x - t))),
    ),
    "hinge": (
        bp.Hinge, Y, SIGNS,
        lambda x, t, reduction="mean": getattr(torch, reduction)(torch.clamp(1 - t * x, min=0)),
    ),
    "squared hinge": (
        lambda **o: bp.Hinge(squared=True, **o), Y, SIGNS,
        lambda x, t, reduction="mean": getattr(torch, reduction)(torch.clamp(1 - t * x, min=0) ** 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "x", "t", "theirs"), ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_losses_of_elements(make: Callable[..., bp.Loss], x: Any, t: Any, theirs: Callable[..., Any]) -> None:
    compare(make(), x, t, theirs)
    compare(make(reduction="sum"), x, t, lambda a, b: theirs(a, b, reduction="sum"))
    weight = SAMPLES[:, None] / (SAMPLES.sum() * C)

    def weighted(a: Any, b: Any) -> Any:
        return sum(w.item() * theirs(a[i], b[i], reduction="sum") for i, w in enumerate(weight))

    compare(make(), x, t, weighted, SAMPLES)


def test_multiclass_hinge() -> None:
    """Crammer and Singer's from PyTorch's maximum; with two classes MultiMarginLoss is that by 2."""

    def crammer_singer(x: Any, t: Any) -> Any:
        rivals = x + 1.0 - F.one_hot(t, x.shape[1])
        return (rivals.max(dim=1).values - x.gather(1, t[:, None])[:, 0]).mean()

    compare(bp.MulticlassHinge(), LOGITS, LABELS, crammer_singer)
    compare(bp.MulticlassHinge(), LOGITS[:, :2], LABELS % 2, lambda x, t: 2 * F.multi_margin_loss(x, t))


@pytest.mark.parametrize("name", ["plain", "class weights"])
def test_unreduced_losses(name: str) -> None:
    """The same rows, PyTorch's weighted by class too."""
    x = torch.tensor(LOGITS, requires_grad=True)
    rows = F.cross_entropy(x, torch.tensor(LABELS), reduction="none", **torchs(OPTIONS[name]))
    loss = bp.SoftmaxCrossEntropy(reduction="none", **OPTIONS[name])
    np.testing.assert_allclose(loss.forward(LOGITS, LABELS), rows.detach().numpy(), rtol=1e-10)
    scale = RNG.normal(size=N)
    rows.backward(torch.tensor(scale))
    np.testing.assert_allclose(loss.backward(scale), x.grad.numpy(), rtol=1e-10, atol=1e-12)
