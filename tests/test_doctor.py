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
from bpnet import doctor
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
    assert about(facts, "numpy") == {
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
    blas = doctor.diagnose()["blas"]
    seen = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    if not seen:
        pytest.skip("threadpoolctl does not know this BLAS")
    assert (blas["name"], blas["threads"]) in [(each["internal_api"], each["num_threads"]) for each in seen]
    assert blas["note"] is None


def test_without_threadpoolctl_the_blas_is_named_and_the_remedy_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    blas = doctor.diagnose()["blas"]
    assert blas["name"] != "unknown"
    assert (blas["kernel"], blas["threads"]) == (None, None)
    assert 'pip install "bpnet-xp[cli]"' in blas["note"]


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
    monkeypatch.setattr(doctor, "_cpu_level", lambda: cpu)
    monkeypatch.setattr(doctor, "_is_x86", lambda: True)
    warnings = doctor._blas_warnings({"name": "openblas", "kernel": kernel, "forced_kernel": forced})
    assert len(warnings) == (expected is not None)
    assert expected is None or expected in warnings[0]


def test_other_processors_and_libraries_get_no_warning_about_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_x86", lambda: False)
    assert doctor._blas_warnings({"name": "openblas", "kernel": "NEOVERSEN1", "forced_kernel": None}) == []
    monkeypatch.setattr(doctor, "_is_x86", lambda: True)
    assert doctor._blas_warnings({"name": "mkl", "kernel": None, "forced_kernel": None}) == []


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
