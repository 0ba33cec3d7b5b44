"""`bpnet doctor`: every backend, the BLAS, and what is in the way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_backend
from typer.testing import CliRunner

import bpnet as bp
from bpnet import backend as registry
from bpnet import blas, doctor
from bpnet.commands import app

AddBackend = Callable[[str, Any], None]


@pytest.fixture
def add_backend(monkeypatch: pytest.MonkeyPatch) -> AddBackend:
    """Registers a backend for one test."""
    return lambda name, factory: monkeypatch.setitem(registry._FACTORIES, name, factory)


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)


def about(facts: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in facts["backends"] if each["name"] == name]
    return found


def test_numpy_is_found_usable_and_selected_by_default() -> None:
    facts = doctor.diagnose()
    assert facts["ok"]
    assert facts["selected"] == {"backend": "numpy", "by": "the default"}
    numpy = about(facts, "numpy")
    assert numpy.pop("kernels").split()[0] in ("NumPy", "numba")
    assert numpy.pop("bf16") == "emulated in float32"
    assert numpy == {
        "name": "numpy", "found": True, "usable": True, "version": np.__version__, "device": "cpu"
    }  # fmt: skip


def test_every_known_backend_is_in_the_report_registered_ones_too() -> None:
    facts = doctor.diagnose()
    assert [each["name"] for each in facts["backends"]] == bp.backend_names()
    assert about(facts, "strict")["version"] == strict_backend.strict.__version__


def test_a_backend_that_cannot_be_imported_is_not_found_and_says_why(add_backend: AddBackend) -> None:
    def factory(device: str | None) -> Any:
        raise ImportError("No module named 'lattice'")

    add_backend("lattice", factory)
    found = about(doctor.diagnose(), "lattice")
    assert (found["found"], found["usable"]) == (False, False)
    assert "No module named 'lattice'" in found["reason"]
    assert "reinstall" in found["reason"]


def test_a_backend_that_refuses_is_found_and_its_own_words_are_given(add_backend: AddBackend) -> None:
    def factory(device: str | None) -> Any:
        raise bp.BackendError("the driver is 3 years old; update it")

    add_backend("lattice", factory)
    assert about(doctor.diagnose(), "lattice") == {
        "name": "lattice", "found": True, "usable": False, "reason": "the driver is 3 years old; update it"
    }  # fmt: skip


def test_it_prints_who_makes_products_and_convolutions(
    add_backend: AddBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fast(strict_backend.StrictBackend):
        def describe(self) -> dict[str, str]:
            return {**super().describe(), "convolutions": "cuDNN 9.28.1 by nvidia-cudnn-frontend 1.26.0"}

    add_backend("fast", Fast)
    doctor.print_report(doctor.diagnose())
    printed = capsys.readouterr().out
    assert "\nfast, convolutions: cuDNN 9.28.1 by nvidia-cudnn-frontend 1.26.0\n" in printed
    assert "numpy, convolutions" not in printed


def test_a_backend_whose_description_fails_does_not_hide_the_others(add_backend: AddBackend) -> None:
    class Silent(strict_backend.StrictBackend):
        def describe(self) -> dict[str, str]:
            raise OSError("no answer")

    add_backend("silent", Silent)
    facts = doctor.diagnose()
    assert "OSError: no answer" in about(facts, "silent")["reason"]
    assert about(facts, "numpy")["usable"]


@pytest.mark.parametrize(
    ("choice", "by"), [("environment", "BPNET_BACKEND"), ("argument", "the argument"), ("use", "use_backend")]
)
def test_it_says_what_selects_the_backend(choice: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice == "environment":
        monkeypatch.setenv("BPNET_BACKEND", "strict")
        facts = doctor.diagnose()
    elif choice == "argument":
        facts = doctor.diagnose("strict")
    else:
        with bp.use_backend("strict"):
            facts = doctor.diagnose()
    assert facts["selected"] == {"backend": "strict", "by": by}
    assert facts["ok"]


def test_a_selected_backend_that_is_unknown_is_reported_and_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPNET_BACKEND", "numpyy")
    facts = doctor.diagnose()
    assert not facts["ok"]
    assert not about(facts, "numpyy")["found"]
    assert "did you mean 'numpy'" in about(facts, "numpyy")["reason"]


def test_the_blas_at_work_is_that_of_numpy() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    library = doctor.diagnose()["blas"]
    seen = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    if not seen:
        pytest.skip("threadpoolctl does not know this BLAS")
    assert (library["name"], library["threads"]) in [(each["internal_api"], each["num_threads"]) for each in seen]
    assert library["note"] is None


def test_without_threadpoolctl_the_blas_is_named_and_the_remedy_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    library = doctor.diagnose()["blas"]
    assert library["name"] != "unknown"
    assert (library["kernel"], library["threads"]) == (None, None)
    assert library["cost"]["gflops"] > 0
    assert 'pip install "bpnet-xp[cli]"' in library["note"]


NO_COST = {"threads": None, "kernel": None, "gflops": 1.0}


def library(
    name: str = "openblas", kernel: str | None = "SkylakeX", forced: str | None = None, threads: int = 1
) -> Any:
    return {"name": name, "kernel": kernel, "forced_kernel": forced, "threads": threads}


@pytest.mark.parametrize(
    ("kernel", "cpu", "forced", "expected"),
    [
        ("Haswell", 2, "Haswell", "OPENBLAS_CORETYPE=Haswell forces it; unset"),
        ("Haswell", 2, None, "pip install -U numpy"),
        ("Nehalem", 1, "Nehalem", "can do AVX2"),
        ("Haswell", 1, "Haswell", None),
        ("SkylakeX", 2, None, None),
        ("Zen", 1, None, None),
    ],
)
def test_a_kernel_older_than_the_cpu_is_a_warning(
    kernel: str, cpu: int, forced: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "cpu_level", lambda: cpu)
    monkeypatch.setattr(blas, "is_x86", lambda: True)
    warnings = blas.warnings(library(kernel=kernel, forced=forced), NO_COST, 1)
    assert len(warnings) == (expected is not None)
    assert expected is None or expected in warnings[0]
    measured = blas.warnings(library(kernel=kernel, forced=forced), NO_COST | {"kernel": 1.6}, 1)
    assert expected is None or "here they take 1.6 times as long" in measured[0]


def test_other_processors_and_libraries_get_no_warning_about_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_x86", lambda: False)
    assert blas.warnings(library(kernel="NEOVERSEN1"), NO_COST, 1) == []
    monkeypatch.setattr(blas, "is_x86", lambda: True)
    assert blas.warnings(library(name="mkl", kernel=None), NO_COST, 1) == []


def test_more_threads_than_processors_are_a_warning_whatever_they_cost() -> None:
    (warning,) = blas.warnings(library(threads=64), NO_COST | {"threads": 9.0}, 2)
    assert "64 threads where this process may use 2 processors" in warning
    assert "BPNET_THREADS=2" in warning


@pytest.mark.parametrize(("ratio", "harm"), [(None, False), (0.55, False), (1.1, False), (80.0, True)])
def test_threads_that_are_slower_than_one_are_a_warning(ratio: float | None, harm: bool) -> None:
    warnings = blas.warnings(library(threads=2), NO_COST | {"threads": ratio}, 2)
    assert len(warnings) == harm
    assert not harm or ("80.0 times as long with 2 threads" in warnings[0] and "BPNET_THREADS=1" in warnings[0])


def test_the_cost_is_measured_and_the_threads_are_as_before() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = threadpoolctl.threadpool_info()
    found = blas.cost(blas.facts())
    assert found["gflops"] > 0
    assert (found["threads"] is None) == ((blas.facts()["threads"] or 1) == 1)
    assert found["kernel"] is None
    assert threadpoolctl.threadpool_info() == before


def test_a_forced_kernel_is_compared_with_the_one_that_would_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def elsewhere(kernel: str | None) -> float:
        asked.append(kernel)
        return 3.0 if kernel else 2.0

    monkeypatch.setattr(blas, "_elsewhere", elsewhere)
    monkeypatch.setattr(blas, "cpu_level", lambda: 2)
    monkeypatch.setattr(blas, "is_x86", lambda: True)
    assert blas.cost(library(kernel="Haswell", forced="Haswell"))["kernel"] == 1.5
    assert asked == ["Haswell", None]


def test_another_process_measures_with_the_kernel_of_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = blas._elsewhere(None)
    assert seconds is not None
    assert seconds > 0
    monkeypatch.setattr(blas, "_MEASURE", "import os; print(os.environ['OPENBLAS_CORETYPE'] == 'Haswell' and 7)")
    assert blas._elsewhere("Haswell") == 7
    assert blas._elsewhere(None) is None


def test_this_package_is_recognised_as_ours() -> None:
    package = doctor.diagnose()["bpnet"]
    assert package["ours"]
    assert package["version"] == bp.__version__
    assert package["genomics"] is None


@pytest.mark.parametrize("overwrites", [False, True])
def test_the_genomics_package_of_the_same_name_is_in_the_way(
    overwrites: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = os.path.relpath(Path(bp.__file__).parent / "errors.py", tmp_path) if overwrites else "bpnet/errors.py"
    info = tmp_path / "bpnet-0.0.23.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bpnet\nVersion: 0.0.23\n")
    (info / "RECORD").write_text(f"{record},,\n")
    monkeypatch.syspath_prepend(tmp_path)
    facts = doctor.diagnose()
    assert facts["bpnet"]["genomics"]["version"] == "0.0.23"
    assert len(facts["bpnet"]["genomics"]["files_in_our_folder"]) == overwrites
    (warning,) = [text for text in facts["warnings"] if "genomics" in text]
    assert "pip uninstall bpnet" in warning
    assert ("has written 1 files" in warning) == overwrites


def test_the_command_prints_a_report_and_ends_in_json() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    facts = json.loads(lines[-1])
    assert facts["ok"]
    assert set(facts["versions"]) >= {"numpy", "array-api-compat", "safetensors"}
    assert any(line.startswith("backend") for line in lines)
    assert any(line.startswith("numpy") and "yes" in line and np.__version__ in line for line in lines)
    assert "selected: numpy, by the default; it can be used" in lines


def test_the_command_exits_with_2_and_the_reason_when_the_selected_backend_is_unusable(
    add_backend: AddBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def factory(device: str | None) -> Any:
        raise bp.BackendError("no lattice card; plug one in")

    add_backend("lattice", factory)
    monkeypatch.setenv("BPNET_BACKEND", "lattice")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 2
    assert "lattice: no lattice card; plug one in" in done.stdout
    assert "selected: lattice, by BPNET_BACKEND; it CANNOT be used" in done.stdout


def test_on_a_terminal_the_backends_are_a_drawn_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = doctor.diagnose()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    doctor.print_report(facts)
    assert "━" in capsys.readouterr().out
