"""A training step of a small GPT against PyTorch and JAX: `python -m benchmarks.gpt`; `--curve` compares losses.

65 symbols, sequences of 64, width 128, 4 heads, 2 pre-norm blocks, GELU by tanh, batch 16, AdamW. Every library runs in
a process of its own, has the same weights and batches, and gets its turn in every round; the losses of the first steps
must agree with bpnet's in float64. `floor` is the matrix products of a step alone, by NumPy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.harness import Harness, failures
from benchmarks.networks import Network, Shape, both_ways
from benchmarks.report import chosen_peers, settings

V, T, D, HEADS, BLOCKS, BATCH = 65, 64, 128, 4, 2, 16
RATE, DECAY = 1e-3, 0.01
WHAT = f"{V} symbols, T {T}, D {D}, {HEADS} heads, {BLOCKS} blocks, AdamW"
NETWORK = Network("gpt", "gpt", WHAT, BATCH, n_batches=200)

Array = Any


def layers() -> Any:
    import bpnet as bp

    blocks = [bp.TransformerBlock(D, HEADS, causal=True, activation="gelu_tanh") for _ in range(BLOCKS)]
    head = bp.Unembedding(V, D)
    return bp.Sequential(bp.Embedding(V, D), bp.LearnedPositions(T, D), *blocks, bp.LayerNorm(D), head)


def text() -> Array:
    """Ids of the 65 commonest characters of Python's help; the others count as the commonest."""
    from bpnet.data.text import topics_text

    codes = np.frombuffer(topics_text().encode("ascii"), np.uint8).astype(np.int64)
    order = np.argsort(-np.bincount(codes, minlength=128), kind="stable")
    place = np.argsort(order, kind="stable")[codes]
    return np.where(place < V, place, 0)


def optimizer() -> Any:
    import bpnet as bp

    return bp.AdamW(RATE, weight_decay=DECAY)


def batches(n: int, size: int) -> list[tuple[Array, Array]]:
    ids = text()
    starts = np.random.default_rng(0).integers(0, len(ids) - T - 1, size=(n, size))
    x = ids[starts[..., None] + np.arange(T)]
    return [(each, ids[start[:, None] + np.arange(1, T + 1)]) for each, start in zip(x, starts, strict=True)]


