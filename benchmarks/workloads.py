"""Workloads: the networks that are timed, with the initial weights and the batches that every peer gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


def he_normal(rng: np.random.Generator, n_in: int, n_out: int) -> Array:
    return rng.standard_normal((n_in, n_out)) * (2 / n_in) ** 0.5


def near_identity(rng: np.random.Generator, n_in: int, n_out: int, noise: float = 0.05) -> Array:
    """Keeps a signal alive through any number of narrow ReLU layers, where random weights would let it die.

    noise : the standard deviation of what is added to the identity. Layers one behind the other multiply signals and
            rounding errors by about (1 + noise^2 n)^(depth / 2), so it must fall with the root of the depth.
    """
    return np.eye(n_in, n_out) + noise * rng.standard_normal((n_in, n_out))


def flowers(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Four lengths and widths of three species of iris, drawn around their published means; two species overlap.

    [Fisher 1936, table I]
    """
    means = np.array([[5.01, 3.43, 1.46, 0.25], [5.94, 2.77, 4.26, 1.33], [6.59, 2.97, 5.55, 2.03]])
    spreads = np.array([[0.35, 0.38, 0.17, 0.11], [0.52, 0.31, 0.47, 0.20], [0.64, 0.32, 0.55, 0.27]])
    labels = rng.integers(0, 3, n)
    return means[labels] + spreads[labels] * rng.standard_normal((n, 4)), labels


