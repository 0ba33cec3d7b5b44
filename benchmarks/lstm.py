"""A training step of an LSTM that predicts characters against PyTorch and JAX: `python -m benchmarks.lstm`.

65 symbols, sequences of 64, an embedding of 128, one LSTM of width 128, an unembedding, batch 32, Adam. As in
`benchmarks.gpt` every library runs in a process of its own, has the same weights and batches, and gets its turn in
every round; the losses of the first steps must agree. `floor` is the matrix products of a step alone, by NumPy.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.gpt import PEERS, Process, answer, batches, measure

V, T, WIDTH, BATCH = 65, 64, 128, 32
RATE = 1e-3
N_BATCHES = 32

Array = Any


def layers() -> Any:
    import bpnet as bp

    return bp.Sequential(bp.Embedding(V, WIDTH), bp.LSTM(WIDTH, WIDTH), bp.Unembedding(V, WIDTH))


class Ours:
    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        import bpnet as bp

        model = layers()
        model.initialize(dtype="float32")
        for path, parameter in model.parameters().items():
            parameter.value = weights[path]
        self.trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(RATE))

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        return float(self.trainer.step(x, y))


def named(weights: dict[str, Array]) -> dict[str, Array]:
    """The embedding, W, U and b of the LSTM, and the unembedding."""
    found: dict[str, Array] = {}
    for path, value in weights.items():
        kind = {"0": "embedding", "2": "head"}.get(path.partition(".")[0])
        if kind is None:
            kind = "b" if value.ndim == 1 else "U" if "recurrent" in path or path.endswith(".U") else "W"
        found[kind] = value
    if found.keys() != {"embedding", "W", "U", "b", "head"}:
        raise KeyError(f"the parameters are {list(weights)}")
    return found


class Torch:
    """torch.nn.LSTM and torch.optim.Adam(fused)."""

    def __init__(self, weights: dict[str, Array], threads: int, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        F, nn = torch.nn.functional, torch.nn
        self.torch = torch

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.head = nn.Embedding(V, WIDTH), nn.Linear(WIDTH, V, bias=False)
                self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

            def forward(self, x: Any, y: Any) -> Any:
                h, _ = self.lstm(self.embedding(x))
                return F.cross_entropy(self.head(h).view(-1, V), y.view(-1))

        model, own = Model(), named(weights)
        places = {
            "embedding": model.embedding.weight, "W": model.lstm.weight_ih_l0, "U": model.lstm.weight_hh_l0,
            "b": model.lstm.bias_ih_l0, "head": model.head.weight,
        }  # fmt: skip
        with torch.no_grad():
            model.lstm.bias_hh_l0.zero_()
            model.lstm.bias_hh_l0.requires_grad_(False)  # the two biases are one here
            for name, place in places.items():
                value = own[name].T if name in "WU" else own[name]
                place.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        wanted = [each for each in model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.Adam(wanted, lr=RATE, fused=True)
        self.model = torch.compile(model) if compiled else model

    def batch(self, x: Array, y: Array) -> Any:
        return self.torch.from_numpy(x), self.torch.from_numpy(y)

    def step(self, x: Any, y: Any) -> float:
        self.optimizer.zero_grad()
        loss = self.model(x, y)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


class Jax:
    """A scan over the steps, behind one product of all inputs, the whole training step jitted."""

    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        import jax
        import jax.numpy as jnp

        self.jnp = jnp

        def loss_of(p: Any, x: Any, y: Any) -> Any:
            z = p["embedding"][x.T] @ p["W"] + p["b"]

            def advance(state: Any, z: Any) -> Any:
                h, c = state
                i, f, g, o = jnp.split(z + h @ p["U"], 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zero = jnp.zeros((x.shape[0], WIDTH))
            _, h = jax.lax.scan(advance, (zero, zero), z)
            log_p = jax.nn.log_softmax(h @ p["head"].T)
            return -jnp.take_along_axis(log_p, y.T[..., None], axis=-1).mean()

        def train(p: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
            loss, g = jax.value_and_grad(loss_of)(p, x, y)
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            correction = jnp.sqrt(1 - 0.999**t)
            rate = RATE * correction / (1 - 0.9**t)
            p = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8 * correction), p, m, v)
            return p, m, v, t, loss

        self.train = jax.jit(train, donate_argnums=(0, 1, 2, 3))
        values: Any = {name: jnp.array(value) for name, value in named(weights).items()}
        self.state: Any = (values, *(jax.tree.map(jnp.zeros_like, values) for _ in range(2)), jnp.zeros(()))

    def batch(self, x: Array, y: Array) -> Any:
        return self.jnp.array(x, self.jnp.int32), self.jnp.array(y, self.jnp.int32)

    def step(self, x: Any, y: Any) -> float:
        *self.state, loss = self.train(*self.state, x, y)
        return float(loss.item())


class Floor:
    """The matrix products of a step and nothing else, by NumPy into arrays that are there."""

    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        rng, n = np.random.default_rng(0), BATCH * T
        self.products: list[tuple[Array, Array, Array]] = []

        def product(*shapes: tuple[int, ...]) -> None:
            a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
            self.products.append((a, b, np.empty(np.matmul(a, b).shape, np.float32)))

        product((n, WIDTH), (WIDTH, 4 * WIDTH)), product((n, 4 * WIDTH), (4 * WIDTH, WIDTH))
        for _ in range(2):
            product((WIDTH, n), (n, 4 * WIDTH))
        for _ in range(T - 1):
            product((BATCH, WIDTH), (WIDTH, 4 * WIDTH)), product((BATCH, 4 * WIDTH), (4 * WIDTH, WIDTH))
        product((n, WIDTH), (WIDTH, V)), product((WIDTH, n), (n, V)), product((n, V), (V, WIDTH))

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        for a, b, out in self.products:
            np.matmul(a, b, out)
        return math.nan


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lstm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all that are installed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="of one peer in one round")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        made = {"bpnet": Ours, "torch": Torch, "jax": Jax, "floor": Floor}
        answer(*arguments.child, arguments.threads, made, batches(N_BATCHES, BATCH))
        return 0
    names = [name for name in arguments.peers.split(",") if find_spec(PEERS[name]) is not None]
    model = layers().initialize(seed=0, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.npz")
        np.savez(path, **{name: parameter.value for name, parameter in model.parameters().items()})
        processes = {name: Process(name, path, arguments.threads, "benchmarks.lstm") for name in names}
        try:
            return measure(processes, arguments.rounds, arguments.steps)
        finally:
            for process in processes.values():
                process.close()


if __name__ == "__main__":
    sys.exit(main())
