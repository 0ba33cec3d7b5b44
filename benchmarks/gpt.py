"""A training step of a small GPT against PyTorch and JAX: `python -m benchmarks.gpt`; `--curve` compares losses.

65 symbols, sequences of 64, width 128, 4 heads, 2 pre-norm blocks, GELU by tanh, batch 16, AdamW. Every library runs in
a process of its own, has the same weights and batches, and gets its turn in every round; the losses of the first steps
must agree before anything is timed. `floor` is the matrix products of a step alone, by NumPy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

DISTORTING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # make OpenBLAS run kernels for another CPU than this one
PEERS = {"bpnet": "bpnet", "torch": "torch", "torch-compile": "torch", "jax": "jax", "floor": "numpy"}
V, T, D, HEADS, BLOCKS, BATCH = 65, 64, 128, 4, 2, 16
RATE, DECAY = 1e-3, 0.01
N_BATCHES = 8
CURVE = 200

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


def batches(n: int, size: int = BATCH) -> list[tuple[Array, Array]]:
    ids = text()
    starts = np.random.default_rng(0).integers(0, len(ids) - T - 1, size=(n, size))
    x = ids[starts[..., None] + np.arange(T)]
    return [(each, ids[start[:, None] + np.arange(1, T + 1)]) for each, start in zip(x, starts, strict=True)]


class Ours:
    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        import bpnet as bp

        self.trains(layers(), bp.AdamW(RATE, weight_decay=DECAY), weights)

    def trains(self, model: Any, optimizer: Any, weights: dict[str, Array]) -> None:
        import bpnet as bp

        model.initialize(dtype="float32")
        for path, parameter in model.parameters().items():
            parameter.value = weights[path]
        self.trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), optimizer)

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        return float(self.trainer.step(x, y))


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

        def train(p: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
            loss, g = jax.value_and_grad(loss_of)(p, x, y)
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            correction = jnp.sqrt(1 - 0.999**t)
            rate = RATE * correction / (1 - 0.9**t)

            def updated(p: Any, m: Any, v: Any) -> Any:
                shrunk = p * (1 - RATE * DECAY) if p.ndim > 1 else p
                return shrunk - rate * m / (jnp.sqrt(v) + 1e-8 * correction)

            return jax.tree.map(updated, p, m, v), m, v, t, loss

        self.train = jax.jit(train, donate_argnums=(0, 1, 2, 3))
        self.state: Any = {name: jnp.array(value) for name, value in weights.items()}
        zeros = [jax.tree.map(jnp.zeros_like, self.state) for _ in range(2)]
        self.state = (self.state, *zeros, jnp.zeros(()))

    def batch(self, x: Array, y: Array) -> Any:
        return self.jnp.array(x, self.jnp.int32), self.jnp.array(y, self.jnp.int32)

    def step(self, x: Any, y: Any) -> float:
        *self.state, loss = self.train(*self.state, x, y)
        return float(loss.item())


class Floor:
    """The matrix products of a step and nothing else, by NumPy into arrays that are there."""

    def __init__(self, weights: dict[str, Array], threads: int) -> None:
        self.rng = np.random.default_rng(0)
        self.products: list[tuple[Array, Array, Array]] = []
        self.needs(self.product)

    def product(self, *shapes: tuple[int, ...]) -> None:
        a, b = (self.rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        self.products.append((a, b, np.empty(np.matmul(a, b).shape, np.float32)))

    def needs(self, product: Callable[..., None]) -> None:
        """Call `product` with the shapes of every product."""
        n = BATCH * T
        for _ in range(BLOCKS):
            for n_in, n_out in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)):
                product((n, n_in), (n_in, n_out)), product((n_in, n), (n, n_out)), product((n, n_out), (n_out, n_in))
            size, heads = D // HEADS, BATCH * HEADS
            for _ in range(2):
                product((heads, T, size), (heads, size, T))
            for _ in range(4):
                product((heads, T, T), (heads, T, size))
        product((n, D), (D, V)), product((D, n), (n, V)), product((n, V), (V, D))

    def batch(self, x: Array, y: Array) -> Any:
        return x, y

    def step(self, x: Any, y: Any) -> float:
        for a, b, out in self.products:
            np.matmul(a, b, out)
        return math.nan


def child(name: str, weights: str, threads: int) -> None:
    """Answer as a peer of this benchmark."""
    answer(name, weights, threads, {"bpnet": Ours, "torch": Torch, "jax": Jax, "floor": Floor}, batches(CURVE))


def answer(
    name: str, weights: str, threads: int, made: dict[str, Any], given_batches: list[tuple[Array, Array]]
) -> None:
    """Take one command a line (a number of steps) and answer with the losses and the seconds of each."""
    with np.load(weights) as archive:
        values = dict(archive)
    kind, _, compiled = name.partition("-")
    peer = made[kind](values, threads, **({"compiled": True} if compiled else {}))
    given = [peer.batch(x, y) for x, y in given_batches]
    done = 0
    for line in sys.stdin:
        losses, seconds = [], []
        for _ in range(int(line)):
            batch = given[done % len(given)]
            start = perf_counter()
            losses.append(peer.step(*batch))
            seconds.append(perf_counter() - start)
            done += 1
        print(json.dumps([losses, seconds]), flush=True)


PAUSE = 0.25
"""Seconds before a turn: threads of a pool that has just worked keep their processors busy for a while, up to 0.2 s."""


class Process:
    """A child: a peer of the benchmark that `module` is."""

    def __init__(self, name: str, weights: str, threads: int, module: str) -> None:
        env = {key: value for key, value in os.environ.items() if key not in DISTORTING}
        pools = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        env |= dict.fromkeys(pools, str(threads)) | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", module, "--child", name, weights, "--threads", str(threads)]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, steps: int) -> tuple[list[float], list[float]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        losses, seconds = json.loads(self.process.stdout.readline())
        return losses, seconds

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser("benchmarks.gpt", __doc__)
    parser.add_argument("--curve", action="store_true", help=f"compare the losses of {CURVE} steps and time nothing")
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(*arguments.child, arguments.threads)
        return 0
    return with_peers(arguments, layers(), "benchmarks.gpt", compare if arguments.curve else None)


def argument_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """What the benchmarks of networks may be told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=text)
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all that are installed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5, help="of one peer in one round")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def with_peers(
    arguments: argparse.Namespace, model: Any, module: str, job: Callable[[dict[str, Process]], int] | None = None
) -> int:
    """Start the peers of the benchmark that `module` is, with the model's starting values, and measure them, or do a
    job with them."""
    names = [name for name in arguments.peers.split(",") if find_spec(PEERS[name]) is not None]
    model.initialize(seed=0, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.npz")
        np.savez(path, **{name: parameter.value for name, parameter in model.parameters().items()})
        processes = {name: Process(name, path, arguments.threads, module) for name in names}
        try:
            return measure(processes, arguments.rounds, arguments.steps) if job is None else job(processes)
        finally:
            for process in processes.values():
                process.close()


def compare(processes: dict[str, Process]) -> int:
    """Print how far the losses of the others are from bpnet's, step by step, over CURVE steps."""
    losses = {name: np.array(each.run(CURVE)[0]) for name, each in processes.items() if name != "floor"}
    ours = losses.pop("bpnet")
    print(f"bpnet: {ours[0]:.4f} at the first step, {ours[-20:].mean():.4f} on average over the last 20")
    worst = 0.0
    for name, theirs in losses.items():
        off = np.abs(theirs / ours - 1)
        worst = max(worst, float(off.max()))
        print(
            f"{name}: {theirs[0]:.4f} and {theirs[-20:].mean():.4f}; off by at most {off.max():.1e} of it, at step "
            f"{off.argmax()}"
        )
    return int(worst > 0.02)


def measure(processes: dict[str, Process], rounds: int, steps: int) -> int:
    first = {name: each.run(20)[0][:5] for name, each in processes.items()}
    for name, losses in first.items():
        if name != "floor" and not np.allclose(losses, first.get("bpnet", losses), rtol=1e-3):
            raise ArithmeticError(f"{name} has other losses: {losses} and {first['bpnet']}")
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds):
        order = list(processes)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            sleep(PAUSE)
            seconds[name] += processes[name].run(steps)[1][1:]  # the first one finds cold caches
    best = min((min(each) for name, each in seconds.items() if name not in ("bpnet", "floor")), default=math.nan)
    print(f"{'':14}{'least':>10}{'median':>10}   least / least of the best peer")
    for name, each in seconds.items():
        print(f"{name:14}{min(each) * 1e3:8.2f}ms{median(each) * 1e3:8.2f}ms   {min(each) / best:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
