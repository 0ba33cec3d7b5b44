"""The benchmarks' machinery on short runs: the structure of what it reports, never a time."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from benchmarks import (
    cpu,
    goals,
    gpt,
    growth,
    images,
    lstm,
    machine,
    overhead,
    page,
    profile,
    programs,
    report,
    revision,
    roofline,
    threads,
)
from benchmarks.harness import Harness, Settings, failures
from benchmarks.metrics import METRICS, disagreement
from benchmarks.peers import PEERS, PeerSpec
from benchmarks.peers.network import NetworkPeer
from benchmarks.reference import Reference, softmax
from benchmarks.report import without_paths
from benchmarks.workloads import INFERENCES, STEPS, WORKLOADS, Problem, near_identity

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


def test_the_least_time_of_the_machine_stands_beside_the_floor(quick: dict[str, Any]) -> None:
    bound = quick["workloads"]["tiny"]["roofline"]
    assert bound["flops"] == 2 * 32 * (2 * 4 * 16 + 3 * 16 * 3)  # the first layer has no dx
    assert bound["bytes"] == 4 * 32 * 4 + 24 * (5 * 16 + 17 * 3)
    assert bound["working_set"] == roofline.SMALLEST_SET
    assert bound["flops_per_second"] > 0
    assert bound["bytes_per_second"] > 0
    assert bound["seconds"] == roofline.least_seconds(flops=bound["flops"], bytes=bound["bytes"], rates=bound)


def test_least_time_is_the_larger_of_arithmetic_and_traffic() -> None:
    rates = {"flops_per_second": 10.0, "bytes_per_second": 2.0}
    assert roofline.least_seconds(flops=50, bytes=4, rates=rates) == 5.0
    assert roofline.least_seconds(flops=5, bytes=4, rates=rates) == 2.0


def test_inference_needs_the_forward_products_and_one_look_at_the_parameters() -> None:
    one = INFERENCES["one"]
    assert one.parameters == 785 * 512 + 513 * 512 + 513 * 10
    assert one.flops == 2 * (784 * 512 + 512 * 512 + 512 * 10)
    assert one.bytes_moved == 4 * (784 + one.parameters)


def test_goals_of_a_quick_run_are_computed_where_it_measured_something(quick: dict[str, Any]) -> None:
    assert len(quick["goals"]) == len(goals.GOALS)
    tiny = quick["goals"][0]
    assert (tiny["workload"], tiny["against"], tiny["ratio"]) == ("tiny", None, None)


def results_of(**seconds: list[float]) -> dict[str, Any]:
    roles = {"bpnet": "ours", "bpnet-plain": "ours", "floor": "floor"}
    return {
        "rows": {
            name: {"title": name.upper(), "role": roles.get(name, "peer"), "status": "ok", "seconds": each}
            for name, each in seconds.items()
        }
    }


def test_goals_are_medians_of_the_rounds_ratios_to_the_fastest_peer() -> None:
    tiny = results_of(
        **{"bpnet": [1.0, 2.0, 9.0], "bpnet-plain": [5.0, 6.0, 6.5]}, fast=[4.0, 5.0, 6.0], slow=[9.0] * 3
    )
    tiny["rows"]["fastest"] = {"title": "", "role": "peer", "status": "disagrees", "seconds": [0.1]}
    mnist = results_of(bpnet=[13.0] * 3, floor=[10.0] * 3, fast=[10.0] * 3)
    peers = {"bpnet": {"versions": {"numba": "0"}}}
    found = goals.judge(
        [{"workloads": {"tiny": tiny}, "peers": peers}, {"workloads": {"mnist": mnist}, "peers": peers}]
    )
    by_goal = {(each["workload"], each["against"]): each for each in found if each["ratio"] is not None}
    assert by_goal["tiny", "FAST"]["ratio"] == 0.4
    assert by_goal["tiny", "FAST"]["reached"] == "goal"
    assert by_goal["tiny", "FAST"]["plain_ratio"] == 1.2
    assert by_goal["tiny", "FAST"]["plain_reached"] == "least"
    assert by_goal["mnist", "FLOOR"]["reached"] == "least"
    assert by_goal["mnist", "FAST"]["reached"] == "no"
    assert by_goal["mnist", "FAST"]["plain_ratio"] is None
    assert len(by_goal) == 3
    text = goals.table(found).splitlines()
    assert text[1].split() == ["tiny", "FAST", "0.40", "0.40", "0.60", "goal", "1.20", "1.20", "least"]
    assert text[2].split() == ["spiral", "-", "-", "0.40", "0.60", "-", "-", "1.20", "-"]


def test_a_run_without_numba_says_nothing_about_the_goals_with_it() -> None:
    tiny = results_of(**{"bpnet": [1.0], "bpnet-plain": [1.0]}, fast=[4.0])
    found = goals.judge([{"workloads": {"tiny": tiny}, "peers": {"bpnet": {"versions": {"numpy": "2"}}}}])[0]
    assert (found["ratio"], found["reached"], found["plain_reached"]) == (None, None, "least")


def test_memory_has_its_own_best_peer() -> None:
    job = results_of(bpnet=[1.0], quick=[2.0], small=[9.0])
    for name, memory in (("bpnet", 3), ("quick", 8), ("small", 4)):
        job["rows"][name]["memory"] = [memory]
    found = goals.judge([{"workloads": {"job": job}, "peers": {"bpnet": {"versions": {"numba": "0"}}}}])
    time, memory = (each for each in found if each["workload"] == "job")
    assert (time["against"], time["ratio"]) == ("QUICK", 0.5)
    assert (memory["against"], memory["ratio"]) == ("SMALL", 0.75)


def test_saved_reports_can_be_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, against in (("tiny", "fast"), ("import", "numpy")):
        content = {"workloads": {name: results_of(bpnet=[1.0], **{against: [1.0]})}, "peers": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert goals.main([str(tmp_path / "tiny.json"), str(tmp_path / "import.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["import", "NUMPY", "1.00", "1.30", "1.50", "goal", "1.00", "1.50", "least"]


@pytest.mark.lenient  # strict mode watches every call, so that no inference is planned
def test_a_profile_names_every_call_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main(["--workload", "digits", "--workload", "many", "--seconds", "0.01"]) == 0
    step, inference = capsys.readouterr().out.split("\n\n")[:2]
    assert step.startswith("digits 64-128-10, batch 64: ")
    assert sum("GFLOP/s" in line for line in step.splitlines()) == 5  # two forward, dW and dx, and dW of the first
    assert sum("GFLOP/s" in line for line in inference.splitlines()) == 3


def test_overhead_reports_a_slope_for_both_metrics(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["--quick", "--rounds", "1", "--depths", "1", "2", "--peers", "bpnet", "--json", str(path)]
    assert overhead.main(arguments) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["overhead"]
    for metric in ("step", "inference"):
        assert len(found[metric]["bpnet"]["seconds"]) == 2
        assert math.isfinite(found[metric]["bpnet"]["per_layer"])


def test_growth_reports_times_and_memory_by_what_grows(tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    arguments = ["--quick", "--rounds", "1", "--peers", "bpnet", "--threads", "1", "--json", str(path)]
    assert growth.main(arguments) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert list(report["growth"]) == ["batch", "width", "depth"]
    for axis in report["growth"].values():
        ours = axis["peers"]["bpnet"]
        assert len(axis["values"]) == len(ours["seconds"]) == len(ours["bytes"]) == 2
        assert all(seconds > 0 for seconds in ours["seconds"])
        assert sys.platform != "linux" or all(held > 0 for held in ours["bytes"])
    assert sys.platform != "linux" or math.isfinite(report["growth"]["width"]["peers"]["bpnet"]["bytes_per_parameter"])
    assert "| bpnet, MiB |" in page.growth_table(report)
    assert page.parameter_table(report).startswith("|  | bytes a parameter |")


def test_a_network_is_measured_by_the_harness_and_its_report_makes_a_column_and_a_goal(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["--quick", "--rounds", "1", "--count", "4", "--peers", "bpnet,floor", "--threads", "1"]
    assert images.main([*arguments, "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    workload = found["workloads"]["cnn"]
    assert workload["compared"] == {"losses": 8}
    losses = workload["rows"]["bpnet"]["checked"]["losses"]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert "losses" not in workload["rows"]["floor"]["checked"]
    assert [goal["workload"] for goal in found["goals"]] == ["cnn"]
    shown = page.network_table(found)
    assert f"| µs | {images.NETWORK.title} |" in shown
    assert f"| bpnet | {page.spread(workload['rows']['bpnet'])} |" in shown


@pytest.mark.parametrize("network", [gpt, lstm], ids=["gpt", "lstm"])
def test_bpnet_trains_the_networks_of_text_as_it_does_in_float64(network: Any) -> None:
    problem = replace(network.NETWORK, n_batches=8).make()
    peer = NetworkPeer(1, network.NETWORK.module, "Ours")
    peer.load(problem)
    metric = METRICS["network"]
    found = metric.check(peer)
    assert len(found["losses"]) == 8
    assert disagreement(found, metric.expected(problem), 1e-4) == ""


def test_products_of_the_networks_are_those_of_their_layers() -> None:
    flops = {network.NETWORK.name: network.NETWORK.flops for network in (images, gpt, lstm)}
    dense = 6 * 64 * (7 * 7 * 32 * 128 + 128 * 10)
    assert flops["cnn"] == 4 * 64 * 28 * 28 * 9 * 16 + 6 * 64 * 14 * 14 * 9 * 16 * 32 + dense
    attention = 2 * 6 * 2 * 16 * 64 * 64 * 128
    assert flops["gpt"] == 6 * 1024 * (2 * 12 * 128 * 128 + 128 * 65) + attention
    steps = 63 * 4 * 32 * 128 * 512  # of the state: forward, and dh
    assert flops["lstm"] == 8 * 2048 * 128 * 512 + steps + 6 * 2048 * 128 * 65


def test_a_problem_keeps_the_names_of_its_weights(tmp_path: Path) -> None:
    problem = images.NETWORK.make()
    problem.save(tmp_path / "problem.npz")
    assert Problem.load(tmp_path / "problem.npz").names == problem.names
    assert problem.names[:3] == ("images", "0.weight", "0.bias")


def test_bytes_a_parameter_are_the_slope_over_the_widths_that_were_measured() -> None:
    points = {axis: pairs for axis, pairs in growth.sweeps().items() if axis == "width"}
    names = [workload.name for _, workload in points["width"]]
    sizes = {workload.name: workload.parameters for _, workload in points["width"]}
    found = growth.summarize(
        {
            "peers": {"ours": {}, "other": {}},
            "workloads": {name: {"rows": {"ours": {"median": 1.0}, "other": {}}} for name in names},
            "memory": {name: {"ours": {"bytes": 1000 + 16 * sizes[name]}} for name in names[-3:]},
        },
        points,
    )
    assert found["width"]["peers"]["ours"]["bytes_per_parameter"] == pytest.approx(16)
    assert found["width"]["peers"]["ours"]["bytes"][:2] == [None, None]
    assert "bytes_per_parameter" not in found["width"]["peers"]["other"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process held at most")
def test_memory_above_what_was_there_before_is_what_was_taken() -> None:
    before = machine.memory_now(reset_peak=True)
    held = np.ones(8 * 2**20)  # 64 MiB
    del held
    taken = machine.memory_peak() - before
    assert 60 * 2**20 < taken < 90 * 2**20


def test_threads_are_compared_on_every_product_and_set_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "threads.json"
    assert threads.main(["--quick", "--busy", "0", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert list(report["tables"]) == ["0", "1"]
    for rows in report["tables"].values():
        assert len(rows) == 3 * 3
        assert {row["narrow"] for row in rows} == {True, False}
        assert all(row[key] > 0 for row in rows for key in ("one", "all", "rule"))
    assert "1 other programs" in capsys.readouterr().out
    assert page.thread_table(report).count("\n") == 1 + 3 * 3


def test_single_ops_are_measured_both_ways_and_make_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import ops

    file = tmp_path / "ops.json"
    run = ["--op", "prelu", "--op", "prelu, backward", "--peers", "bpnet-plain", "--quick", "--rounds", "1"]
    assert ops.main([*run, "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [each["rows"]["bpnet-plain"]["status"] for each in report["workloads"].values()] == ["ok", "ok"]
    assert "prelu, backward" in capsys.readouterr().out
    lines = page.table("ops", {"ops": report}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| prelu: 64x28x28x64", "| prelu, backward: 64x28x28x64"]


def test_every_op_has_a_reference_and_a_name_for_each_way() -> None:
    from benchmarks import op_cases
    from bpnet import ops

    for name in op_cases.names():
        case, backward = op_cases.of(name)
        assert hasattr(ops, case.backward if backward else case.forward)
        assert not backward or case.wrt


def test_the_page_says_what_the_reports_say() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.render(text, page.load()) == text, "python -m benchmarks.page writes the tables of docs/performance.md"
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == set(page.TABLES)


def test_a_table_of_the_page_has_the_numbers_of_its_report(quick: dict[str, Any]) -> None:
    text = "before\n<!-- table: steps -->\nold\n<!-- end -->\nafter\n"
    found = page.render(text, {"steps": quick})
    ours = quick["workloads"]["tiny"]["rows"]["bpnet"]
    low, middle, high = (f"{1e6 * ours[key]:,.1f}" for key in ("min", "median", "max"))
    assert "| µs | tiny 4-16-3, batch 32 |" in found
    assert f"| bpnet | {middle} ({low} to {high}) |" in found
    assert "old" not in found
    assert found.startswith("before\n")
    assert found.endswith("<!-- end -->\nafter\n")
    assert page.render(found, {"steps": quick}) == found


def test_the_whole_report_stands_for_its_pieces_until_they_are_there(tmp_path: Path, quick: dict[str, Any]) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(quick), encoding="utf-8")
    assert set(page.load(tmp_path)) == {"steps", "inference", "programs"}
    (tmp_path / "steps.json").write_text(json.dumps(quick | {"date": "2000-01-01T00:00:00Z"}), encoding="utf-8")
    found = page.load(tmp_path)
    assert found["steps"]["file"] == "steps.json"
    text = page.runs(found).splitlines()
    assert [line.split(" | ")[0] for line in text[2:4]] == ["| steps.json", "| cpu.json"]
    assert "2000-01-01 00:00" in text[2]
    assert "- `floor`: numpy" in page.runs(found)


def test_what_was_not_measured_is_named_with_its_command() -> None:
    assert page.table("growth", {}) == (
        "Not measured yet: `python -m benchmarks.growth --json benchmarks/results/growth.json`"
    )
    assert page.table("job", {"programs": {"workloads": {}}}).startswith("Not measured yet: `python -m benchmarks.cpu ")
    with pytest.raises(KeyError):
        page.render("<!-- table: nothing -->\n<!-- end -->", {})


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


def test_a_peer_may_need_a_program_or_another_interpreter(tmp_path: Path) -> None:
    spec = PeerSpec("one-two", "", "floor:Floor", ("json",), commands=("no-such-compiler", "no-such-other"))
    assert spec.missing() == ["no-such-compiler or no-such-other"]
    elsewhere = tmp_path / "python"
    elsewhere.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    elsewhere.chmod(0o755)
    assert PEERS["floor"].missing(str(elsewhere)) == [f"an interpreter that starts: {elsewhere}"]
    settings = Settings(pythons={"one": "here", "one-other": "there"})
    assert settings.python_of(spec) == "here"
    assert settings.python_of(PeerSpec("one-other", "", "", ())) == "there"
    assert settings.python_of(PEERS["floor"]) == sys.executable


def test_a_slow_peer_does_fewer_steps_in_a_turn() -> None:
    settings = Settings(rounds=1, scale=1.0, seconds=1e-4, pause=0.0)
    row = Harness([PEERS["floor"]], settings).run([STEPS["tiny"]], lambda _: None)["workloads"]["tiny"]["rows"]["floor"]
    assert 4 <= row["count"] < STEPS["tiny"].count


def test_a_variable_of_one_peer_reaches_no_other() -> None:
    specs = [replace(PEERS["floor"], environment={"PYTHONHOME": "/no/such/place"}), PEERS["bpnet"]]
    found = Harness(specs, Settings(rounds=1, scale=0.01, pause=0.0)).run([STEPS["tiny"]], lambda _: None)
    assert [facts["status"] for facts in found["peers"].values()] == ["failed", "ok"]
    assert "/no/such/place" in found["peers"]["floor"]["error"]


def test_scikit_learn_trains_the_same_network() -> None:
    found = Harness([PEERS["sklearn"]], Settings(rounds=1, scale=0.01, pause=0.0)).run(
        [STEPS["tiny"], replace(INFERENCES["one"], sizes=(64, 8, 10), draw=STEPS["digits"].draw)], lambda _: None
    )
    assert failures(found) == []
    checked = found["workloads"]["tiny"]["rows"]["sklearn"]["checked"]
    expected = METRICS["step"].expected(STEPS["tiny"].make())
    np.testing.assert_allclose(checked["losses"], expected["losses"], rtol=PEERS["sklearn"].tolerance)
    assert "probabilities norms" in found["workloads"]["one"]["rows"]["sklearn"]["checked"]


def test_softmax_rows_add_up_to_1_however_large_the_logits_are() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3.0)]])), [[0.5, 0.5], [0.25, 0.75]])


def test_the_whole_job_is_timed_from_outside_and_its_memory_is_above_the_data() -> None:
    broken = PeerSpec("broken", "ends with an error", "no_such_program", ())
    absent = PeerSpec("absent", "a library nobody has", "ours", ("no_such_library_of_anyone",))
    found = programs.run_job([programs.JOBS["bpnet"], broken, absent], Settings(rounds=2, pause=0.0), quick=True)
    rows = found["rows"]
    assert [row["status"] for row in rows.values()] == ["ok", "failed", "not installed"]
    assert "No module named benchmarks.jobs.no_such_program" in rows["broken"]["error"]
    assert found["data_bytes"] == 6000 * (784 * 4 + 8)
    assert len(rows["bpnet"]["seconds"]) == len(rows["bpnet"]["memory"]) == 2
    assert rows["bpnet"]["memory_median"] > 10 * 2**20
    assert rows["bpnet"]["accuracy"][0] == rows["bpnet"]["accuracy"][1] > 0.7
    assert "MiB above data" in report.table(found)


def test_the_job_says_where_its_data_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Any:
        raise bp.errors.DataError("not here; install it")

    monkeypatch.setattr("bpnet.data.load", nothing)
    rows = programs.run_job([programs.JOBS["bpnet"]], Settings(rounds=1), quick=False)["rows"]
    assert (rows["bpnet"]["status"], rows["bpnet"]["error"]) == ("not measured", "not here; install it")


def test_imports_are_timed_inside_of_a_fresh_interpreter() -> None:
    specs = [programs.IMPORTS["bpnet"], programs.IMPORTS["numpy"]]
    found = programs.run_imports(specs, Settings(rounds=1, pause=0.0))
    assert all(len(row["seconds"]) == 1 and 0 < row["seconds"][0] < 60 for row in found["rows"].values())
    assert found["rows"]["numpy"]["ratio"] > 0


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
    assert disagreement({"losses": [1.0, 2.0]}, {"losses": [1.0005, 2.0], "norms": [1.0]}, 1e-3) == ""
    assert "losses[1]" in disagreement({"losses": [1.0, got]}, {"losses": [1.0, 2.0]}, 1e-2)


def test_a_peer_that_has_too_few_numbers_disagrees_and_one_that_has_more_does_not() -> None:
    assert disagreement({"losses": [1.0]}, {"losses": [1.0, 2.0]}, 1e-2) == "1 losses, the reference has 2"
    assert disagreement({"losses": [1.0, 2.0, 9.0]}, {"losses": [1.0, 2.0]}, 1e-2) == ""


def test_every_step_is_compared_where_float32_determines_it() -> None:
    for name in ("tiny", "spiral", "digits"):
        assert len(METRICS["step"].expected(STEPS[name].make())["losses"]) == 20
    for _, workload in growth.sweeps()["depth"][:4]:
        assert len(METRICS["step"].expected(workload.make())["losses"]) == 20


def test_steps_that_rounding_decides_are_not_compared_and_too_few_are_an_error() -> None:
    deep = growth.sweeps()["depth"][-1][1]
    expected = METRICS["step"].expected(deep.make())
    assert 6 <= len(expected["losses"]) < 20
    rounded = Reference(deep.make().weights, "float32")
    losses = [rounded.step(x, labels) for x, labels in deep.make().batches[:20]]
    assert disagreement({"losses": losses}, expected, 1e-5) == ""
    noisy = replace(deep, sizes=(64, *(128,) * 64, 10), weights=near_identity)
    with pytest.raises(ValueError, match=r"float32 determines only \d losses of this network"):
        METRICS["step"].expected(noisy.make())


def test_the_reference_in_float32_stays_in_float32() -> None:
    reference = Reference([np.ones((3, 4), np.float32), np.ones((4, 2), np.float32)], "float32")
    assert np.isfinite(reference.step(np.ones((5, 3), np.float32), np.zeros(5, np.int64)))
    arrays = [*reference.parameters, *reference.m, *reference.v, *reference.gradients, *reference.derivatives]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


def test_unknown_names_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--workload", "huge"], ["--peers", "abacus"], ["--python", "aether"]):
        with pytest.raises(SystemExit) as error:
            cpu.main(arguments)
        assert error.value.code == 2
        message = capsys.readouterr().err
        assert "known are" in message or "must be PEER=PATH of an interpreter, got 'aether'" in message


def test_a_name_stands_for_one_workload() -> None:
    assert len(WORKLOADS) == len(STEPS) + len(INFERENCES)
    assert all(name == workload.name for name, workload in WORKLOADS.items())


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
def test_two_trees_are_measured_each_with_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sources, check = tmp_path / "report.json", dict[str, list[str]](), revision._check_sources

    def looked_at(report: dict[str, Any], places: dict[str, Path]) -> None:
        sources.update({name: facts["sources"] for name, facts in report["peers"].items()})
        check(report, places)

    monkeypatch.setattr(revision, "_check_sources", looked_at)
    arguments = ["--against", "HEAD", "--quick", "--rounds", "2", "--case", "step-tiny", "--case", "fit-tiny"]
    assert revision.main([*arguments, "--threads", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["against"] == revision.resolve("HEAD")
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


def test_no_report_holds_a_path_of_the_machine_that_made_it() -> None:
    assert without_paths({"a": ["/home/me/tree/bpnet/__init__.py", 3.0], "b": "[('x', '/opt/e/bin/python')]"}) == {
        "a": ["bpnet/__init__.py", 3.0],
        "b": "[('x', 'bin/python')]",
    }
    assert without_paths("benchmarks/results/steps.json, 1/2 of it") == "benchmarks/results/steps.json, 1/2 of it"
    for file in (machine.ROOT / "benchmarks" / "results").glob("*.json"):
        report = json.loads(file.read_text("utf-8"))
        assert report == without_paths(report), file.name
