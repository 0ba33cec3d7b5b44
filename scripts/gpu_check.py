"""Check bpnet on this machine's GPU: tests, audits, bits, benchmarks. `python scripts/gpu_check.py`, under 8 minutes.

It writes what it found to docs/gpu-status.md, between the marks there, and to benchmarks/results/. A part that takes
longer than its share of the time is stopped, and what it has found until then counts. Where no GPU can be used it
writes nothing, says why, and returns 2; 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for _path in (ROOT / "backends", ROOT):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

import numpy as np  # noqa: E402

import bpnet as bp  # noqa: E402

STATUS = ROOT / "docs" / "gpu-status.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- gpu_check begins -->", "<!-- gpu_check ends -->"
MINUTES = 8.0
GRACE = 20.0  # seconds that a part which is stopped has to write down what it has
FIRST = ("tests/test_on_gpu.py", "tests/test_gpu_kernels.py")  # they say most of what else may fail
TESTS = {"tests of the GPU": FIRST, "tests of backends": ("tests", *(f"--ignore={path}" for path in FIRST))}
SHARES = {
    "tests of the GPU": 0.2,
    "tests of backends": 0.25,
    "benchmark": 0.3,
    "convolutions": 0.15,
}  # of the time, at most
WORKLOADS = ("mlp-small", "mnist", "mlp-large-tf32", "mlp-large-bf16", "input")
NO_GPU = 2


@dataclass
class Finding:
    """One check: what was looked at, whether it is right, what was seen, and how long it took."""

    what: str
    passed: bool
    seen: str
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python scripts/gpu_check.py", description=__doc__)
    parser.add_argument("--backend", default="cupy", help="what to check (default cupy); 'numpy' shows that it runs")
    parser.add_argument("--only", action="append", choices=("tests", "checks", "benchmark"), help="may be repeated")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"that it may take (default {MINUTES:g})")
    parser.add_argument("--status", type=Path, default=STATUS, help="the page to write into")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the JSON file")
    arguments = parser.parse_args(argv)
    try:
        backend = bp.get_backend(arguments.backend)
    except bp.BackendError as error:
        print(f"There is no usable GPU, so nothing was checked and nothing was written.\n{error}", file=sys.stderr)
        return NO_GPU
    parts = arguments.only or ["checks", "tests", "benchmark"]
    started, seconds = time.monotonic(), 60 * arguments.minutes
    report = facts(backend)
    print("\n".join(f"{name}: {text}" for name, text in report.items()), flush=True)
    findings: list[Finding] = []
    if "checks" in parts:
        findings += run_checks(backend)
    if "tests" in parts:
        for what, paths in TESTS.items():
            log = arguments.results / f"gpu-check-{what.replace(' ', '-')}.txt"
            findings.append(shown(run_tests(what, _left(started, what, seconds), gpu_tests(paths), log)))
    if "benchmark" in parts:
        finding, report["benchmark"] = run_benchmark(backend, _left(started, "benchmark", seconds))
        findings.append(shown(finding))
        finding, report["convolutions"] = run_convolutions(backend, _left(started, "convolutions", seconds))
        findings.append(shown(finding))
    report["seconds"] = round(time.monotonic() - started, 1)
    report["findings"] = [asdict(each) for each in findings]
    write(report, findings, arguments.status, arguments.results)
    return 0 if all(each.passed for each in findings) else 1


def _left(started: float, part: str, seconds: float) -> float:
    """The seconds that a part may take, of all."""
    return max(30.0, min(seconds * SHARES[part], seconds - (time.monotonic() - started) - 10))


def facts(backend: bp.Backend) -> dict[str, Any]:
    """Device, driver, versions, commit and date: without them no finding means anything."""
    from benchmarks import machine

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": machine.commit(),
        "bpnet": bp.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "system": platform.platform(),
        "backend": backend.name,
        **{"version of the backend" if name == "version" else name: text for name, text in backend.describe().items()},
    }


# --- checks of our own ---


def network(rate: float = 0.3) -> bp.Layer:
    hidden = [bp.Dense(64, 96), bp.ReLU(), bp.Dropout(rate), bp.Dense(96, 32), bp.GELU("tanh")]
    return bp.Sequential(*hidden, bp.Dense(32, 10))


def trainer(backend: bp.Backend | str, **options: Any) -> bp.Trainer:
    """A Trainer whose numbers are a function of the seed, wherever it is."""
    optimizer = bp.AdamW(bp.Cosine(3e-3, 400, warmup=5), weight_decay=0.01, clip_norm=5.0)
    return bp.Trainer(network(), bp.SoftmaxCrossEntropy(), optimizer, backend=backend, seed=7, **options)


def batches(n: int, size: int = 64) -> list[tuple[Any, Any]]:
    train, _ = bp.data.load("digits")
    starts = [(i * size) % (len(train) - size) for i in range(n)]
    return [(train.x[start : start + size], train.y[start : start + size]) for start in starts]


def state(found: bp.Trainer) -> dict[str, bytes]:
    return {name: bp.to_numpy(array).tobytes() for name, array in found.model.store.arrays().items()}


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> str:
    return ", ".join(name for name in a if a[name] != b.get(name))


def the_backend_keeps_the_protocol(backend: bp.Backend) -> str:
    from bpnet.testing import BACKEND_CHECKS, check_backend

    check_backend(backend)
    return f"{len(BACKEND_CHECKS)} checks of bpnet.testing.check_backend"


def weights_and_masks_at_step_0_are_numpys_to_the_bit(backend: bp.Backend) -> str:
    found, expected = trainer(backend), trainer("numpy")
    for path, parameter in expected.model.parameters().items():
        own = bp.to_numpy(found.model.parameters()[path].value)
        assert own.tobytes() == bp.to_numpy(parameter.value).tobytes(), f"{path} differs"
    x, _ = batches(1)[0]
    masks = []
    for each in (found, expected):
        each.model.forward(each.model.asarray(x))
        mask, *_ = dict(each.model.walk())["2"]._kept or (None,)
        masks.append(bp.to_numpy(mask).tobytes())
    assert masks[0] == masks[1], "the masks of dropout differ"
    return f"{expected.model.n_parameters} parameters and {len(masks[0])} bytes of masks"


def losses_stay_within_1e_4_of_numpys_over_100_steps(backend: bp.Backend) -> str:
    given = batches(100)
    trainers = trainer(backend), trainer("numpy")
    both = [np.array([float(bp.to_numpy(each.step(x, y))) for x, y in given]) for each in trainers]
    off = float(np.max(np.abs(both[0] - both[1])))
    assert off <= 1e-4, f"the largest difference is {off:.3g}"
    return f"largest difference {off:.2g}, last loss {both[0][-1]:.4f}"


def two_runs_are_equal_byte_for_byte(backend: bp.Backend) -> str:
    runs = []
    for _ in range(2):
        one = trainer(backend)
        losses = [bp.to_numpy(one.step(x, y)).tobytes() for x, y in batches(60)]
        runs.append((losses, state(one)))
    assert runs[0][0] == runs[1][0], "the losses differ"
    assert not (names := differing(runs[0][1], runs[1][1])), f"{names} differ"
    return "60 losses and the whole store"


def graphs_calls_and_eager_steps_are_equal_byte_for_byte(backend: bp.Backend) -> str:
    sizes = (64, 64, 41)
    given = [(x[: sizes[i % 3]], y[: sizes[i % 3]]) for i, (x, y) in enumerate(batches(30))]
    runs = {}
    for how, options in (("graph", {}), ("calls", {"capture": "off"}), ("eager", {"plan": False})):
        one = trainer(backend, **options)
        runs[how] = [bp.to_numpy(one.step(x, y)).tobytes() for x, y in given], state(one), one.plan_report()
    for how in ("graph", "calls"):
        assert runs[how][0] == runs["eager"][0], f"{how}: the losses differ from eager ones"
        assert not (names := differing(runs["eager"][1], runs[how][1])), f"{how}: {names} differ"
    report = runs["graph"][2]
    captured = report.count("captured as one graph")
    if hasattr(backend, "capture"):
        assert captured == 2, f"of 2 shapes {captured} were captured: {report.splitlines()[0]}"
    return f"30 steps of 2 shapes, {captured} captured"


def bfloat16_has_masters_in_float32_and_the_bits_of_eager_steps(backend: bp.Backend) -> str:
    given, runs = batches(60), {}
    for how, options in (("graph", {}), ("calls", {"capture": "off"}), ("eager", {"plan": False})):
        one = trainer(backend, precision="bf16", **options)
        losses = [bp.to_numpy(one.step(x, y)).tobytes() for x, y in given]
        runs[how] = losses, state(one)
        store = one.model.store
        values, copies = bp.to_numpy(store.values), bp.to_numpy(store.compute)
        assert np.array_equal(copies, bp.ops.to_bf16(values[: len(copies)])), f"{how}: a copy is not its value rounded"
    for how in ("graph", "calls"):
        assert runs[how][0] == runs["eager"][0], f"{how}: the losses differ from eager ones"
        assert not (names := differing(runs["eager"][1], runs[how][1])), f"{how}: {names} differ"
    emulated = trainer("numpy", precision="bf16")
    found = [np.frombuffer(bits, np.float32)[0] for bits in runs["eager"][0]]
    off = max(abs(float(a) - float(bp.to_numpy(emulated.step(x, y)))) for a, (x, y) in zip(found, given, strict=True))
    assert off <= 2e-2, f"the largest difference from NumPy's emulation is {off:.3g}"
    return f"60 steps, {len(copies)} copies, losses within {off:.2g} of NumPy's emulation"


def a_resumed_training_is_equal_byte_for_byte(backend: bp.Backend) -> str:
    given = batches(40)
    straight, first = trainer(backend), trainer(backend)
    for x, y in given:
        straight.step(x, y)
    for x, y in given[:20]:
        first.step(x, y)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder) / "state")
        second = trainer(backend)
        second.restore(Path(folder) / "state")
    for x, y in given[20:]:
        second.step(x, y)
    assert not (names := differing(state(straight), state(second))), f"{names} differ"
    return "40 steps, saved and read back after 20"


def audits_pass(backend: bp.Backend) -> str:
    x, y = batches(1, 12)[0]
    seen = []
    for against in (None, "eager", "numpy"):
        model = network().initialize(seed=1, backend=backend)
        found = bp.audit(model, bp.SoftmaxCrossEntropy(), x, y, against=against)
        assert found.passed, f"against {against}: {found}"
        seen.append(f"{against or 'differences'}: {len(found.rows)} rows")
    return "; ".join(seen)


def memory_that_lacks_is_named_and_training_goes_on(backend: bp.Backend) -> str:
    """Only where the device has a pool with a limit."""
    cupy = getattr(backend, "_cupy", None)
    if cupy is None:
        return "not applicable"
    one, untouched = trainer(backend, capture="off"), trainer(backend, capture="off")
    (x, y), *_ = batches(1)
    one.step(x, y)
    untouched.step(x, y)
    pool = cupy.get_default_memory_pool()
    with cupy.cuda.Device(backend.index):  # type: ignore[attr-defined]
        pool.free_all_blocks()
        pool.set_limit(size=max(pool.total_bytes(), 1))
    try:
        many = np.tile(x, (20000, 1))
        one.step(many, np.tile(y, 20000))
    except bp.OutOfMemoryError as error:
        text = str(error)
    else:
        raise AssertionError("1.3 million samples found room under a limit of what was in use")
    finally:
        with cupy.cuda.Device(backend.index):  # type: ignore[attr-defined]
            pool.set_limit(size=0)
    for x, y in batches(3):
        one.step(x, y)
        untouched.step(x, y)
    assert not (names := differing(state(untouched), state(one))), f"{names} differ after it"
    return text


def convolutions_by_cudnn_are_the_references_and_repeat_their_bits(backend: bp.Backend) -> str:
    from bpnet import ops
    from bpnet.ops.windows import Window

    rng, window = np.random.default_rng(0), Window((3, 3), (2, 1), padding=((1, 1), (1, 1)))
    x, W = rng.standard_normal((16, 28, 30, 16), np.float32), rng.standard_normal((3, 3, 16, 32), np.float32)
    dy = rng.standard_normal((16, *window.places(28, 30), 32), np.float32)
    seen = []
    for op, args in ((ops.conv2d, (x, W, None, window, 1)), (ops.conv2d_backward, (dy, x, W, window, 1))):
        own = tuple(backend.asarray(each) if isinstance(each, np.ndarray) else each for each in args)
        found = [v for cls, v in op.variants() if cls is backend.array_type and v.name == "cudnn" and v.accepts(*own)]  # type: ignore[misc]
        if not found:
            return f"cuDNN is not asked: {backend.describe().get('convolutions', 'it is for cupy')}"
        expected, made = (_leaves(body(*given)) for body, given in ((op.reference.body, args), (found[0].body, own)))
        for a, b in zip(made, expected, strict=True):
            error = float(np.max(np.abs(bp.to_numpy(a) - b)) / np.max(np.abs(b)))
            assert error < 3e-5, f"{op.name} is off by {error:.1e} of its largest number"
            seen.append(error)
        for _ in range(10):
            for a, b in zip(_leaves(found[0].body(*own)), made, strict=True):
                assert bp.to_numpy(a).tobytes() == bp.to_numpy(b).tobytes(), f"{op.name} has other bits when repeated"
    return f"off by {max(seen):.1e} of the largest number at most; {backend.describe().get('convolutions', '')}"


def _leaves(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


CHECKS: tuple[Callable[[bp.Backend], str], ...] = (
    the_backend_keeps_the_protocol,
    weights_and_masks_at_step_0_are_numpys_to_the_bit,
    losses_stay_within_1e_4_of_numpys_over_100_steps,
    two_runs_are_equal_byte_for_byte,
    graphs_calls_and_eager_steps_are_equal_byte_for_byte,
    bfloat16_has_masters_in_float32_and_the_bits_of_eager_steps,
    a_resumed_training_is_equal_byte_for_byte,
    convolutions_by_cudnn_are_the_references_and_repeat_their_bits,
    audits_pass,
    memory_that_lacks_is_named_and_training_goes_on,
)


def run_checks(backend: bp.Backend, checks: Sequence[Callable[[bp.Backend], str]] = CHECKS) -> list[Finding]:
    """Each check by itself: one that raises is a finding, and the next is made."""
    findings = []
    for check in checks:
        what, start = check.__name__.replace("_", " "), time.monotonic()
        try:
            passed, seen = True, check(backend)
        except Exception as error:
            passed, seen = False, f"{type(error).__name__}: {error}"
            traceback.print_exc()
        findings.append(shown(Finding(what, passed, seen, time.monotonic() - start)))
    return findings


def shown(finding: Finding) -> Finding:
    """Print it, and give it back."""
    mark = "ok   " if finding.passed else "WRONG"
    print(f"{mark} {finding.what} ({finding.seconds:.1f} s): {finding.seen}", flush=True)
    return finding


# --- tests and benchmark, in processes of their own ---


def ended(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command in the root: its exit code, None where it took too long and was stopped, and what it printed.

    One that is stopped is interrupted first, as by Ctrl-C, so that it can write down what it has.
    """
    # A shell's background jobs ignore interrupts, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            text, _ = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and its children, which hold the pipe too
            text, _ = process.communicate()
        return None, text
    return process.returncode, text


