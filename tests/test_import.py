"""What `import bpnet` costs those who only want that."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

UNWANTED = (
    "cupy", "torch", "jax", "tensorflow", "array_api_strict", "scipy", "pandas",
    "rich", "typer", "click", "pydantic", "safetensors", "threadpoolctl", "matplotlib", "numba", "llvmlite",
)  # fmt: skip


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["bpnet", "bpnet.command_line", "bpnet.recipes", "bpnet.doctor"])
def test_importing_loads_numpy_and_nothing_else_of_size_and_prints_nothing(module: str) -> None:
    done = run(
        f"import sys, {module}\n"
        f"loaded = [name for name in {UNWANTED!r} if name in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_bpnet_costs_next_to_nothing_because_names_are_imported_when_they_are_used() -> None:
    done = run(
        "import sys, bpnet\n"
        "print(sorted(name for name in sys.modules if name.startswith('bpnet')), 'numpy' in sys.modules)\n"
        "bpnet.ops\n"
        "print('bpnet.ops' in sys.modules, 'bpnet.layers' in sys.modules)\n"
        "from bpnet import Dense\n"
        "print(bpnet.Dense is Dense, vars(bpnet)['Dense'] is Dense)"
    )
    assert done.stdout.splitlines() == ["['bpnet'] False", "True False", "True True"], done.stderr


def test_every_public_name_is_there_and_where_type_checkers_are_told_that_it_is() -> None:
    import bpnet

    tree = ast.parse(Path(bpnet.__file__).read_text("utf-8"))
    told = next(node for node in tree.body if isinstance(node, ast.If))
    modules = [node for node in told.body if isinstance(node, ast.ImportFrom)]
    where = {alias.name: node.module for node in modules for alias in node.names if node.module != "bpnet"}
    assert where == bpnet._WHERE
    submodules = {alias.name for node in modules for alias in node.names if node.module == "bpnet"}
    assert sorted({*where, *submodules, "load"}) == sorted(bpnet.__all__)
    for name in bpnet.__all__:
        assert getattr(bpnet, name) is not None
    assert set(dir(bpnet)) == {*bpnet.__all__, "__version__"}


def test_the_function_explain_keeps_its_place_when_the_module_of_that_name_is_imported() -> None:
    done = run("import bpnet.explain.steps, bpnet, types; print(isinstance(bpnet.explain, types.FunctionType))")
    assert done.stdout.strip() == "True", done.stderr


def test_which_body_runs_does_not_depend_on_what_was_imported_before() -> None:
    for first in ("bpnet.ops", "bpnet.dispatch", "bpnet.backend"):
        done = run(
            f"import {first}, numpy as np; from bpnet import ops\n"
            "print(ops.relu.choose((np.zeros(2),)).name != 'reference')"
        )
        assert done.stdout.strip() == "True", (first, done.stderr)


def test_a_name_that_does_not_exist_is_an_attribute_error_that_suggests_nothing_false() -> None:
    import bpnet

    assert not hasattr(bpnet, "Dens")
    assert not hasattr(bpnet, "_private")
    with pytest.raises(AttributeError, match="module 'bpnet' has no attribute 'Dens'"):
        bpnet.Dens  # noqa: B018


def test_training_loads_no_other_array_library() -> None:
    done = run(
        "import os; os.environ['BPNET_FUSED'] = '0'  # numba where it is installed is asked for\n"
        "import sys, bpnet as bp\n"
        "train, test = bp.data.load('digits')\n"
        "model = bp.Sequential(bp.Dense(64, 10))\n"
        "bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam()).fit(train, epochs=1, progress=False)\n"
        f"print([name for name in {UNWANTED!r} if name in sys.modules])"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