def spiral(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Three arms of a spiral in the plane, with noise in the angle, as courses on backpropagation draw them."""
    labels = rng.permutation(np.arange(n) % 3)
    radius = rng.random(n)
    angle = 4 * (radius + labels) + 0.2 * rng.standard_normal(n)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1), labels


def clusters(rng: np.random.Generator, n: int, width: int = 1024, classes: int = 1024) -> tuple[Array, Array]:
    """One cluster a class, around centers drawn on a sphere."""
    centers = rng.standard_normal((classes, width), np.float32)
    labels = rng.permutation(np.arange(n) % classes)
    return centers[labels] + 0.5 * rng.standard_normal((n, width), np.float32), labels


def digits(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Real handwritten digits, 8x8 in [0, 1], in passes over shuffled data."""
    from bpnet.data import load

    x, labels = load("digits")[0]
    rows = np.concatenate([rng.permutation(len(labels)) for _ in range(-(-n // len(labels)))])[:n]
    return x[rows], labels[rows]


def large_digits(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """The same digits enlarged three times and shifted at random in a field of 28x28, mostly background like MNIST."""
    x, labels = digits(rng, n)
    fields = np.zeros((n, 28, 28), np.float32)
    for field, image, (top, left) in zip(fields, x.reshape(n, 8, 8), rng.integers(0, 5, (n, 2)), strict=True):
        field[top : top + 24, left : left + 24] = np.kron(image, np.ones((3, 3)))
    return fields.reshape(n, 784), labels


def noise(n_in: int, classes: int) -> Draw:
    """Normal numbers and labels drawn at will: networks of this size are timed for a few steps only."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        return rng.standard_normal((n, n_in), np.float32), rng.integers(0, classes, n)

    return draw


@dataclass(frozen=True)
class Workload:
    """A multilayer perceptron with ReLU between its Dense layers, and what is measured on it.

    sizes     : the widths, input first
    metric    : a name in `benchmarks.metrics.METRICS`
    count     : how often the metric repeats its unit of work in one round
    precision : of products: "float32", "tf32" or "bf16"; parameters and updates are float32
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    draw: Draw
    metric: str = "step"
    count: int = 1000
    n_batches: int = 64
    weights: Callable[[np.random.Generator, int, int], Array] = he_normal
    seed: int = 0
    precision: str = "float32"

    @property
    def title(self) -> str:
        products = "" if self.precision == "float32" else f", products in {self.precision}"
        return f"{self.name} {'-'.join(map(str, self.sizes))}, batch {self.batch}{products}"

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum((n_in + 1) * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def flops(self) -> int:
        """Of the matrix products alone: forward, dW, and dx of every layer but the first."""
        products = [2 * self.batch * n_in * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False)]
        return sum(products) if self.metric == "inference" else 3 * sum(products) - products[0]

    @property
    def bytes_moved(self) -> int:
        """What has to be read or written if everything that is made in between stays in registers.

        A step reads and writes every parameter and both of Adam's moments; inference reads every parameter. Either
        reads its batch.
        """
        batch = 4 * self.batch * self.sizes[0]
        return batch + self.parameters * (4 if self.metric == "inference" else 24)

    def make(self) -> Problem:
        """The weights and batches, a function of the seed alone."""
        rng = np.random.default_rng(self.seed)
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        weights = [self.weights(rng, n_in, n_out).astype(np.float32) for n_in, n_out in pairs]
        x, labels = self.draw(rng, self.n_batches * self.batch)
        x = np.ascontiguousarray(x, np.float32).reshape(self.n_batches, self.batch, self.sizes[0])
        labels = labels.astype(np.int64).reshape(self.n_batches, self.batch)
        return Problem(weights, x, labels, self.precision)


@dataclass(frozen=True)
class Problem:
    """What every peer starts from.

    weights : one (n_in, n_out) float32 a layer; biases start at zero
    x       : (batches, N, width) float32; labels : (batches, N) int64
    names   : of a network that is no multilayer perceptron: its module, then the weights'
    """

    weights: list[Array]
    x: Array
    labels: Array
    precision: str = "float32"
    names: tuple[str, ...] = ()

    @property
    def batches(self) -> list[tuple[Array, Array]]:
        """(x, labels) of every batch, each an array of its own."""
        return [(x.copy(), labels.copy()) for x, labels in zip(self.x, self.labels, strict=True)]

    def save(self, path: Path) -> None:
        weights = {f"weight{index}": weight for index, weight in enumerate(self.weights)}
        about = {"precision": np.array(self.precision), "names": np.array(self.names, dtype=str)}
        np.savez(path, x=self.x, labels=self.labels, **about, **weights)

    @classmethod
    def load(cls, path: Path) -> Problem:
        with np.load(path, allow_pickle=False) as archive:
            n_layers = sum(name.startswith("weight") for name in archive.files)
            weights = [archive[f"weight{index}"] for index in range(n_layers)]
            names = tuple(archive["names"].tolist())
            return cls(weights, archive["x"], archive["labels"], str(archive["precision"]), names)


MNIST = (784, 512, 512, 10)

STEPS = {
    workload.name: workload
    for workload in (
        Workload("tiny", (4, 16, 3), 32, flowers, count=1500),
        Workload("spiral", (2, 64, 3), 300, spiral, count=1000),
        Workload("digits", (64, 128, 10), 64, digits, count=600),
        Workload("mnist", MNIST, 128, large_digits, count=100, n_batches=32),
        Workload("wide", (1024, 4096, 1024), 256, clusters, count=8, n_batches=32),
    )
}
"""The training steps of `python -m benchmarks.cpu`, by name.

The counts end a round before training has gone so far that slots of Adam decay into denormal numbers; `--count` looks
beyond.
"""

INFERENCES = {
    workload.name: workload
    for workload in (
        Workload("one", MNIST, 1, large_digits, "inference", count=1000, n_batches=1024),
        Workload("many", MNIST, 10_000, large_digits, "inference", count=4, n_batches=2),
    )
}
"""The same for inference: one sample, and ten thousand at once."""

WORKLOADS = STEPS | INFERENCES

GPU = {
    workload.name: workload
    for workload in (
        Workload("mlp-small", (784, 128, 10), 64, large_digits, "train", count=1000),
        Workload("mnist", (784, 512, 512, 10), 128, large_digits, "train", count=1000, n_batches=32),
        Workload("wide", (1024, 4096, 1024), 256, noise(1024, 1024), "train few", count=300, n_batches=16),
        *(
            Workload(
                "mlp-large" if precision == "float32" else f"mlp-large-{precision}",
                (4096, 4096, 4096, 4096),
                4096,
                noise(4096, 4096),
                "train few",
                count=20,
                n_batches=2,
                precision=precision,
            )
            for precision in ("float32", "tf32", "bf16")
        ),
        Workload("input", (784, 10), 4096, large_digits, "input", count=200, n_batches=8),
    )
}
"""The workloads of `python -m benchmarks.gpu`, by name."""
