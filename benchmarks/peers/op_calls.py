"""Single ops, as bpnet's plan makes them and as PyTorch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks import op_cases
from benchmarks.op_cases import IMAGE, WEIGHT, OpCase
from benchmarks.peers.base import Peer
from benchmarks.workloads import Problem

Array = Any


class OpPeer(Peer):
    """Base: `prepare` makes the call that is timed."""

    metrics: ClassVar[tuple[str, ...]] = ("call",)

    def load(self, problem: Problem) -> None:
        self.call, self.results = self.prepare(*op_cases.of(problem.names[0]))

    def prepare(self, case: OpCase, backward: bool) -> tuple[Callable[[], Any], Callable[[], list[Array]]]:
        """The call, and a function that gives its results in bpnet's layout."""
        raise NotImplementedError


class OpsOfBpnet(OpPeer):
    """The calls that a plan makes, into arrays that are there."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import bpnet as bp

        bp.get_backend("numpy")
        bp.ops.relu(np.ones(4, np.float32))  # so that it is known who makes the kernels

    def versions(self) -> dict[str, str]:
        import bpnet as bp
        from bpnet_numpy import fused

        maker = fused.made_by().split()
        return {"bpnet": bp.__version__, "numpy": np.__version__} | ({maker[0]: maker[1]} if maker[1:] else {})

    def prepare(self, case: OpCase, backward: bool) -> tuple[Callable[[], Any], Callable[[], list[Array]]]:
        from bpnet import ops
        from bpnet.dispatch import joined

        arrays = case.arrays()
        args = case.arguments(arrays)
        kernel = getattr(ops, case.forward)
        if backward:
            assert case.given is not None
            out = kernel(*args)
            made = out if isinstance(out, tuple) else (out,)
            kernel, args = getattr(ops, case.backward), case.given(case.gradient(made[0]), arrays, made)
        variant = kernel.choose(args)
        if variant.bind is None:
            found: Any = None

            def call() -> None:
                nonlocal found
                found = variant.body(*args)

        else:
            found = variant.allocate(*args)
            calls = joined(variant.bind(found, *args))

            def call() -> None:
                for each in calls:
                    each()

        def results() -> list[Array]:
            call()
            if case.into >= 0:
                return [args[case.into]]
            several = isinstance(found, tuple)
            return list(found if several and backward else [found[0]] if several else [found])

        return calls[0] if variant.bind is not None and len(calls) == 1 else call, results


class OpsOfTorch(OpPeer):
    """PyTorch's function, and torch.autograd.grad through it.

    channels_last : whether images lie in memory as bpnet's do; else as PyTorch's users have them
    """

    def __init__(self, threads: int, channels_last: bool) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)
        self.torch, self.channels_last = torch, channels_last

    def versions(self) -> dict[str, str]:
        return {"torch": self.torch.__version__}

    def blas(self) -> str:
        return str(self.torch.backends.cpu.get_cpu_capability())

    def tensor(self, x: Array, layout: str) -> Any:
        found = self.torch.from_numpy(np.asarray(x).copy())
        if layout == WEIGHT:
            found = found.permute(3, 2, 0, 1).contiguous()
        if layout == IMAGE:
            found = found.permute(0, 3, 1, 2).contiguous()
        wanted = self.channels_last and found.ndim == 4 and layout in (IMAGE, WEIGHT)
        return found.contiguous(memory_format=self.torch.channels_last) if wanted else found

    def back(self, x: Any, layout: str) -> Array:
        order = {WEIGHT: (2, 3, 1, 0), IMAGE: (0, 2, 3, 1)}.get(layout)
        found = x.detach()
        return (found if order is None else found.permute(*order)).numpy()

    def prepare(self, case: OpCase, backward: bool) -> tuple[Callable[[], Any], Callable[[], list[Array]]]:
        torch = self.torch
        tensors = {name: self.tensor(x, case.layouts.get(name, "")) for name, x in case.arrays().items()}
        if not backward:

            def call() -> Any:
                with torch.no_grad():
                    return case.torch(torch, tensors)

            return call, lambda: [self.back(call(), case.layouts.get("y", ""))]
        wanted = [tensors[name].requires_grad_() for name in case.wrt]
        y = case.torch(torch, tensors)
        dy = self.tensor(case.gradient(self.back(y, case.layouts.get("y", ""))), case.layouts.get("y", ""))

        def gradients() -> Any:
            return torch.autograd.grad(y, wanted, dy, retain_graph=True)

        layouts = [case.layouts.get(name, "") for name in case.wrt]
        return gradients, lambda: [self.back(*each) for each in zip(gradients(), layouts, strict=True)]
