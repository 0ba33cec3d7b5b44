"""The benchmarks' machinery on short runs: the structure of what it reports, never a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cpu, machine, overhead, revision
from benchmarks.harness import Harness, Settings, failures
from benchmarks.metrics import METRICS, disagreement
from benchmarks.peers import PEERS, PeerSpec
from benchmarks.reference import Reference
from benchmarks.workloads import STEPS, Problem, near_identity

ALL = sorted({*STEPS})


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a quick run of bpnet and the floor on tiny."""
    path = tmp_path_factory.mktemp("benchmarks") / "report.json"
    arguments = ["--quick", "--workload", "tiny", "--peers", "bpnet,floor", "--threads", "1", "--json", str(path)]
    assert cpu.main(arguments) == 0
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def test_report_says_where_and_with_what_it_was_measured(quick: dict[str, Any]) -> None:
    assert quick["machine"]["cores"] >= 1
    assert quick["settings"]["threads"] == 1
    assert quick["arguments"]["quick"] == "True"
    assert {"date", "commit", "python", "removed_variables"} <= quick.keys()
    for name in ("bpnet", "floor"):
        facts = quick["peers"][name]
        assert facts["status"] == "ok"
        assert facts["versions"]["numpy"] == np.__version__
        assert facts["blas"]
        assert facts["idle_cpu"] >= 0


def test_times_and_ratios_are_finite_and_positive(quick: dict[str, Any]) -> None:
    results = quick["workloads"]["tiny"]
    assert list(results["rows"]) == ["bpnet", "floor"]
    assert results["best_peer"] is None
    for row in results["rows"].values():
        assert len(row["seconds"]) == len(row["ratios"]) == results["rounds"] == 3
        assert all(math.isfinite(number) and number > 0 for number in row["seconds"] + row["ratios"])
        assert row["min"] <= row["median"] <= row["max"]
    assert results["rows"]["bpnet"]["ratio"] == 1


def test_floor_and_bpnet_agree_on_the_gradients_of_the_first_step(quick: dict[str, Any]) -> None:
    rows = quick["workloads"]["tiny"]["rows"]
    floor, ours = (rows[name]["checked"] for name in ("floor", "bpnet"))
    assert len(ours["losses"]) == METRICS["step"].checked_steps  # type: ignore[attr-defined]
    assert "losses" not in floor
    np.testing.assert_allclose(floor["gradient norms"], ours["gradient norms"], rtol=1e-4)


