"""A peer's process: takes one JSON command a line on standard input, answers one JSON object a line.

Between commands it waits in a blocking read. How much CPU its idle threads use then is measured, from each "rest" to
the next command: a peer whose pool spins would slow all others down, and the table says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks import machine, roofline
from benchmarks.metrics import METRICS
from benchmarks.peers import PeerSpec
from benchmarks.workloads import Problem


class Server:
    """Carries out the commands, each a method."""

    def __init__(self, spec: PeerSpec, threads: int) -> None:
        self.peer = spec.make(threads)
        self.rested: tuple[float, float] | None = None
        self.idle_cpu = self.idle_wall = 0.0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        self._count_idle()
        found: dict[str, Any] = getattr(self, command.pop("do"))(**command)
        return found

    def _count_idle(self) -> None:
        if self.rested is not None:
            self.idle_cpu += process_time() - self.rested[0]
            self.idle_wall += perf_counter() - self.rested[1]
            self.rested = None

    def describe(self) -> dict[str, Any]:
        return {
            "versions": self.peer.versions(),
            "metrics": list(self.peer.metrics),
            "blas": self.peer.blas(),
            "thread_pools": machine.thread_pools(),
            "sources": self.peer.sources(),
        }

    def load(self, path: str) -> dict[str, Any]:
        self.peer.load(Problem.load(Path(path)))
        return {}

    def check(self, metric: str) -> dict[str, Any]:
        return METRICS[metric].check(self.peer)

    def measure(self, metric: str, count: int) -> dict[str, Any]:
        gc.collect()
        return {"seconds": METRICS[metric].measure(self.peer, count)}

    def rates(self, working_set: int, threads: int) -> dict[str, Any]:
        return roofline.rates(working_set, threads)

    def rest(self) -> dict[str, Any]:
        self.rested = process_time(), perf_counter()
        return {}

    def idle(self) -> dict[str, Any]:
        """The share of one core that was used while nothing was asked."""
        return {"idle_cpu": self.idle_cpu / self.idle_wall if self.idle_wall else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=json.loads)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpus", type=json.loads)
    arguments = parser.parse_args()
    machine.pin(arguments.cpus)
    # What libraries print must not come between the answers: it goes where errors go.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        server = None
        for line in sys.stdin:
            try:
                server = server or Server(PeerSpec(**arguments.spec), arguments.threads)
                answer = server.answer(json.loads(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
