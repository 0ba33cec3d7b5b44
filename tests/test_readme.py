"""The pages for readers: their code runs, their commands and links are right, their drawing shows bpnet's numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import bpnet as bp
from bpnet import nnfs

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
BACKENDS = ROOT / "backends" / "README.md"
LAYER = ROOT / "docs" / "write-a-layer.md"
BACKEND = ROOT / "docs" / "write-a-backend.md"
DESIGN = ROOT / "docs" / "design.md"
PAGES = (README, CONTRIBUTING, BACKENDS, LAYER, BACKEND, DESIGN, ROOT / "docs" / "gpu-status.md", ROOT / "CHANGELOG.md")
COMMANDS = ('pip install ".[cli]" && bpnet train digits', 'pip install -e ".[test]" && pytest')
ON_STRICT = "import strict_backend, bpnet; strict_backend.register(); bpnet.use_backend('strict:device1')\n"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of `page` in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> str:
    """What `code` prints, as a script of its own in `folder`; a warning is an error."""
    path = os.pathsep.join([str(folder), *(str(ROOT / part) for part in (".", "backends", "tests"))])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=os.environ | {"BPNET_BACKEND": "numpy", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_network_svg", ROOT / "docs" / "make_network_svg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_its_sections_in_their_order() -> None:
    found = re.findall(r"^## (.*)$", README.read_text("utf-8"), flags=re.MULTILINE)
    assert found[:7] == [
        "The network, with its gradients",
        "Two commands",
        "The explicit loop",
        "The same script on CuPy",
        "The same words elsewhere",
        "When not to use bpnet",
        "Not the genomics package",
    ]
    assert found[7] == "Training in earnest"


def test_the_two_commands_stand_in_the_readme_and_no_third() -> None:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    assert [line for line in lines if "pip install" in line] == list(COMMANDS)
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = re.findall(r"(?<=`)(?:cuda\d+)(?=`)", README.read_text("utf-8"))
    assert {"cli", "test", *named} <= set(extras)


def test_every_script_of_the_readme_runs(tmp_path: Path) -> None:
    scripts = blocks(README, "python")
    outputs = [run(script, tmp_path) for script in scripts]
    assert len(scripts) == 5
    assert outputs[0] == blocks(README, "text")[0]
    assert min(float(score) for score in outputs.pop().strip(" []\n").split()) > 0.9  # of a cross validation
    for output in outputs[1:]:
        accuracy = re.search(r"accuracy\D*(0\.\d+)", output.splitlines()[-1] + output.splitlines()[-2])
        assert accuracy is not None
        assert float(accuracy[1]) > 0.9


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_the_scripts_of_the_readme_run_unchanged_on_another_array_library(index: int, tmp_path: Path) -> None:
    script = blocks(README, "python")[index]
    assert "numpy" not in script.replace("to_numpy", "")
    run(
        ON_STRICT
        + script.replace("range(10)", "range(1)").replace("epochs=10", "epochs=1").replace("epochs=50", "epochs=4"),
        tmp_path,
    )


def test_the_cupy_section_says_that_the_script_is_the_same_and_has_not_run_on_a_gpu() -> None:
    section = README.read_text("utf-8").split("## The same script on CuPy")[1].split("\n## ")[0]
    assert "BPNET_BACKEND=cupy python loop.py" in section
    assert "same script" in section
    assert "BPNET_BACKEND=numpy" in section
    assert "not run on a GPU yet" in section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def anchors(page: Path) -> list[str]:
    """What headings of a page are linked to by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


def test_the_table_names_what_there_is() -> None:
    section = README.read_text("utf-8").partition("## The same words elsewhere")[2].partition("\n## ")[0]
    table = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    ours = " ".join(row[2] for row in table)
    theirs = " ".join(row[5] for row in table)
    for name in re.findall(r"`([A-Z]\w+)\(", ours):
        assert hasattr(bp, name), name
    classes = re.findall(r"`((?:Layer|Activation|Loss|Optimizer)_\w+)\(", theirs)
    assert classes
    for name in classes:
        assert hasattr(nnfs, name), name
    assert all(len(row) == 7 for row in table)