def test_overhead_reports_a_slope_for_both_metrics(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["--quick", "--rounds", "1", "--depths", "1", "2", "--peers", "bpnet", "--json", str(path)]
    assert overhead.main(arguments) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["overhead"]
    for metric in ("step", "inference"):
        assert len(found[metric]["bpnet"]["seconds"]) == 2
        assert math.isfinite(found[metric]["bpnet"]["per_layer"])


def test_slope_is_that_of_a_line() -> None:
    assert overhead.slope([1, 2, 4], [5.0, 8.0, 14.0]) == pytest.approx((3.0, 2.0))


def test_peers_that_are_missing_or_fail_are_reported_and_the_others_run() -> None:
    specs = [
        PEERS["floor"],
        PeerSpec("absent", "a library nobody has", "floor:Floor", ("no_such_library_of_anyone",)),
        PeerSpec("broken", "a peer that cannot start", "floor:Floor", (), options={"no_such_option": 1}),
    ]
    shown: list[dict[str, Any]] = []
    report = Harness(specs, Settings(rounds=1, scale=0.01, pause=0.0)).run([STEPS["tiny"]], shown.append)
    assert [row["status"] for row in shown[0]["rows"].values()] == ["ok", "not installed", "failed"]
    assert report["peers"]["absent"]["error"] == "needs no_such_library_of_anyone"
    assert "no_such_option" in report["peers"]["broken"]["error"]
    assert failures(report) == ["broken: failed"]


def test_child_that_dies_shows_its_last_words_and_the_others_run() -> None:
    class Deadly(Harness):
        def _turn(self, child: Any, row: Any, metric: str, count: int) -> None:
            if child.spec.name == "floor":
                child.process.kill()
            super()._turn(child, row, metric, count)

    settings = Settings(rounds=2, scale=0.01, pause=0.0)
    report = Deadly([PEERS["floor"], PEERS["bpnet"]], settings).run([STEPS["tiny"]], lambda _: None)
    rows = report["workloads"]["tiny"]["rows"]
    assert rows["floor"]["status"] == "failed"
    assert "the process ended" in rows["floor"]["error"]
    assert len(rows["bpnet"]["seconds"]) == 2


def test_peer_that_computes_something_else_is_not_timed() -> None:
    class Other(Harness):
        def _prepare(self, child: Any, workload: Any, path: Any, expected: Any) -> Any:
            return super()._prepare(child, workload, path, {name: [9.0] * len(e) for name, e in expected.items()})

    report = Other([PEERS["floor"]], Settings(rounds=1, scale=0.01, pause=0.0)).run([STEPS["tiny"]], lambda _: None)
    row = report["workloads"]["tiny"]["rows"]["floor"]
    assert row["status"] == "disagrees"
    assert row["seconds"] == []
    assert failures(report) == ["floor on tiny: disagrees"]


@pytest.mark.parametrize("got", [2.1, math.nan])
def test_disagreement_names_the_number(got: float) -> None:
    assert disagreement({"losses": [1.0, 2.0]}, {"losses": [1.0005, 2.0], "norms": [1.0]}) == ""
    assert "losses[1]" in disagreement({"losses": [1.0, got]}, {"losses": [1.0, 2.0]})


def test_unknown_names_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--workload", "huge"], ["--peers", "abacus"]):
        with pytest.raises(SystemExit) as error:
            cpu.main(arguments)
        assert error.value.code == 2
        assert "known are" in capsys.readouterr().err


@pytest.mark.parametrize("name", ALL)
def test_workload_is_the_same_every_time_and_has_many_batches(name: str, tmp_path: Path) -> None:
    first, again = STEPS[name].make(), STEPS[name].make()
    again.save(tmp_path / "problem.npz")
    loaded = Problem.load(tmp_path / "problem.npz")
    for a, b in zip([first.x, first.labels, *first.weights], [loaded.x, loaded.labels, *loaded.weights], strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({x.tobytes() for x, _ in first.batches}) >= 32
    assert set(np.unique(first.labels)) == set(range(STEPS[name].sizes[-1]))


def test_reference_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    weights = [near_identity(rng, 4, 5), near_identity(rng, 5, 3)]
    x, labels = rng.random((6, 4)) + 0.5, rng.integers(0, 3, 6)
    reference = Reference(weights)
    reference.step(x, labels)
    for index, weight in enumerate(weights):
        direction, eps = rng.standard_normal(weight.shape), 1e-6
        low, high = (
            Reference([w + sign * eps * direction if i == index else w for i, w in enumerate(weights)]).step(x, labels)
            for sign in (-1, 1)
        )
        expected = np.vdot(reference.gradients[index], direction)
        assert (high - low) / (2 * eps) == pytest.approx(expected, rel=1e-6)


def test_children_get_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "BPNET_BACKEND"):
        monkeypatch.setenv(name, "odd")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment, removed = machine.clean_environment(2)
    assert {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE", "BPNET_BACKEND"} <= set(removed)
    assert "odd" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"


# --- against another revision ---


def revisions() -> bool:
    """Whether this is a checkout of git with a commit."""
    return machine.commit() is not None


@pytest.mark.skipif(not revisions(), reason="no checkout of git")
def test_two_trees_are_measured_each_with_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    arguments = ["--against", "HEAD", "--quick", "--rounds", "2", "--case", "step-tiny", "--case", "fit-tiny"]
    assert revision.main([*arguments, "--threads", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["against"] == revision.resolve("HEAD")
    sources = {name: facts["sources"] for name, facts in report["peers"].items()}
    assert sources["bpnet"] == sources["again"]
    assert not set(sources["bpnet"]) & set(sources["revision"])
    assert not any(str(machine.ROOT) in path for paths in sources.values() for path in paths)
    for row in report["comparison"].values():
        assert row["rounds"] == 2
        assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]
        assert all(math.isfinite(each) and each > 0 for each in [row["noise"], *row["microseconds"].values()])
    assert "this/revision" in capsys.readouterr().out
    assert revision.slower(report["comparison"], 1e-9) == [
        f"{name}: {row['ratio']:.3f} of the revision's time, more than 1e-09"
        for name, row in report["comparison"].items()
    ]
    assert revision.slower(report["comparison"], 1e9) == []


@pytest.mark.skipif(not revisions(), reason="no checkout of git")
def test_a_revision_or_case_that_is_not_there_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--against", "no-such-branch"], ["--against", "HEAD", "--case", "huge"], []):
        with pytest.raises(SystemExit) as error:
            revision.main(arguments)
        assert error.value.code == 2
    assert "git knows no revision 'no-such-branch'" in capsys.readouterr().err


def test_code_from_elsewhere_fails_the_peer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    report = {"peers": {"bpnet": {"status": "ok", "sources": [str(tree / "bpnet" / "__init__.py"), "/elsewhere/b.py"]}}}
    revision._check_sources(report, {"bpnet": tree})
    assert report["peers"]["bpnet"]["status"] == "failed"
    assert "was read from /elsewhere/b.py" in str(report["peers"]["bpnet"]["error"])


def test_rounds_of_several_starts_are_pooled() -> None:
    def report(*seconds: float) -> dict[str, Any]:
        row = {"status": "ok", "error": "", "seconds": list(seconds), "ratios": [2 * s for s in seconds]}
        return {"rows": {"bpnet": row}, "rounds": len(seconds)}

    known: dict[str, Any] = {}
    for found in (report(1.0, 2.0), report(3.0)):
        revision._pool(known, "case", found)
    assert known["case"]["rounds"] == 3
    assert known["case"]["rows"]["bpnet"]["ratios"] == [2.0, 4.0, 6.0]
    failed = report()
    failed["rows"]["bpnet"] |= {"status": "failed", "error": "why"}
    revision._pool(known, "case", failed)
    assert (known["case"]["rows"]["bpnet"]["status"], known["case"]["rows"]["bpnet"]["error"]) == ("failed", "why")
