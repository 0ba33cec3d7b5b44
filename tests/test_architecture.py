"""The shape of the project, held by reading its source: who may import whom, and what ships."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    "errors": 0,
    "dispatch": 1,
    "backend": 1,
    "checks": 1,
    "processors": 1,
    "abilities": 2,
    "ops": 2,
    "parameter": 3,
    "store": 3,
    "compute": 3,
    "random": 3,
    "initializers": 3,
    "files": 3,
    "trace": 3,
    "arena": 3,
    "plan": 3,
    "planner": 3,
    "layers": 4,
    "losses": 4,
    "metrics": 4,
    "memory": 4,
    "optimizers": 4,
    "step": 4,
    "schedules": 4,
    "data": 4,
    "callbacks": 5,
    "checkpoint": 5,
    "contracts": 5,
    "costing": 5,
    "forensics": 5,
    "beside": 4,
    "bundle": 5,
    "door": 5,
    "fitting": 5,
    "identity": 5,
    "snapshot": 5,
    "totals": 5,
    "generation": 5,
    "history": 5,
    "inference": 5,
    "interrupt": 5,
    "pairing": 5,
    "plotting": 5,
    "shortage": 5,
    "progress": 5,
    "trainer": 5,
    "working": 5,
    "testing": 5,
    "sklearn": 5,
    "interop": 5,
    "nnfs": 5,
    "explain": 5,
    "recipes": 5,
    "auditing": 5,
    "blas": 5,
    "doctor": 5,
    "__init__": 5,
    "command_line": 6,
    "commands": 6,
    "__main__": 6,
}
ARRAY_LIBRARIES = {"numpy", "cupy", "cupyx", "torch", "jax", "array_api_strict"}
FREE_OF_ARRAY_LIBRARIES = (
    "ops",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "parameter",
    "plan",
    "planner",
    "schedules",
    "trace",
)
SOURCES = sorted((ROOT / "bpnet").rglob("*.py"))
BACKEND_SOURCES = sorted((ROOT / "backends").rglob("*.py"))


def imported(path: Path) -> list[str]:
    """The full names of everything that a file imports, inside functions too, `TYPE_CHECKING` blocks left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part(path: Path) -> str:
    """The module or package of bpnet that a file belongs to: 'ops', 'trainer', '__init__'."""
    return path.relative_to(ROOT / "bpnet").parts[0].removesuffix(".py")


def part_imported(name: str) -> str | None:
    """The part of bpnet that an imported name belongs to."""
    pieces = name.split(".")
    if pieces[0] != "bpnet":
        return None
    return pieces[1] if len(pieces) > 1 and pieces[1] in LEVELS else "__init__"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = LEVELS[part(path)]
    for name in imported(path):
        other = part_imported(name)
        if other is not None:
            assert LEVELS[other] <= own, f"{path.name} (level {own}) imports {name} (level {LEVELS[other]})"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if part(p) in FREE_OF_ARRAY_LIBRARIES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_mathematics_knows_no_array_library(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(path)} & ARRAY_LIBRARIES
    assert not libraries, f"{path.name} imports {libraries}"


def test_bpnet_names_a_backend_only_in_its_registry() -> None:
    users = [path.name for path in SOURCES if any(name.startswith("bpnet_") for name in imported(path))]
    assert users == []
    mentions = [path.name for path in SOURCES if "bpnet_numpy" in path.read_text()]
    assert mentions == ["backend.py"]


@pytest.mark.parametrize("path", BACKEND_SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_backend_imports_nothing_above_ops(path: Path) -> None:
    for name in imported(path):
        other = part_imported(name)
        if other is not None:
            of_ops = name == "bpnet.ops" or other != "__init__"
            assert of_ops, f"{path.name} imports {name}"
            assert LEVELS[other] <= LEVELS["ops"], f"{path.name} imports {name}"


def test_every_backend_folder_ships_in_the_wheel() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = [f"backends/{p.name}" for p in sorted((ROOT / "backends").iterdir()) if (p / "__init__.py").exists()]
    assert sorted(packages) == sorted(["bpnet", *folders])
    assert set(project["project"]["entry-points"]["bpnet.backends"]) == {p.rpartition("_")[2] for p in folders}


def test_backends_is_a_folder_and_no_package() -> None:
    loose = [p.name for p in (ROOT / "backends").glob("*.py")]
    assert loose == []


@pytest.mark.parametrize(
    "path",
    SOURCES + BACKEND_SOURCES,
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_modules_stay_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_every_part_has_a_level() -> None:
    assert {part(path) for path in SOURCES} <= set(LEVELS)