def installed(folder: Path, module: str, source: str, project: dict[str, Any]) -> None:
    """Lay `module` into `folder` with the metadata of an installed distribution, as pip would for its pyproject."""
    package = folder / module
    package.mkdir()
    (package / "__init__.py").write_text(source, "utf-8")
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items())
             for group, points in project["entry-points"].items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.torch
def test_the_backend_of_its_page_is_a_package_that_passes_its_own_test(tmp_path: Path) -> None:
    source, test, variant = blocks(BACKEND, "python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 40
    project = tomllib.loads(blocks(BACKEND, "toml")[0])["project"]
    installed(tmp_path, "bpnet_tensors", source, project)
    (tmp_path / "test_tensors.py").write_text(test)
    (tmp_path / "test_variant.py").write_text(f"{variant}\n\n{test}")
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-W', 'error']))"
    assert "2 passed" in run(code, tmp_path)
    asked = run("import bpnet as bp; print(bp.backend_names(), bp.get_backend('tensors').describe())", tmp_path)
    assert "'tensors'" in asked
    assert "'device': 'cpu'" in asked
    refused = run(
        "import bpnet as bp\ntry: bp.get_backend('tensors:cuda:99')\nexcept bp.BackendError as e: print(e)", tmp_path
    )
    assert "PyTorch cannot use the device 'cuda:99'" in refused


def test_an_installed_plug_in_is_found_and_trained_on_by_its_name(tmp_path: Path) -> None:
    source = """
from bpnet.testing.strict import StrictBackend


class PluggedBackend(StrictBackend):
    def __init__(self, device=None):
        super().__init__(device)
        self.name = "plugged"
"""
    points = {"bpnet.backends": {"plugged": "bpnet_plugged:PluggedBackend"}}
    installed(tmp_path, "bpnet_plugged", source, {"name": "bpnet-plugged", "version": "1.0", "entry-points": points})
    code = "from bpnet.testing import check_backend\ncheck_backend('plugged')\nprint('checked')"
    assert run(code, tmp_path) == "checked\n"
    done = run("from bpnet.command_line import main\nimport sys\nsys.argv = ['bpnet', 'doctor']\nmain()", tmp_path)
    assert re.search(r"^plugged +yes +yes", done, flags=re.MULTILINE)


def test_the_example_of_an_operation_a_layer_and_a_numpy_body_is_right(tmp_path: Path) -> None:
    check = """
import numpy as np
import bpnet as bp
from bpnet.testing import check_layer

rng = np.random.default_rng(0)
check_layer(Asinh)
check_layer(lambda: bp.Sequential(bp.Dense(3, 4), Asinh(), bp.Dense(4, 2)), 3)
x, dy = rng.normal(size=(2, 6, 7)).astype("float32")
x[0] = [np.inf, -np.inf, np.nan, 0, 1e30, -1e30, 100]
with np.errstate(all="ignore"):
    for op, args in ((asinh_backward, (dy, asinh(x))), (asinh, (x,))):
        variant = op.choose(args)
        assert variant.bind is not None
        expected = op.reference.body(*args)
        np.testing.assert_allclose(variant.body(*args), expected, rtol=1e-6)
        variant.into(args[0], *args)
        np.testing.assert_allclose(args[0], expected, rtol=1e-6)
from bpnet.testing.counting import count_flops
for op, args in ((asinh, (x,)), (asinh_backward, (dy, x))):
    assert count_flops(op.reference.body, args).arrays == op.flops * x.size
for name, entry in LAYERS.items():
    for case in entry.cases.values():
        check_layer(case.make, case.inputs[0])
    for bad in entry.bad_arguments + entry.bad_inputs:
        try:
            bad.mistake() if hasattr(bad, "mistake") else entry.cases[""].make()(*bad.arguments)
        except bad.error as error:
            assert __import__("re").search(bad.message, str(error)), error
        else:
            raise AssertionError(f"{name} took {bad}")
print("checked")
"""
    assert run("\n".join(blocks(CONTRIBUTING, "python")) + check, tmp_path).endswith("checked\n")


def test_the_drawing_is_what_its_script_makes_of_bpnets_numbers() -> None:
    module = drawing()
    assert module.TARGET.read_text("utf-8") == module.draw()
    assert b"\r" not in module.TARGET.read_bytes()


def test_the_drawing_shows_the_gradients_of_the_layer() -> None:
    module = drawing()
    n = module.neuron()
    dense = bp.Dense(3, 1)
    model = bp.Sequential(dense, bp.ReLU()).initialize(dtype="float64")
    dense.weight.value, dense.bias.value = np.array(n["w"])[:, None], n["b"]
    assert model.forward(np.array([n["x"]])).tolist() == [n["y"]]
    assert model.backward(np.array([n["dy"]])).tolist() == [n["dx"]] == [[-3, -1, 2]]
    assert dense.weight.grad[:, 0].tolist() == n["dw"] == [1, -2, 3]
    assert dense.bias.grad.tolist() == n["db"] == [1]


def test_the_drawing_can_be_read_by_those_who_do_not_see_it() -> None:
    module = drawing()
    n = module.neuron()
    space = "{http://www.w3.org/2000/svg}"
    svg = ElementTree.fromstring(module.draw())
    title, description = svg.findtext(f"{space}title"), svg.findtext(f"{space}desc")
    assert title
    assert description
    alternative = re.search(r"!\[(.*?)\]\(docs/network.svg\)", README.read_text("utf-8"), flags=re.DOTALL)
    assert alternative is not None
    for name in ("dx", "dw"):
        shown = f"{name} = {module.listed(n[name])}"
        assert shown in description
        assert shown in alternative[1]


def test_the_changelog_has_the_version() -> None:
    assert f"\n## {bp.__version__} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_speed_table_says_what_the_committed_report_says() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "steps.json").read_text())
    order = ["bpnet", "bpnet-plain", "jax-sync", "torch-fused", "torch-compile", "torch", "floor"]
    lines = [
        line.strip("|").split("|") for line in README.read_text("utf-8").splitlines() if "batch" in line and "|" in line
    ]
    found = {cells[0].strip(): [float(cell.strip(" *")) for cell in cells[1:]] for cells in lines}
    assert set(found) == {workload["title"] for workload in report["workloads"].values()}
    for workload in report["workloads"].values():
        rows = workload["rows"]
        best = rows[workload["best_peer"]["name"]]
        plain = np.median(np.divide(rows["bpnet-plain"]["seconds"], best["seconds"]))
        expected = [1e6 * rows[peer]["median"] for peer in order] + [best["ratio"], plain]
        np.testing.assert_allclose(found[workload["title"]], expected, rtol=0.02)


def test_the_page_on_layers_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    printed = run("\n".join(blocks(LAYER, "python")), tmp_path)
    assert printed == "".join(blocks(LAYER, "text"))


def test_the_design_names_every_module_at_its_level() -> None:
    from test_architecture import LEVELS

    rows = re.findall(r"^\| (\d) \| (.*?) \|", DESIGN.read_text("utf-8"), flags=re.MULTILINE)
    found = {
        name.removesuffix(".py"): int(level)
        for level, names in rows
        for name in re.findall(r"`(\w+(?:\.py)?)/?`", names)
    }
    folder = ROOT / "bpnet"
    present = {name for name in LEVELS if (folder / name).is_dir() or (folder / f"{name}.py").exists()}
    assert found == {name: LEVELS[name] for name in present if not name.startswith("_")}
