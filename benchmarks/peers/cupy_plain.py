"""CuPy as its users write a step, one call an operation; and the floor: products, and bytes at copying speed."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

from benchmarks.peers.base import Peer
from benchmarks.reference import BETA1, BETA2, EPSILON, LEARNING_RATE, Reference
from benchmarks.workloads import Problem

ADAM_BYTES = 28  # a parameter: p, g, m, v read and p, m, v written, 4 bytes each


class CupyPeer(Peer):
    """Base of both."""

    metrics = (*Peer.metrics, "input")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ["CUPY_TF32"] = "0"
        import cupy

        self.cupy = cupy
        cupy.zeros(1)  # raises where there is no GPU

    def versions(self) -> dict[str, str]:
        runtime = self.cupy.cuda.runtime
        return {
            "cupy": self.cupy.__version__,
            "device": runtime.getDeviceProperties(0)["name"].decode(),
            "cuda runtime": str(runtime.runtimeGetVersion()),
            "cuda driver": str(runtime.driverGetVersion()),
        }

    def blas(self) -> str:
        return "cuBLAS"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        self._set_products(problem.precision)
        self.batches = [(self.cupy.asarray(x), self.cupy.asarray(labels)) for x, labels in problem.batches]

    def _set_products(self, precision: str) -> None:
        """What products of float32 arrays are computed in."""
        from cupy._core import _routines_linalg as products  # the one switch that CuPy has

        kinds = {
            "float32": products.COMPUTE_TYPE_FP32,
            "tf32": products.COMPUTE_TYPE_TF32,
            "bf16": products.COMPUTE_TYPE_BF16,
        }
        products.set_compute_type(self.cupy.dtype("float32"), kinds[precision])

    def wait(self) -> None:
        self.cupy.cuda.get_current_stream().synchronize()

    def step(self, x: Any, labels: Any) -> float:
        return float(self.queue(x, labels))

    def bring(self, batches: list[Any]) -> float:
        start = perf_counter()
        for x in batches:
            self.cupy.asarray(x)
        self.wait()
        return perf_counter() - start

    def arrived_sum(self, x: Any) -> float:
        return float(self.cupy.asarray(x).sum(dtype="float64"))


class CupyPlain(CupyPeer):
    """One call an operation, as NumPy code turned into CuPy code is."""

    def reset(self) -> None:
        cp = self.cupy
        self.W = [cp.asarray(weight) for weight in self.weights]
        self.b = [cp.zeros(weight.shape[1], cp.float32) for weight in self.weights]
        self.slots = [(cp.zeros_like(p), cp.zeros_like(p)) for p in (*self.W, *self.b)]
        self.t = 0
        self.dW: list[Any] = []

    def infer(self, x: Any) -> Any:
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            x = self.cupy.maximum(x @ W + b, 0)
        return x @ self.W[-1] + self.b[-1]

    def queue(self, x: Any, labels: Any) -> Any:
        cp, inputs, y = self.cupy, [], x
        for index, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            inputs.append(y)
            y = y @ W + b
            if index < len(self.W) - 1:
                y = cp.maximum(y, 0)
        z = y - y.max(axis=1, keepdims=True)
        exp = cp.exp(z)
        total = exp.sum(axis=1, keepdims=True)
        rows = cp.arange(len(labels))
        loss = -(z[rows, labels] - cp.log(total[:, 0])).mean()
        dy = exp / total
        dy[rows, labels] -= 1
        dy /= len(labels)
        dW: list[Any] = []
        db: list[Any] = []
        for index in range(len(self.W) - 1, -1, -1):
            dW.insert(0, inputs[index].T @ dy)
            db.insert(0, dy.sum(axis=0))
            if index:
                dy = (dy @ self.W[index].T) * (inputs[index] > 0)
        self.dW = dW
        self._adam([*dW, *db])
        return loss

    def _adam(self, gradients: list[Any]) -> None:
        self.t += 1
        correction = (1 - BETA2**self.t) ** 0.5
        rate = LEARNING_RATE * correction / (1 - BETA1**self.t)
        for p, g, (m, v) in zip((*self.W, *self.b), gradients, self.slots, strict=True):
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            p -= rate * m / (self.cupy.sqrt(v) + EPSILON * correction)

    def gradients(self) -> list[Any] | None:
        return [self.cupy.asnumpy(dW) for dW in self.dW]


class CupyFloor(CupyPeer):
    """The products of a step into given outputs, and a copy that moves the bytes which Adam must move."""

    metrics = ("train", "train few")
    trains = False

    def reset(self) -> None:
        """Nothing is learned."""

    def load(self, problem: Problem) -> None:
        super().load(problem)
        cp = self.cupy
        reference = Reference(self.weights)
        reference.step(*(cp.asnumpy(each) for each in self.batches[0]))
        inputs = [cp.asarray(each, cp.float32) for each in reference.inputs]
        derivatives = [cp.asarray(each, cp.float32) for each in reference.derivatives]
        weights = [cp.asarray(each) for each in self.weights]
        self.dW = [cp.empty_like(each) for each in weights]
        self.products = []
        for index, (x, W, dy, dW) in enumerate(zip(inputs, weights, derivatives, self.dW, strict=True)):
            self.products += [(x, W, cp.empty_like(dy)), (x.T, dy, dW)]
            if index:
                self.products.append((dy, W.T, cp.empty_like(x)))
        halves = problem.precision == "bf16"
        self.calls = [self._of_halves(*each) if halves else self._of_arrays(*each) for each in self.products]
        moved = ADAM_BYTES + 2 * halves  # the copies for the products are written too
        size = sum(each.nbytes for each in weights) // 4 * moved // 2  # a copy reads and writes
        self.source, self.target = cp.zeros(size, cp.uint8), cp.empty(size, cp.uint8)

    def _of_arrays(self, a: Any, b: Any, out: Any) -> Any:
        return lambda: self.cupy.matmul(a, b, out=out)

    def _of_halves(self, a: Any, b: Any, out: Any) -> Any:
        """bfloat16 times bfloat16 into float32: CuPy has no such product, so it is bpnet's call of cublasLt."""
        from bpnet import ops
        from bpnet_cupy.products import product

        rounded = [ops.to_bf16(each) if each.flags.c_contiguous else ops.to_bf16(each.T).T for each in (a, b)]
        return product(out, *rounded)

    def queue(self, x: Any, labels: Any) -> Any:
        for call in self.calls:
            call()
        self.target.data.copy_from_device_async(self.source.data, self.source.nbytes)
        return 0.0

    def gradients(self) -> list[Any] | None:
        return [self.cupy.asnumpy(dW) for dW in self.dW]
