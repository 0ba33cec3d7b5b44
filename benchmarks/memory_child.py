"""How much memory training takes: run by `benchmarks.growth` as a program of its own, one network a process.

The most memory of the process while the network is made and trained for some steps, above what it had before. A tiny
network has been trained before that, so that what a library loads at its first step does not count; nor do the batches.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.peers import PeerSpec
from benchmarks.workloads import Problem

STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=json.loads)
    parser.add_argument("--threads", type=int)
    parser.add_argument("warm_up", type=Path)
    parser.add_argument("problem", type=Path)
    arguments = parser.parse_args()
    peer = PeerSpec(**arguments.spec).make(arguments.threads)
    for path in (arguments.warm_up, arguments.problem):
        peer.load(Problem.load(path))
        gc.collect()
        before = machine.memory_now(reset_peak=True)
        peer.reset()
        peer.train(STEPS)
        peer.wait()
    print(machine.memory_peak() - before)


if __name__ == "__main__":
    sys.exit(main())
