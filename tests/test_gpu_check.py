"""The script that checks a GPU, where there is none: what it refuses, what it would find, what it would write."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from able_backend import AbleBackend
from conftest import why_no_gpu
from fake_cudnn import FakeCudnn
from test_cudnn import asked

import bpnet as bp
from benchmarks import gpu, gpu_convolutions
from benchmarks.metrics import METRICS
from benchmarks.peers import GPU_PEERS, ON_CPU
from benchmarks.workloads import GPU

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
assert spec is not None
assert spec.loader is not None
gpu_check: Any = importlib.util.module_from_spec(spec)
sys.modules["gpu_check"] = gpu_check
spec.loader.exec_module(gpu_check)

PAGE = f"# GPU status\n\nbefore\n\n{gpu_check.BEGIN}\n\nnothing yet\n\n{gpu_check.END}\n\nbehind\n"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet import backend

    monkeypatch.setattr(backend, "_READY", dict(backend._READY))
    monkeypatch.setattr(backend, "_PROBED", list(backend._PROBED))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A page and a folder to write into."""
    (tmp_path / "status.md").write_text(PAGE)
    (tmp_path / "results").mkdir()
    return tmp_path / "status.md", tmp_path / "results"


@pytest.mark.skipif(not why_no_gpu(), reason="a GPU is usable here")
def test_without_a_gpu_it_says_so_returns_2_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.md").write_text(PAGE)
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--status", "status.md", "--results", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "There is no usable GPU, so nothing was checked and nothing was written.\nthe backend "
    )
    assert (tmp_path / "status.md").read_text() == PAGE
    assert [each.name for each in tmp_path.iterdir()] == ["status.md"]


def test_every_check_passes_on_a_backend_that_captures() -> None:
    backend = AbleBackend()
    checks = [check for check in gpu_check.CHECKS if check is not gpu_check.the_backend_keeps_the_protocol]
    findings = gpu_check.run_checks(bp.get_backend(backend), checks)
    assert [each.what for each in findings if not each.passed] == []
    assert "30 steps of 2 shapes, 2 captured" in [each.seen for each in findings]


@pytest.mark.filterwarnings("ignore:steps are replayed call by call")
def test_a_graph_that_is_wrong_after_its_proof_is_found() -> None:
    def spoil(calls: list[Any]) -> list[Any]:
        made: list[int] = []

        def last() -> None:
            made.append(1)
            if len(made) < 3:
                calls[-1]()

        return [*calls[:-1], last]

    findings = gpu_check.run_checks(
        bp.get_backend(AbleBackend(spoil=spoil)), [gpu_check.graphs_calls_and_eager_steps_are_equal_byte_for_byte]
    )
    assert not findings[0].passed
    assert "differ" in findings[0].seen


@pytest.mark.filterwarnings("ignore:steps are replayed call by call")
def test_a_capture_that_fails_is_a_finding() -> None:
    backend = AbleBackend(fails=lambda number: RuntimeError("not captured"))
    (finding,) = gpu_check.run_checks(
        bp.get_backend(backend), [gpu_check.graphs_calls_and_eager_steps_are_equal_byte_for_byte]
    )
    assert not finding.passed
    assert "of 2 shapes 0 were captured" in finding.seen


def test_a_check_that_raises_is_a_finding_and_the_others_are_made() -> None:
    def breaks(backend: bp.Backend) -> str:
        raise RuntimeError("an illegal memory access")

    findings = gpu_check.run_checks(bp.get_backend("numpy"), [breaks, lambda backend: "seen"])
    assert [(each.passed, each.seen) for each in findings] == [
        (False, "RuntimeError: an illegal memory access"),
        (True, "seen"),
    ]


