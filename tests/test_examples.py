"""Every example runs on every backend and prints the numbers it promises; so does the benchmark of the chapter."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpnet as bp

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(
    backend: bp.Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Runner:
    """Runs an example in an empty folder with `backend` selected, and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    return Runner(backend, capsys)


class Runner:
    def __init__(self, backend: bp.Backend, capsys: pytest.CaptureFixture[str]) -> None:
        self.backend = backend
        self.capsys = capsys

    def __call__(self, name: str) -> str:
        with bp.use_backend(self.backend):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return self.capsys.readouterr().out


def number_after(words: str, text: str) -> float:
    found = re.search(rf"{words}\s+(-?[\d.]+)", text)
    assert found, f"{words!r} is not in {text!r}"
    return float(found[1])


def numbers_of(name: str, printed: str) -> list[float]:
    """The numbers of the array that `chain_rule.py` shows under `name`."""
    found = re.search(rf"^{re.escape(name)} +(.*(?:\n {{11}}.*)*)", printed, re.MULTILINE)
    assert found, f"{name!r} is not in {printed!r}"
    return [float(each) for each in re.findall(r"-?\d+\.\d*", found[1])]


def test_the_chain_rule_prints_the_chapters_numbers(run: Runner) -> None:
    neuron, batch = run("chain_rule.py").split("Three neurons")
    start, step = neuron.split("A step of")
    assert numbers_of("x w", start) == [-3, 2, 6]
    assert numbers_of("z", start) == numbers_of("y", start) == [6]
    assert numbers_of("dx", start) == [-3, -1, 2]
    assert numbers_of("dw", start) == [1, -2, 3]
    assert numbers_of("db", start) == [1]
    assert numbers_of("w", step) == [-3.001, -0.998, 1.997]
    assert numbers_of("b", step) == [0.999]
    assert numbers_of("y", step) == [5.985]
    assert numbers_of("y", batch) == [4.8, 1.21, 2.385, 8.9, 0, 0.2, 1.41, 1.051, 0.026]
    assert numbers_of("db", batch) == [15.11, 2.261, 2.611]
    assert numbers_of("new b", batch) == [1.98489, 2.997739, 0.497389]
    assert numbers_of("new W", batch)[:3] == [0.179515, 0.500367, -0.262746]
    assert numbers_of("loss", batch) == [0.385061]
    dlogits = [-0.1, 0.033333, 0.066667, 0.033333, -0.166667, 0.133333, 0.006667, -0.033333, 0.026667]
    assert numbers_of("separate", batch) == numbers_of("combined", batch) == dlogits


def test_the_explicit_loop_solves_xor_and_the_spiral(run: Runner) -> None:
    printed = run("explicit_loop.py")
    assert number_after("xor accuracy", printed) == 1.0
    assert number_after("spiral accuracy", printed) >= 0.98
    for name in ("xor", "spiral"):
        losses = [float(each) for each in re.findall(rf"{name} epoch +\d+  loss ([\d.]+)", printed)]
        assert len(losses) == 4
        assert losses[-1] < losses[0] < 0.2


@pytest.mark.parametrize("backend", ["numpy", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True)
def test_the_digits_are_learned_saved_and_read_back(run: Runner) -> None:
    printed = run("digits.py")
    assert number_after("held-out images: accuracy", printed) >= 0.97
    assert "trained 9,610 parameters" in printed
    assert f"on {run.backend.name}\n" in printed
    answers = np.array(re.search(r"answers (.*)", printed)[1].split())  # type: ignore[index]
    labels = np.array(re.search(r"labels  (.*)", printed)[1].split())  # type: ignore[index]
    assert len(labels) == 10
    assert (answers == labels).sum() >= 9
    assert isinstance(bp.load("digits.safetensors", backend="numpy"), bp.Sequential)


def test_the_backends_example_trains_on_the_selected_backend(run: Runner) -> None:
    printed = run("backends.py")
    assert f"backend {run.backend.name}, version {run.backend.describe()['version']}" in printed
    assert f"weights are {run.backend.array_type.__module__.split('.')[0]} arrays" in printed
    assert number_after("before: loss", printed) > 2.0
    assert number_after("after:  loss", printed) < 0.5
    assert number_after(r"after: .*accuracy", printed) > 0.9


def test_the_backends_example_gives_the_reason_and_exits_with_2_where_the_backend_cannot_be_used() -> None:
    hidden = os.environ | {"BPNET_BACKEND": "cupy", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "backends.py"], env=hidden, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "the backend 'cupy' (from BPNET_BACKEND) cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert any(remedy in done.stderr for remedy in ("pip install", "run on the CPU with BPNET_BACKEND=numpy"))


def test_the_audited_layer_is_first_wrong_and_then_right(run: Runner) -> None:
    wrong, right = run("audit_your_layer.py").split("Swish: passed\n")
    assert wrong.startswith("Averaged: FAILED\n")
    assert "1 Averaged, slope: WRONG: is 20.000x too small (20 is the number of samples)\n" in wrong
    assert wrong.count("WRONG") == 2
    assert right.splitlines() == [f"  1 Swish, {what}: ok" for what in ("dx", "slope", "promises")]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_says_what_it_is_and_is_under_80_lines(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert text.count("\n") < 80


def test_the_benchmark_of_the_chapter_agrees_with_itself_and_prints_a_row_a_size() -> None:
    command = [sys.executable, "-m", "benchmarks.softmax_crossentropy", "--rounds", "1", "3x3", "64x100"]
    distorted = os.environ | {"OPENBLAS_L2_SIZE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=distorted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heading, *_, small, large = done.stdout.splitlines()
    assert f"NumPy {np.__version__}, BLAS architecture" in heading
    for line, size in ((small, "3x3"), (large, "64x100")):
        assert re.fullmatch(rf" +{size}( +[\d.]+){{3}}( +x [\d.]+){{2}}", line)
