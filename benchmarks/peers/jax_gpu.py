"""JAX on a GPU: the step of `jax_jit`, asked for without waiting."""

from __future__ import annotations

import os
from typing import Any

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or it takes most of the GPU's memory from all others

import jax

from benchmarks.peers.jax_jit import Jax, train_step
from benchmarks.workloads import Problem

MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


class JaxGpu(Jax):
    """platform : JAX's name of the devices to use."""

    def __init__(self, threads: int, platform: str = "gpu") -> None:
        jax.config.update("jax_platforms", "cuda" if platform == "gpu" else platform)
        super().__init__(threads)
        self.device = jax.devices()[0]

    def versions(self) -> dict[str, str]:
        return super().versions() | {"device": f"{self.device.platform} {self.device.device_kind}"}

    def load(self, problem: Problem) -> None:
        jax.config.update("jax_default_matmul_precision", MATMUL[problem.precision])
        super().load(problem)

    def queue(self, x: Any, labels: Any) -> Any:
        self.parameters, self.slots, loss = train_step(self.parameters, self.slots, x, labels)
        return loss
