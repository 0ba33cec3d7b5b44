"""The peers by name. A new one is a class in a module of this folder and a line here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benchmarks.peers.base import Peer

LOOK_FOR = (
    "import importlib.util, json, sys; print(json.dumps([importlib.util.find_spec(n) is None for n in sys.argv[1:]]))"
)


@dataclass(frozen=True)
class PeerSpec:
    """Where a peer is found, without importing it.

    title : for tables; where : "module:Class" in this folder; requires : the modules that must be installed
    folder : the tree that its process runs in, where that is another than this one
    role  : "ours", "peer" (what ratios to the best peer look at) or "floor" (a bound, trains nothing)
    commands    : any one of these programs must be there, such as a compiler
    environment : variables of its process alone, beside the clean environment that all have
    tolerance   : how far its numbers may be from the reference's, relative above 1
    """

    name: str
    title: str
    where: str
    requires: tuple[str, ...]
    role: str = "peer"
    options: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    tolerance: float = 1e-3
    folder: str = ""

    def missing(self, python: str = sys.executable) -> list[str]:
        """What is not there: modules that the interpreter `python` has not installed, or the programs."""
        found = subprocess.run([python, "-c", LOOK_FOR, *self.requires], capture_output=True, text=True, check=False)
        if found.returncode:
            return [f"an interpreter that starts: {python}"]
        lacking = [name for name, absent in zip(self.requires, json.loads(found.stdout), strict=True) if absent]
        if self.commands and not any(shutil.which(command) for command in self.commands):
            lacking.append(" or ".join(self.commands))
        return lacking

    def make(self, threads: int) -> Peer:
        module, _, name = self.where.partition(":")
        peer: Peer = getattr(import_module(f"benchmarks.peers.{module}"), name)(threads, **self.options)
        return peer


LOOSE = 1e-2
"""For libraries whose Adam does not correct epsilon for the bias, or whose loss clips probabilities at 1e-7."""

COMPILERS = ("g++", "c++", "clang++")
PLAIN = {"BPNET_FUSED": "0"}

PEERS = {
    spec.name: spec
    for spec in (
        PeerSpec("bpnet", "bpnet", "ours:Bpnet", ("bpnet",), "ours"),
        PeerSpec("bpnet-plain", "bpnet, NumPy alone", "ours:Bpnet", ("bpnet",), "ours", environment=PLAIN),
        PeerSpec("bpnet-eager", "bpnet, plan=False", "ours:Bpnet", ("bpnet",), "ours", {"plan": False}),
        PeerSpec("torch", "PyTorch, Adam", "torch_eager:Torch", ("torch",)),
        PeerSpec("torch-foreach", "PyTorch, Adam foreach", "torch_eager:Torch", ("torch",), options={"foreach": True}),
        PeerSpec("torch-fused", "PyTorch, Adam fused", "torch_eager:Torch", ("torch",), options={"fused": True}),
        PeerSpec(
            "torch-compile", "torch.compile, Adam fused", "torch_compiled:Compiled", ("torch",),
            options={"fused": True}, commands=COMPILERS,
        ),
        PeerSpec(
            "torch-compile-all", "torch.compile, Adam too", "torch_compiled:Compiled", ("torch",),
            options={"optimizer_too": True}, commands=COMPILERS,
        ),
        PeerSpec("jax", "JAX jit", "jax_jit:Jax", ("jax",)),
        PeerSpec("jax-sync", "JAX jit, synchronous", "jax_jit:Jax", ("jax",), options={"asynchronous": False}),
        PeerSpec("sklearn", "scikit-learn", "scikit:ScikitLearn", ("sklearn",), tolerance=LOOSE),
        PeerSpec("aether", "aether-ml", "aether_ml:Aether", ("aether", "numpy"), tolerance=LOOSE),
        PeerSpec("thinc", "Thinc", "thinc_cpu:Thinc", ("thinc",), tolerance=LOOSE),
        PeerSpec("floor", "products alone", "floor:Floor", ("numpy",), "floor"),
    )
}  # fmt: skip

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
