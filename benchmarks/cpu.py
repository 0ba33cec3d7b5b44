"""One training step on the CPU, against PyTorch, JAX and the matrix products alone: `python -m benchmarks.cpu`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.harness import Harness
from benchmarks.peers import PEERS
from benchmarks.report import add_options, chosen, chosen_peers, finish, settings, table
from benchmarks.workloads import STEPS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--workload", action="append", help=f"one of {', '.join(STEPS)}; may be repeated (default all)")
    add_options(parser, PEERS)
    arguments = parser.parse_args(argv)
    workloads = chosen(parser, "workload", arguments.workload or list(STEPS), STEPS)
    harness = Harness(chosen_peers(parser, arguments), settings(parser, arguments))
    report = harness.run(workloads, lambda results: print(table(results), flush=True))
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