class Torch:
    """As its users write it: F.scaled_dot_product_attention, one product for q, k and v, torch.optim.AdamW(fused)."""

    def __init__(self, weights: dict[str, Array], threads: int, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        F, nn = torch.nn.functional, torch.nn
        self.torch = torch

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
                self.qkv, self.output = nn.Linear(D, 3 * D), nn.Linear(D, D)
                self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

            def forward(self, x: Any) -> Any:
                n = x.shape[0]
                q, k, v = self.qkv(self.norm1(x)).split(D, dim=-1)
                heads = [each.view(n, -1, HEADS, D // HEADS).transpose(1, 2) for each in (q, k, v)]
                a = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(n, -1, D)
                x = x + self.output(a)
                return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.positions = nn.Embedding(V, D), nn.Parameter(torch.zeros(T, D))
                self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
                self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V, bias=False)

            def forward(self, x: Any, y: Any) -> Any:
                h = self.embedding(x) + self.positions
                for block in self.blocks:
                    h = block(h)
                return F.cross_entropy(self.head(self.norm(h)).view(-1, V), y.view(-1))

        model = Model()
        with torch.no_grad():
            for name, value in torch_weights(weights).items():
                dict(model.named_parameters())[name].copy_(torch.from_numpy(value))
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
        self.model = torch.compile(model) if compiled else model

    def batch(self, x: Array, y: Array) -> Any:
        return self.torch.from_numpy(x), self.torch.from_numpy(y)

    def step(self, x: Any, y: Any) -> float:
        self.optimizer.zero_grad()
        loss = self.model(x, y)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def torch_weights(weights: dict[str, Array]) -> dict[str, Array]:
    """bpnet's parameters under the names that the model above has, Linear weights transposed."""
    names = {"0.weight": "embedding.weight", "1.weight": "positions"}
    names |= {f"{2 + BLOCKS}.weight": "norm.weight", f"{2 + BLOCKS}.bias": "norm.bias"}
    names |= {f"{3 + BLOCKS}.weight": "head.weight"}
    inner = {"attention.qkv": "qkv", "attention.output": "output", "feed.0": "up", "feed.2": "down"}
    inner |= {"attention_norm": "norm1", "feed_norm": "norm2"}
    found = {}
    for path, value in weights.items():
        if path in names:
            found[names[path]] = value
            continue
        block, _, rest = path.partition(".")
        layer, _, kind = rest.rpartition(".")
        name = f"blocks.{int(block) - 2}.{inner[layer]}.{kind}"
        found[name] = np.ascontiguousarray(value.T) if value.ndim > 1 else value
    return found


class Jax:
    """The whole step in one jitted function whose parameters and slots are donated."""

    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        import jax
        import jax.numpy as jnp

        self.jnp = jnp

        def norm(x: Any, gain: Any, bias: Any) -> Any:
            centred = x - x.mean(-1, keepdims=True)
            return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * gain + bias

        def loss_of(p: Any, x: Any, y: Any) -> Any:
            h = p["0.weight"][x] + p["1.weight"]
            hidden = jnp.tril(jnp.ones((T, T), bool))
            for b in range(2, 2 + BLOCKS):
                z = norm(h, p[f"{b}.attention_norm.weight"], p[f"{b}.attention_norm.bias"])
                qkv = z @ p[f"{b}.attention.qkv.weight"] + p[f"{b}.attention.qkv.bias"]
                q, k, v = (each.reshape(*x.shape, HEADS, D // HEADS) for each in jnp.split(qkv, 3, axis=-1))
                s = jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(D // HEADS)
                a = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(jnp.where(hidden, s, -jnp.inf)), v)
                h = h + a.reshape(*x.shape, D) @ p[f"{b}.attention.output.weight"] + p[f"{b}.attention.output.bias"]
                z = norm(h, p[f"{b}.feed_norm.weight"], p[f"{b}.feed_norm.bias"])
                z = jax.nn.gelu(z @ p[f"{b}.feed.0.weight"] + p[f"{b}.feed.0.bias"], approximate=True)
                h = h + z @ p[f"{b}.feed.2.weight"] + p[f"{b}.feed.2.bias"]
            h = norm(h, p[f"{2 + BLOCKS}.weight"], p[f"{2 + BLOCKS}.bias"])
            log_p = jax.nn.log_softmax(h @ p[f"{3 + BLOCKS}.weight"].T)
            return -jnp.take_along_axis(log_p, y[..., None], axis=-1).mean()

        self.adam(loss_of, weights, RATE, DECAY)

    def adam(self, loss_of: Callable[..., Any], weights: dict[str, Array], rate: float, decay: float = 0.0) -> None:
        """Make the jitted step, and its state from the weights. decay : of weights that are no vectors, as AdamW's"""
        import jax
        import jax.numpy as jnp

        def train(p: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
            loss, g = jax.value_and_grad(loss_of)(p, x, y)
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            correction = jnp.sqrt(-jnp.expm1(t * math.log(0.999)))
            corrected = rate * correction / -jnp.expm1(t * math.log(0.9))

            def updated(p: Any, m: Any, v: Any) -> Any:
                shrunk = p * (1 - rate * decay) if decay and p.ndim > 1 else p
                return shrunk - corrected * m / (jnp.sqrt(v) + 1e-8 * correction)

            return jax.tree.map(updated, p, m, v), m, v, t, loss

        self.train = jax.jit(train, donate_argnums=(0, 1, 2, 3))
        values: Any = {name: jnp.array(value) for name, value in weights.items()}
        self.state: Any = (values, *(jax.tree.map(jnp.zeros_like, values) for _ in range(2)), jnp.zeros(()))

    def batch(self, x: Array, y: Array) -> Any:
        return self.jnp.array(x, self.jnp.int32), self.jnp.array(y, self.jnp.int32)

    def step(self, x: Any, y: Any) -> float:
        *self.state, loss = self.train(*self.state, x, y)
        return float(loss.item())


def products() -> list[tuple[Shape, Shape]]:
    """The shapes of every matrix product that a step needs."""
    n, size, heads = BATCH * T, D // HEADS, BATCH * HEADS
    found: list[tuple[Shape, Shape]] = []
    for _ in range(BLOCKS):
        for n_in, n_out in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)):
            found += both_ways(n, n_in, n_out)
        found += [((heads, T, size), (heads, size, T))] * 2 + [((heads, T, T), (heads, T, size))] * 4
    return found + both_ways(n, D, V)


def main(argv: Sequence[str] | None = None) -> int:
    parser = networks.options_of("gpt", __doc__)
    parser.add_argument("--curve", action="store_true", help="compare the losses of 200 steps and time nothing")
    arguments = parser.parse_args(argv)
    if not arguments.curve:
        return networks.measure(NETWORK, parser, arguments)
    specs = [replace(spec, tolerance=0.02) for spec in chosen_peers(parser, arguments, networks.specs_of("gpt"))]
    options = replace(settings(parser, arguments), rounds=1, count=1)
    report = Harness(specs, options).run([replace(NETWORK, metric="curve")], compare)
    return int(bool(failures(report)))


def compare(results: dict[str, Any]) -> None:
    """Print how far the losses of the others are from bpnet's, step by step."""
    losses = {
        name: np.array(row["checked"]["losses"])
        for name, row in results["rows"].items()
        if "losses" in row.get("checked", {})
    }
    ours = losses.pop("bpnet")
    print(f"bpnet: {ours[0]:.4f} at the first step, {ours[-20:].mean():.4f} on average over the last 20")
    for name, theirs in losses.items():
        off = np.abs(theirs / ours - 1)
        at = f"off by at most {off.max():.1e} of it, at step {off.argmax()}"
        print(f"{name}: {theirs[0]:.4f} and {theirs[-20:].mean():.4f}; {at}")


if __name__ == "__main__":
    sys.exit(main())
