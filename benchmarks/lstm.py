"""A training step of an LSTM that predicts characters against PyTorch and JAX: `python -m benchmarks.lstm`.

65 symbols, sequences of 64, an embedding of 128, one LSTM of width 128, an unembedding, batch 32, Adam. As in
`benchmarks.gpt` every library runs in a process of its own, has the same weights and batches, and gets its turn in
every round; the losses of the first steps must agree. `floor` is the matrix products of a step alone, by NumPy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import gpt, networks
from benchmarks.networks import Network, Shape, both_ways

V, T, WIDTH, BATCH = 65, 64, 128, 32
RATE = 1e-3
NETWORK = Network("lstm", "lstm", f"{V} symbols, T {T}, {WIDTH} hidden, Adam", BATCH, n_batches=200)

Array = Any


def layers() -> Any:
    import bpnet as bp

    return bp.Sequential(bp.Embedding(V, WIDTH), bp.LSTM(WIDTH, WIDTH), bp.Unembedding(V, WIDTH))


def optimizer() -> Any:
    import bpnet as bp

    return bp.Adam(RATE)


batches = gpt.batches


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


class Torch(gpt.Torch):
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


class Jax(gpt.Jax):
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

        self.adam(loss_of, named(weights), RATE)


def products() -> list[tuple[Shape, Shape]]:
    """The shapes of every matrix product that a step needs: of all inputs at once, and of each time step."""
    n = BATCH * T
    found = [*both_ways(n, WIDTH, 4 * WIDTH), ((WIDTH, n), (n, 4 * WIDTH))]
    for _ in range(T - 1):
        found += [((BATCH, WIDTH), (WIDTH, 4 * WIDTH)), ((BATCH, 4 * WIDTH), (4 * WIDTH, WIDTH))]
    return found + both_ways(n, WIDTH, V)


def main(argv: Sequence[str] | None = None) -> int:
    return networks.main(NETWORK, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
