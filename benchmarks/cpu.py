"""Everything on the CPU against every peer that is installed: `python -m benchmarks.cpu`.

Training steps, inference, the whole job from the start of the process, and the import, each against all peers in one
run; what the machine could do at most; and which of the goals are met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import goals
from benchmarks.harness import Harness
from benchmarks.peers import PEERS
from benchmarks.programs import IMPORTS, JOBS, run_imports, run_job
from benchmarks.report import add_options, chosen, finish, settings, table
from benchmarks.workloads import WORKLOADS

PROGRAMS = ("job", "import")
KNOWN = [*WORKLOADS, *PROGRAMS]
ONLY_WHEN_NAMED = "torch-loader"  # it takes twice as long as PyTorch without it


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", action="append", help=f"one of {', '.join(KNOWN)}; may be repeated (default all)")
    everyone = PEERS | JOBS | IMPORTS
    add_options(parser, [name for name in everyone if name != ONLY_WHEN_NAMED], everyone)
    arguments = parser.parse_args(argv)
    wanted = chosen(parser, "workload", arguments.workload or KNOWN, dict(zip(KNOWN, KNOWN, strict=True)))
    names = [spec.name for spec in chosen(parser, "peer", arguments.peers, everyone)]
    options = settings(parser, arguments)

    def show(results: dict[str, Any]) -> None:
        print(table(results), flush=True)

    workloads = [WORKLOADS[name] for name in wanted if name in WORKLOADS]
    described = PEERS if workloads else PEERS.keys() & JOBS.keys()  # the others have no part in it
    harness = Harness([PEERS[name] for name in names if name in described], options)
    report = harness.run(workloads, show)
    if "job" in wanted:
        jobs = [JOBS[name] for name in names if name in JOBS]
        few = replace(options, rounds=2) if arguments.quick and not arguments.rounds else options
        report["workloads"]["job"] = run_job(jobs, few, arguments.quick)
        show(report["workloads"]["job"])
    if "import" in wanted:
        report["workloads"]["import"] = run_imports([IMPORTS[name] for name in names if name in IMPORTS], options)
        show(report["workloads"]["import"])
    report["goals"] = goals.judge([report])
    print(goals.table(report["goals"]) + "\n")
    return finish(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
