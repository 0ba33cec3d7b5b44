"""JAX: the whole step, Adam included, in one jitted function whose parameters and slots are donated."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE
from benchmarks.workloads import Problem


def predict(parameters: Any, x: Any) -> Any:
    *hidden, (weight, bias) = parameters
    for W, b in hidden:
        x = jax.nn.relu(x @ W + b)
    return x @ weight + bias


def mean_cross_entropy(parameters: Any, x: Any, labels: Any) -> Any:
    log_p = jax.nn.log_softmax(predict(parameters, x))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(parameters: Any, slots: Any, x: Any, labels: Any) -> Any:
    loss, gradients = jax.value_and_grad(mean_cross_entropy)(parameters, x, labels)
    m, v, t = slots
    t = t + 1
    # as 1 - beta^t in float32, the first steps would have a rate that is off by 3e-5
    correction = jnp.sqrt(-jnp.expm1(t * math.log(BETA2)))
    rate = LEARNING_RATE * correction / -jnp.expm1(t * math.log(BETA1))
    m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradients)
    v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradients)
    parameters = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON * correction), parameters, m, v)
    return parameters, (m, v, t), loss


class Jax(Peer):
    """Compiled before it is timed; every step waits for its loss, every round for its parameters.

    asynchronous : JAX's default hands each call to another thread, which a step that waits for its loss pays for and
                   has no use of; False is JAX's own switch against it
    """

    def __init__(self, threads: int, asynchronous: bool = True) -> None:
        super().__init__(threads)
        jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
        self.predict = jax.jit(predict)

    def versions(self) -> dict[str, str]:
        import jaxlib

        return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}

    def blas(self) -> str:
        return "XLA's own products"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        self.batches = [(jnp.array(x), jnp.array(labels, jnp.int32)) for x, labels in problem.batches]
        jax.block_until_ready(self.batches)

    def reset(self) -> None:
        self.parameters = [(jnp.array(weight), jnp.zeros(weight.shape[1])) for weight in self.weights]
        m, v = (jax.tree.map(jnp.zeros_like, self.parameters) for _ in range(2))
        self.slots = (m, v, jnp.zeros(()))
        self.wait()

    def step(self, x: Any, labels: Any) -> float:
        self.parameters, self.slots, loss = train_step(self.parameters, self.slots, x, labels)
        return float(loss.item())

    def infer(self, x: Any) -> Any:
        return self.predict(self.parameters, x).block_until_ready()

    def wait(self) -> None:
        jax.block_until_ready((self.parameters, self.slots))