def gpu_tests(paths: Sequence[str]) -> list[str]:
    """Arguments of pytest for the tests that need a GPU, in several processes where pytest-xdist is installed."""
    several = ["-n", str(max(1, min(8, (os.cpu_count() or 2) // 2)))] if find_spec("xdist") else []
    return ["-m", "gpu", *several, *paths]


def run_tests(what: str, seconds: float, arguments: Sequence[str], log: Path) -> Finding:
    """The test suite's tests that need a GPU, which include every test of the fixture `backend` on CuPy.

    log : gets what pytest printed where something failed
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, f"--junitxml={path}"]
        code, printed = ended(command, seconds)
        passed, seen = counted(path.read_text()) if path.exists() else (False, f"no report: {printed[-500:]}")
    if code is None:
        passed, seen = False, f"stopped after {seconds:.0f} s, and what was cut short counts as passed: {seen}"
    elif code:
        passed, seen = False, f"pytest ended with code {code}: {seen}"
    if not passed:
        log.write_text(printed, encoding="utf-8")
        print(f"what pytest printed is in {log}", flush=True)
    return Finding(what, passed, seen, time.monotonic() - start)


def counted(xml: str) -> tuple[bool, str]:
    """Whether a JUnit report is of a run in which something passed and nothing failed; and the numbers."""
    cases = ElementTree.fromstring(xml).findall(".//testcase")
    outcomes = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    for case in cases:
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        outcomes[outcome] += 1
        if outcome == "failed":
            failed.append(case.get("name", ""))
    text = ", ".join(f"{number} {name}" for name, number in outcomes.items())
    names = f": {', '.join(failed[:10])}" if failed else ""
    return bool(outcomes["passed"]) and not failed, f"{text}{names}"


def run_benchmark(backend: bp.Backend, seconds: float) -> tuple[Finding, Any]:
    """benchmarks.gpu on some of its workloads; its whole report comes back too, None where there is none."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--rounds", "5", "--json", str(path)]
        command += [part for name in WORKLOADS for part in ("--workload", name)]
        if backend.name == "numpy":
            command = [*command[:3], "--on", "cpu", "--quick", "--workload", "mlp-small", "--json", str(path)]
        code, printed = ended(command, seconds)
        taken = time.monotonic() - start
        print(printed, flush=True)
        if not path.exists():
            how = f"not done after {seconds:.0f} s" if code is None else f"code {code}"
            return Finding("benchmark", False, f"{how}: {printed[-500:]}", taken), None
        report = json.loads(path.read_text(encoding="utf-8"))
    wrong = "" if code == 0 else f" ({printed.strip()[-300:]})"  # peers that failed, too
    ours = [results["rows"]["bpnet"]["status"] for results in report["workloads"].values()]
    return Finding("benchmark", set(ours) == {"ok"}, f"{ratios(report)}{wrong}", taken), report


def run_convolutions(backend: bp.Backend, seconds: float) -> tuple[Finding, Any]:
    """benchmarks.gpu_convolutions: convolutional nets with cuDNN and without; its report comes back too."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "benchmarks.gpu_convolutions", "--rounds", "3", "--json", str(path)]
        command += ["--backend", backend.name, *(["--quick", "--net", "small"] if backend.name == "numpy" else [])]
        code, printed = ended(command, seconds)
        taken = time.monotonic() - start
        print(printed, flush=True)
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if code is None:
        return Finding("convolutions", False, f"stopped after {seconds:.0f} s: {printed[-500:]}", taken), report
    if code:
        return Finding("convolutions", False, f"code {code}: {printed[-500:]}", taken), report
    return Finding("convolutions", True, "; ".join(printed.splitlines()), taken), report


def ratios(report: dict[str, Any]) -> str:
    """bpnet's time over the best peer's, a workload each."""
    found = []
    for name, results in report["workloads"].items():
        best = results["best_peer"]
        ratio = best and best["ratio"]
        found.append(f"{name}: {ratio:.2f} of {best['title']}" if ratio else f"{name}: no peer was measured")
    return "; ".join(found)


# --- what is written ---


def write(report: dict[str, Any], findings: Sequence[Finding], status: Path, results: Path) -> None:
    """Put the table between the marks of the page, and everything into a JSON file."""
    text = status.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{status} must have the lines {BEGIN} and {END} once; nothing was written")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    name = re.sub(r"[^a-z0-9]+", "-", str(report["device"]).lower()).strip("-")
    path = results / f"gpu-check-{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    status.write_text(f"{before}{BEGIN}\n\n{table(report, findings)}\n\n{END}{after}", encoding="utf-8")
    print(f"wrote {status} and {path}", flush=True)


def table(report: dict[str, Any], findings: Sequence[Finding]) -> str:
    """The findings as Markdown, under a sentence that says where they were made."""
    names = ["date", "commit", "device", "cuda driver", "cuda runtime", "backend", "version of the backend"]
    names += ["python", "numpy"]
    where = "; ".join(f"{name} {report[name]}" for name in names if report.get(name))
    lines = [f"Checked by `scripts/gpu_check.py`: {where}.", "", "| check | | seen |", "|---|---|---|"]
    for each in findings:
        seen = " ".join(each.seen.split()).replace("|", "/")
        lines.append(f"| {each.what} | {'passed' if each.passed else '**failed**'} | {seen[:300]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
