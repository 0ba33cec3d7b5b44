"""The peers by name. A new one is a class in a module of this folder and a line here."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.peers.base import Peer


@dataclass(frozen=True)
class PeerSpec:
    """Where a peer is found, without importing it.

    title : for tables; where : "module:Class" in this folder; requires : the modules that must be installed
    folder : the tree that its process runs in, where that is another than this one
    role  : "ours", "peer" (what ratios to the best peer look at) or "floor" (a bound, trains nothing)
    """

    name: str
    title: str
    where: str
    requires: tuple[str, ...]
    role: str = "peer"
    options: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    def missing(self) -> list[str]:
        """The required modules that are not installed."""
        return [module for module in self.requires if find_spec(module) is None]

    def make(self, threads: int) -> Peer:
        module, _, name = self.where.partition(":")
        peer: Peer = getattr(import_module(f"benchmarks.peers.{module}"), name)(threads, **self.options)
        return peer


PEERS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet, planned", "ours:Bpnet", ("bpnet",), "ours"),
        PeerSpec("bpnet-eager", "bpnet, plan=False", "ours:Bpnet", ("bpnet",), "ours", {"plan": False}),
        PeerSpec("torch", "PyTorch, Adam", "torch_eager:Torch", ("torch",)),
        PeerSpec("torch-foreach", "PyTorch, Adam foreach", "torch_eager:Torch", ("torch",), options={"foreach": True}),
        PeerSpec("torch-fused", "PyTorch, Adam fused", "torch_eager:Torch", ("torch",), options={"fused": True}),
        PeerSpec("jax", "JAX jit", "jax_jit:Jax", ("jax",)),
        PeerSpec("jax-sync", "JAX jit, synchronous", "jax_jit:Jax", ("jax",), options={"asynchronous": False}),
        PeerSpec("floor", "matrix products alone", "floor:Floor", ("numpy",), "floor"),
    )
}

GPU_PEERS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet, CUDA graph", "ours:Bpnet", ("bpnet", "cupy"), "ours", {"backend": "cupy"}),
        PeerSpec(
            "bpnet-calls",
            "bpnet, capture='off'",
            "ours:Bpnet",
            ("bpnet", "cupy"),
            "ours",
            {"backend": "cupy", "capture": "off"},
        ),
        PeerSpec("torch", "PyTorch", "torch_gpu:TorchGpu", ("torch",)),
        PeerSpec("torch-compile", "torch.compile", "torch_gpu:TorchGpu", ("torch",), options={"how": "default"}),
        PeerSpec(
            "torch-overhead",
            "torch.compile, reduce-ov.",
            "torch_gpu:TorchGpu",
            ("torch",),
            options={"how": "reduce-overhead"},
        ),
        PeerSpec("torch-graph", "PyTorch, CUDA graph", "torch_gpu:TorchGpu", ("torch",), options={"how": "graph"}),
        PeerSpec("jax", "JAX jit", "jax_gpu:JaxGpu", ("jax",)),
        PeerSpec("cupy", "CuPy, op by op", "cupy_plain:CupyPlain", ("cupy",)),
        PeerSpec("floor", "products + Adam's bytes", "cupy_plain:CupyFloor", ("cupy",), "floor"),
    )
}
"""Those of `python -m benchmarks.gpu`."""

ON_CPU = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet, on NumPy", "ours:Bpnet", ("bpnet",), "ours"),
        PeerSpec("torch", "PyTorch", "torch_gpu:TorchGpu", ("torch",), options={"device": "cpu"}),
        PeerSpec("jax", "JAX jit", "jax_gpu:JaxGpu", ("jax",), options={"platform": "cpu"}),
    )
}
"""The same code where there is no GPU, to see that it runs."""