def test_what_is_found_is_written_between_the_marks_and_to_json(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, results = places
    monkeypatch.setattr(gpu_check, "CHECKS", (lambda backend: "all | of it",))
    monkeypatch.setattr(gpu_check.run_checks, "__defaults__", (gpu_check.CHECKS,))
    arguments = ["--backend", "numpy", "--only", "checks", "--status", str(status), "--results", str(results)]
    assert gpu_check.main(arguments) == 0
    text = status.read_text()
    assert text.startswith("# GPU status\n\nbefore\n\n")
    assert text.endswith(f"{gpu_check.END}\n\nbehind\n")
    assert "nothing yet" not in text
    assert "| passed | all / of it |" in text
    assert f"numpy {np.__version__}" in text
    (path,) = results.iterdir()
    report = json.loads(path.read_text())
    assert path.name == "gpu-check-cpu.json"
    assert {"date", "commit", "device", "bpnet", "findings", "seconds"} <= report.keys()
    before = status.read_text()
    assert gpu_check.main(arguments) == 0  # again: the table is replaced, not added
    assert status.read_text().count("| check |") == before.count("| check |") == 1


def test_a_failed_check_makes_the_exit_code_1(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(backend: bp.Backend) -> str:
        raise AssertionError("other bits")

    monkeypatch.setattr(gpu_check.run_checks, "__defaults__", ((wrong,),))
    status, results = places
    arguments = ["--backend", "numpy", "--only", "checks", "--status", str(status), "--results", str(results)]
    assert gpu_check.main(arguments) == 1
    assert "| wrong | **failed** | AssertionError: other bits |" in status.read_text()


def test_a_page_without_the_marks_is_left_alone(places: tuple[Path, Path]) -> None:
    status, results = places
    status.write_text("no marks")
    with pytest.raises(SystemExit, match="must have the lines .* once; nothing was written"):
        gpu_check.write({"device": "cpu"}, [], status, results)
    assert status.read_text() == "no marks"
    assert list(results.iterdir()) == []


def test_the_page_of_this_repository_has_the_marks() -> None:
    text = gpu_check.STATUS.read_text()
    assert text.count(gpu_check.BEGIN) == text.count(gpu_check.END) == 1


def test_outcomes_of_tests_are_counted() -> None:
    case = '<testcase name="{}">{}</testcase>'
    xml = f"<testsuites><testsuite>{case.format('a', '')}{case.format('b', '<skipped/>')}</testsuite></testsuites>"
    assert gpu_check.counted(xml) == (True, "1 passed, 0 failed, 1 skipped")
    failed = xml.replace("<skipped/>", "<failure/>")
    assert gpu_check.counted(failed) == (False, "1 passed, 1 failed, 0 skipped: b")
    assert gpu_check.counted(xml.replace('<testcase name="a"></testcase>', ""))[0] is False  # nothing was tested


def test_tests_are_run_and_those_that_take_too_long_leave_what_they_have_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # several processes would reach other tests in time
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    log = tmp_path / "log.txt"
    arguments = ["-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path / "test_one.py")]
    finding = gpu_check.run_tests("tests", 60, arguments, log)
    assert (finding.passed, finding.seen) == (True, "1 passed, 0 failed, 0 skipped")
    assert not log.exists()
    (tmp_path / "test_one.py").write_text(
        "import time\ndef test_one(): assert 'other' == 'bits'\ndef test_two(): time.sleep(60)\ndef test_late(): pass\n"
    )
    finding = gpu_check.run_tests("tests", 20, arguments, log)
    text = "stopped after 20 s, and what was cut short counts as passed: 1 passed, 1 failed, 0 skipped: test_one"
    assert (finding.passed, finding.seen) == (False, text)
    assert "assert 'other' == 'bits'" in log.read_text()
    (tmp_path / "test_one.py").write_text("def test_one(: pass\n")
    finding = gpu_check.run_tests("tests", 60, arguments, log)
    assert not finding.passed
    assert finding.seen.startswith("pytest ended with code 2: 0 passed, 1 failed")


def test_a_command_that_does_not_let_itself_be_interrupted_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    parent = f"import subprocess, sys; print('begun', flush=True); {child.partition('; ')[0]}; {child.split('; ')[1]}"
    parent += f"; subprocess.run([sys.executable, '-c', {child!r}])"
    started = time.monotonic()
    assert gpu_check.ended([sys.executable, "-c", parent], 2) == (None, "begun\n")
    assert time.monotonic() - started < 30


def test_the_parts_of_the_tests_are_all_of_them_and_no_test_is_in_two() -> None:
    first, rest = gpu_check.TESTS.values()
    assert all((ROOT / path).exists() for path in first)
    assert rest == ("tests", *(f"--ignore={path}" for path in first))
    assert gpu_check.gpu_tests(first)[:2] == ["-m", "gpu"]
    assert set(gpu_check.SHARES) == {*gpu_check.TESTS, "benchmark", "convolutions"}
    assert sum(gpu_check.SHARES.values()) <= 1


# --- the benchmark ---


@pytest.mark.skipif(not why_no_gpu(), reason="a GPU is usable here")
def test_the_benchmark_measures_nothing_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("nothing was measured: the backend 'cupy'")


def test_the_benchmark_runs_on_the_cpu_and_reports_missing_peers(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["--on", "cpu", "--quick", "--rounds", "1", "--count", "10", "--threads", "1", "--json", str(path)]
    assert gpu.main([*arguments, "--workload", "mlp-small", "--workload", "input"]) == 0
    report = json.loads(path.read_text())
    assert report["settings"]["gpu"] is False
    assert list(report["workloads"]) == ["mlp-small", "input"]
    for results in report["workloads"].values():
        row = results["rows"]["bpnet"]
        assert (row["status"], row["ratio"]) == ("ok", 1)
        assert len(row["seconds"]) == 1
        assert all(each["status"] in ("ok", "not installed") for each in results["rows"].values())


def test_the_convolutions_are_timed_with_and_without_cudnn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    arguments = ["--backend", "numpy", "--net", "gpt", "--quick", "--rounds", "2", "--json", str(path)]
    assert gpu_convolutions.main(arguments) == 0
    (found,) = json.loads(path.read_text())["nets"].values()
    assert list(found) == ["cuDNN", "kernels"]
    assert found["cuDNN"]["loss"] == found["kernels"]["loss"]
    assert all(len(each["seconds"]) == 2 and min(each["seconds"]) > 0 for each in found.values())
    assert capsys.readouterr().out.startswith("gpt bf16: cuDNN ")


@pytest.mark.skipif(not why_no_gpu(), reason="a GPU is usable here")
def test_the_convolutions_are_not_timed_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_convolutions.main([]) == 2
    assert capsys.readouterr().err.startswith("nothing was measured: the backend 'cupy'")


@pytest.mark.cuda_host
def test_the_check_of_cudnn_compares_its_numbers_and_its_bits() -> None:
    check = gpu_check.convolutions_by_cudnn_are_the_references_and_repeat_their_bits
    backend = bp.get_backend("cuda_host")
    assert check(backend) == "cuDNN is not asked: it is for cupy"
    module = FakeCudnn()
    with asked(module):
        assert check(backend).startswith("off by ")
        assert {kind for kind, _ in module.executed} == {"fprop", "dgrad", "wgrad"}
        module.spoil = lambda name, values: values * (1.001 if name == "DW" else 1)
        with pytest.raises(AssertionError, match="conv2d_backward is off by"):
            check(backend)
        count = iter(range(10**6))
        module.spoil = lambda name, values: values * (1 + 1e-6 * (next(count) % 2))
        with pytest.raises(AssertionError, match="conv2d has other bits when repeated"):
            check(backend)


def test_gpu_peers_and_workloads_are_those_of_the_plan() -> None:
    assert [name for name, peer in GPU_PEERS.items() if peer.role == "ours"] == ["bpnet", "bpnet-calls"]
    assert {"torch", "torch-compile", "torch-overhead", "torch-graph", "jax", "cupy", "floor"} <= set(GPU_PEERS)
    assert GPU["mlp-small"].sizes == (784, 128, 10)
    assert GPU["wide"].batch == 256
    assert [GPU[name].precision for name in GPU if name.startswith("mlp-large")] == ["float32", "tf32", "bf16"]
    assert all(workload.metric in METRICS for workload in GPU.values())
    assert set(ON_CPU) <= set(GPU_PEERS)
