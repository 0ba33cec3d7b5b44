"""Kills a training with SIGKILL at random moments, again and again: `python tests/kill_and_resume.py [KILLS] [SEED]`.

Each run is killed once or several times, every time after a random while, until its kills are used up, and resumed by a
new process. What it ends with is compared with the uninterrupted run's, byte for byte. A half-written file that a kill
left behind shows that it fell into the saving.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bpnet.checkpoint import steps

PROGRAM = Path(__file__).parent / "checkpoint_program.py"


def start(folder: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", str(PROGRAM), str(folder), str(out), *more])


def main(kills: int, seed: int) -> int:
    rng = random.Random(seed)
    wrong = runs = done = saving = 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if start(root / "whole", root / "whole.out").wait() != 0:
            return 1
        expected = (root / "whole.out").read_bytes()
        while done < kills:
            runs += 1
            folder, out = root / f"run {runs}", root / f"{runs}.out"
            for _ in range(min(rng.choice((1, 2, 3)), kills - done)):
                process = start(folder, out, "slow")
                before = max(steps(folder), default=0)
                while max(steps(folder), default=0) <= before and process.poll() is None:
                    time.sleep(0.002)  # until it trains: to start takes most of the time
                time.sleep(rng.uniform(0, 1.2))
                if process.poll() is not None:
                    break
                process.send_signal(signal.SIGKILL)
                if process.wait() != -signal.SIGKILL:
                    continue
                done += 1
                half = [path for path in folder.iterdir() if path.name.endswith(".tmp")]
                saving += bool(half)
                newest = max(steps(folder), default=0)
                print(f"kill {done:>2}: run {runs}, after step {newest}{', while saving' * bool(half)}", flush=True)
            same = start(folder, out).wait() == 0 and out.read_bytes() == expected
            wrong += not same
            print(f"run {runs} ends {'with the same bytes' if same else 'DIFFERENTLY'}", flush=True)
    print(f"{done} kills of {runs} runs, {saving} of them while saving; {wrong} runs ended differently")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
