"""A training step of a convolutional network against PyTorch and JAX: `python -m benchmarks.images`.

28x28x1, conv 3x3 16, ReLU, pool, conv 3x3 32, ReLU, pool, 128, 10; batch 64, Adam, float32. As in `benchmarks.gpt`
every library runs in a process of its own, has the same weights and batches, and gets its turn in every round; the
losses of the first steps must agree. `floor` is the matrix products of a step alone, by NumPy, of windows that are
there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import gpt, networks
from benchmarks.networks import Network, Shape, both_ways
from benchmarks.workloads import large_digits

BATCH = 64
RATE = 1e-3
SIDE, CHANNELS, HIDDEN, CLASSES = 28, (1, 16, 32), 128, 10
FLAT = (SIDE // 4) ** 2 * CHANNELS[2]
NETWORK = Network("images", "cnn", "28x28x1, conv3x3 16, pool, conv3x3 32, pool, 128, 10, Adam", BATCH, n_batches=64)

Array = Any


def layers() -> Any:
    import bpnet as bp

    return bp.Sequential(
        bp.Conv2d(CHANNELS[0], CHANNELS[1], 3, padding="same"),
        bp.ReLU(),
        bp.MaxPool2d(2),
        bp.Conv2d(CHANNELS[1], CHANNELS[2], 3, padding="same"),
        bp.ReLU(),
        bp.MaxPool2d(2),
        bp.Flatten(),
        bp.Dense(FLAT, HIDDEN),
        bp.ReLU(),
        bp.Dense(HIDDEN, CLASSES),
    )


def optimizer() -> Any:
    import bpnet as bp

    return bp.Adam(RATE)


def batches(n: int, size: int) -> list[tuple[Array, Array]]:
    """Handwritten digits, enlarged and shifted, channels last."""
    x, labels = large_digits(np.random.default_rng(0), n * size)
    return list(zip(x.reshape(n, size, SIDE, SIDE, 1), labels.reshape(n, size), strict=True))


class Torch(gpt.Torch):
    """As its users write it. Images come with the channels last in memory, which its convolutions take as they are."""

    def __init__(self, weights: dict[str, Array], threads: int, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        F, nn = torch.nn.functional, torch.nn
        self.torch = torch
        network = nn.Sequential(
            nn.Conv2d(CHANNELS[0], CHANNELS[1], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(CHANNELS[1], CHANNELS[2], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(FLAT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES),
        )  # fmt: skip

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, x: Any, y: Any) -> Any:
                return F.cross_entropy(self.network(x), y)

        with torch.no_grad():
            for name, parameter in network.named_parameters():
                value = weights[name]
                if value.ndim == 4:
                    value = value.transpose(3, 2, 0, 1)
                elif name == "7.weight":  # its rows are places and channels here, channels and places there
                    side = SIDE // 4
                    value = value.reshape(side, side, CHANNELS[2], HIDDEN).transpose(3, 2, 0, 1).reshape(HIDDEN, FLAT)
                elif value.ndim == 2:
                    value = value.T
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        self.optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
        model = Model()
        self.model = torch.compile(model) if compiled else model

    def batch(self, x: Array, y: Array) -> Any:
        return self.torch.from_numpy(x).permute(0, 3, 1, 2), self.torch.from_numpy(y)


class Jax(gpt.Jax):
    """The whole step jitted, channels last."""

    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        import jax
        import jax.numpy as jnp

        self.jnp = jnp

        def conv(p: Any, index: int, x: Any) -> Any:
            layout = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, p[f"{index}.weight"], (1, 1), "SAME", dimension_numbers=layout)
            y = jax.nn.relu(y + p[f"{index}.bias"])
            return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        def loss_of(p: Any, x: Any, y: Any) -> Any:
            h = conv(p, 3, conv(p, 0, x)).reshape(len(x), -1)
            h = jax.nn.relu(h @ p["7.weight"] + p["7.bias"])
            log_p = jax.nn.log_softmax(h @ p["9.weight"] + p["9.bias"])
            return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

        self.adam(loss_of, weights, RATE)

    def batch(self, x: Array, y: Array) -> Any:
        return self.jnp.array(x), self.jnp.array(y, self.jnp.int32)


def products() -> list[tuple[Shape, Shape]]:
    """The shapes of every matrix product that a step needs; a convolution is that of its windows."""
    places = [BATCH * SIDE**2, BATCH * (SIDE // 2) ** 2]
    found = both_ways(places[0], 9 * CHANNELS[0], CHANNELS[1], need_dx=False)
    found += both_ways(places[1], 9 * CHANNELS[1], CHANNELS[2])
    return found + both_ways(BATCH, FLAT, HIDDEN) + both_ways(BATCH, HIDDEN, CLASSES)


def main(argv: Sequence[str] | None = None) -> int:
    return networks.main(NETWORK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
