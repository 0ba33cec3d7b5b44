"""What `import bpnet` costs those who only want that."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNWANTED = (
    "cupy", "torch", "jax", "tensorflow", "array_api_strict", "scipy", "pandas",
    "rich", "typer", "click", "pydantic", "safetensors", "threadpoolctl", "matplotlib",
)  # fmt: skip


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["bpnet", "bpnet.command_line", "bpnet.recipes", "bpnet.doctor"])
def test_importing_loads_numpy_and_nothing_else_of_size_and_prints_nothing(module: str) -> None:
    done = run(
        f"import sys, {module}\n"
        f"loaded = [name for name in {UNWANTED!r} if name in sys.modules]\n"
        "assert 'numpy' in sys.modules\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_training_loads_no_other_array_library() -> None:
    done = run(
        "import sys, bpnet as bp\n"
        "train, test = bp.data.load('digits')\n"
        "model = bp.Sequential(bp.Dense(64, 10))\n"
        "bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam()).fit(train, epochs=1, progress=False)\n"
        f"print([name for name in {UNWANTED!r} if name in sys.modules])"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
