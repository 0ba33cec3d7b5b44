"""One training step on a GPU, against PyTorch, JAX, CuPy op by op, and a floor: `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Harness
from benchmarks.peers import GPU_PEERS, ON_CPU
from benchmarks.report import add_options, chosen, chosen_peers, finish, settings, table
from benchmarks.workloads import GPU

NO_GPU = 2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--workload", action="append", help=f"one of {', '.join(GPU)}; may be repeated (default all)")
    parser.add_argument(
        "--on", choices=("gpu", "cpu"), default="gpu", help="cpu: the same code without a GPU; its numbers mean nothing"
    )
    add_options(parser, GPU_PEERS)
    arguments = parser.parse_args(argv)
    on_gpu = arguments.on == "gpu"
    if not on_gpu and arguments.peers == list(GPU_PEERS):
        arguments.peers = list(ON_CPU)
    workloads = chosen(parser, "workload", arguments.workload or list(GPU), GPU)
    specs = chosen_peers(parser, arguments, GPU_PEERS if on_gpu else ON_CPU)
    if on_gpu and (why := why_no_gpu()):
        print(f"nothing was measured: {why}", file=sys.stderr)
        return NO_GPU
    harness = Harness(specs, settings(parser, arguments, gpu=on_gpu))
    report = harness.run(workloads, lambda results: print(shown(results), flush=True))
    return finish(report, arguments)


def why_no_gpu() -> str:
    """Why bpnet cannot use a GPU here, or ''."""
    import bpnet as bp

    try:
        bp.get_backend("cupy")
    except bp.BackendError as error:
        return str(error)
    return ""


def shown(results: dict[str, Any]) -> str:
    """The table; of inputs also the rate."""
    text = table(results)
    if results["metric"] != "input":
        return text
    size = results["batch"] * results["sizes"][0] * 4
    rates = [
        f"{row['title']} {size / row['median'] / 1e9:.2f} GB/s" for row in results["rows"].values() if "median" in row
    ]
    return f"{text}  {'; '.join(rates)}\n"


if __name__ == "__main__":
    sys.exit(main())
