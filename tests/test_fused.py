"""What numba compiles for the NumPy backend: when it is loaded, where it is kept, and that it means the same."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import joined, kernels, load_variants
from bpnet.ops.random import keep_mask

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

compiled = pytest.mark.skipif(bool(fused.why_not()), reason=fused.why_not())


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BPNET_FUSED"} | variables
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )


TRAINING = """
import hashlib, sys, numpy as np, bpnet as bp
model = bp.Sequential(bp.Dense(5, 8), bp.Tanh(), bp.Dropout(0.2), bp.Dense(8, 3))
trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2, clip_norm=1.0), metrics=[bp.Accuracy()])
x = np.random.default_rng(0).standard_normal((40, 5), np.float32)
trainer.fit(x, np.arange(40) % 3, epochs=4, batch_size=8, progress=False)
print(hashlib.sha256(model.store.values.tobytes()).hexdigest(), "numba" in sys.modules)
"""


def test_numba_is_not_loaded_by_what_computes_nothing() -> None:
    done = run(
        "import sys, bpnet as bp\n"
        "model = bp.Sequential(bp.Dense(2, 2), bp.ReLU()).initialize()\n"
        "bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam())\n"
        "print('numba' in sys.modules)"
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_an_environment_variable_turns_them_off() -> None:
    done = run(TRAINING, BPNET_FUSED="0")
    assert done.stdout.split()[-1:] == ["False"], done.stderr


def test_without_numbas_compiler_numpy_computes() -> None:
    done = run(TRAINING, NUMBA_DISABLE_JIT="1")
    assert done.stdout.split()[-1:] == ["False"], done.stderr


def test_a_setting_that_is_neither_0_nor_1_is_refused_and_may_be_mended() -> None:
    done = run(
        "import os, bpnet as bp\n"
        "try:\n    bp.Dense(2, 2).initialize()\n"
        "except bp.BackendError as error:\n    print(error)\n"
        "os.environ['BPNET_FUSED'] = '0'\n"
        "print(bp.get_backend().name)",
        BPNET_FUSED="off",
    )
    said = "the backend 'numpy' (from the default) cannot be used: BPNET_FUSED must be 0 or 1, got 'off'\n"
    assert (done.stdout, done.stderr) == (said + "numpy\n", "")


@compiled
def test_a_training_has_the_same_bits_in_every_process_and_compiles_once(tmp_path: Path) -> None:
    first = run(TRAINING, BPNET_CACHE_DIR=str(tmp_path))
    assert first.stdout.split()[-1:] == ["True"], first.stderr
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len({path.parent.parent for path in files}) == 1
    second = run(TRAINING, BPNET_CACHE_DIR=str(tmp_path))
    assert second.stdout.split()[:1] == first.stdout.split()[:1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


@compiled
def test_a_cache_that_cannot_be_written_or_is_damaged_ends_no_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    code = TRAINING.replace("epochs=4", "epochs=0").replace("print(", "bp.ops.relu(x); print(")
    done = run(code, BPNET_CACHE_DIR=str(file))
    assert done.stdout.split()[-1:] == ["True"], done.stderr
    assert run(code, BPNET_CACHE_DIR=str(tmp_path / "cache")).returncode == 0
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for path in kept:
        path.write_bytes(b"damaged")
    again = run(code, BPNET_CACHE_DIR=str(tmp_path / "cache"))
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


@compiled
def test_the_folder_of_what_is_kept_is_named_by_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bpnet_numpy.fused import machine

    before = machine._key()
    assert machine._key() == before

    def other() -> bool:
        found = machine._key() != before
        monkeypatch.undo()
        return found

    monkeypatch.setattr(machine.np, "__version__", "0.0")
    assert other()
    monkeypatch.setenv("NUMBA_OPT", "2")
    assert other()
    monkeypatch.setattr(machine, "_processor", lambda: ("another", (), ()))
    assert other()
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".numba_config.yaml").write_text("opt: 2")
    assert other()
    for version in ("1.0", "2.0"):
        (tmp_path / "__init__.py").write_text("")
        (tmp_path / "_version.py").write_text(version)
        monkeypatch.setattr(machine, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
        changed, before = machine._key() != before, machine._key()
        assert changed
    monkeypatch.undo()
    (tmp_path / "machine.py").write_text("another source")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert other()
    (tmp_path / "smooth.py").write_text("another series")
    monkeypatch.setattr(machine.OUTSIDE[0], "__file__", str(tmp_path / "smooth.py"))
    assert other()


@compiled
def test_bodies_are_made_of_no_other_sources() -> None:
    from bpnet_numpy.fused import machine

    found = set()
    for path in (Path(machine.__file__).parent / "code").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
    ours = {name for name in found if name.startswith("bpnet") and not name.startswith("bpnet_numpy.fused.")}
    assert ours - {"bpnet_numpy.fused"} == {each.__name__ for each in machine.OUTSIDE}


@compiled
def test_the_processor_is_known_by_its_model_and_instructions() -> None:
    from bpnet_numpy.fused import machine

    name, about, features = machine._processor()
    assert name
    assert about
    assert features
    if sys.platform == "linux" and name == "x86_64":
        assert {"vendor_id", "model", "flags"} <= dict(about).keys()


@compiled
def test_a_whole_step_is_one_call() -> None:
    model = bp.Sequential(bp.Dense(4, 8), bp.ReLU(), bp.Dropout(0.5), bp.Dense(8, 3))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.AdamW(1e-3, clip_norm=1.0))
    x, y = np.ones((6, 4), np.float32), np.arange(6) % 3
    for _ in range(3):
        trainer.step(x, y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    assert len(plan) == 1, trainer.plan_report()


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_are_exact_to_two_units_in_the_last_place(dtype: str) -> None:
    epsilon = np.finfo(dtype).eps
    lowest = -87.0 if dtype == "float32" else -708.0
    x = -np.concatenate([np.geomspace(1e-6, -lowest, 4001), np.linspace(0, 20, 4001)])
    x = x.astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    sigmoid = bp.ops.sigmoid(x)
    assert np.max(np.abs(sigmoid / (exact / (1 + exact)) - 1)) < 4 * epsilon
    tanh = bp.ops.tanh(x)
    assert np.max(np.abs(tanh[x < 0] / np.tanh(x[x < 0].astype(np.longdouble)) - 1)) < 4 * epsilon
    assert np.array_equal(bp.ops.tanh(-x), -tanh)
    far = np.array([-np.inf, -1e30, 0.0, 1e30, np.inf, np.nan], dtype)
    assert np.array_equal(bp.ops.sigmoid(far), np.array([0, 0, 0.5, 1, 1, np.nan], dtype), equal_nan=True)
    assert np.array_equal(bp.ops.tanh(far), np.array([-1, -1, 0, 1, 1, np.nan], dtype), equal_nan=True)


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [16, 17, 31, 65, 300])
def test_softmax_of_many_classes_is_right_at_the_end_of_a_row_and_where_a_row_is_not_finite(
    columns: int, dtype: str
) -> None:
    x = (30 * np.random.default_rng(columns).standard_normal((9, columns))).astype(dtype)
    x[1, -1], x[2, : columns - 1], x[3, -1], x[4], x[5, 0] = 500, -np.inf, np.nan, -np.inf, np.inf
    labels = np.array([columns - 1, columns - 1, columns - 1, 0, 1, 2, -1, columns, 0])
    with np.errstate(invalid="ignore"):
        e = np.exp((x - x.max(1, keepdims=True)).astype("float64"))
        p = e / e.sum(1, keepdims=True)
    one_hot = labels[:, None] == np.arange(columns)
    found = bp.ops.softmax_cross_entropy_gradient(x, labels, 9.0, 2.0)[1]
    np.testing.assert_allclose(found, (p - one_hot) * 2 / 9, rtol=0, atol=1e-6 if dtype == "float32" else 1e-13)
    finite = [0, 1, 2, 6, 7, 8]
    value = bp.ops.softmax_cross_entropy(x[finite], labels[finite], 6.0)[0]
    wanted = -sum(math.log(p[i, labels[i]]) for i in finite if 0 <= labels[i] < columns) / 6
    assert float(value) == pytest.approx(wanted, rel=1e-5 if dtype == "float32" else 1e-12)


@compiled
def test_the_loss_of_many_rows_is_the_sum_of_their_logarithms_however_large_their_product() -> None:
    logits = np.zeros((5000, 50))
    value, _ = bp.ops.softmax_cross_entropy(logits, np.zeros(5000, np.int64), 5000.0)
    assert abs(float(value) - math.log(50)) < 1e-12


@compiled
def test_moments_that_are_about_to_become_denormal_become_0() -> None:
    for gradient in (0.0, 1e-30):
        w, g, m, v = (np.full(9, each, np.float32) for each in (1.0, gradient, 1e-37, 1e-36))
        settings = (np.array(True), np.array(0.1), np.array([5, 0]), 0.9, 0.999, 1e-8, 0.0)
        bp.ops.adam_(w, g, m, v, *settings)
        assert not v.any()
        assert m.any() == bool(gradient)


@compiled
def test_threads_that_compute_at_once_do_not_disturb_each_other() -> None:
    model = bp.Sequential(bp.Dense(20, 30), bp.Tanh(), bp.Dense(30, 4), bp.Softmax()).initialize(seed=1)
    inputs = [np.random.default_rng(i).standard_normal((7, 20), np.float32) for i in range(8)]
    expected = [model(x).tobytes() for x in inputs]
    wrong: list[int] = []

    def infer(i: int) -> None:
        for _ in range(200):
            if model(inputs[i]).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=infer, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@compiled
def test_every_compiled_body_is_some_kernels_variant() -> None:
    named = {kernel.name for kernel in kernels() for _, variant in kernel.variants() if variant.name == "fused"}
    assert {"linear", "linear_backward", "softmax_cross_entropy_gradient", "adam_", "clip_norm_", "dropout"} <= named


def test_calls_that_cannot_be_joined_stay_as_they_are() -> None:
    calls: list[Any] = [len, str, len]
    assert joined(calls) == calls


def test_neighbours_of_one_class_are_joined_and_others_keep_their_places() -> None:
    class Noted:
        def __init__(self, text: str) -> None:
            self.text = text

        def __call__(self) -> str:
            return self.text

        @staticmethod
        def join(calls: list[Noted]) -> Noted:
            return Noted("".join(each.text for each in calls))

    found = joined([Noted("a"), Noted("b"), len, Noted("c")])
    assert [each.text if isinstance(each, Noted) else each for each in found] == ["ab", len, "c"]


@compiled
def test_shapes_that_do_not_belong_together_never_reach_a_compiled_body() -> None:
    x, W, b = np.ones((3, 4)), np.ones((4, 2)), np.ones(2)
    for args in ((x, W[:3], b), (x, W, np.ones(3)), (x, np.ones(4), None)):
        assert bp.ops.linear.choose(args).name != "fused"
    for args in ((np.ones((3, 2)), x[:2], W), (np.ones((3, 3)), x, W)):
        assert bp.ops.linear_backward.choose(args).name != "fused"
    flag, rate, counters = np.array(True), np.array(0.1), np.zeros(2, np.int64)
    assert bp.ops.adam_.choose((b, b, b, np.ones(1), flag, rate, counters, 0.9, 0.9, 1e-8, 0.0)).name != "fused"
    assert bp.ops.relu_backward.choose((x, W)).name != "fused"
    assert bp.ops.softmax_cross_entropy.choose((x, np.zeros(2, np.int64), 3.0)).name != "fused"
    assert bp.ops.dropout_backward.choose((x, np.ones((2, 4), bool), 0.5)).name != "fused"
    assert bp.ops.increment_.choose((counters, 2)).name != "fused"


@compiled
def test_what_may_not_be_written_is_refused_as_ever() -> None:
    x = np.ones(3)
    x.flags.writeable = False
    for write in (
        lambda: bp.ops.add_(x, np.ones(3)),
        lambda: bp.ops.copy_(x, np.zeros(3)),
        lambda: bp.ops.fill_(x, 0.0),
        lambda: bp.ops.clip_value_(x, 0.5),
        lambda: bp.ops.penalty_gradient_(x, np.ones(3), 0.1, 0.1),
    ):
        with pytest.raises(ValueError, match="read-only"):
            write()
    assert x.tolist() == [1, 1, 1]


@compiled
def test_a_place_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    x, W, labels = np.ones((3, 4)), np.ones((4, 2)), np.zeros(3, np.int64)
    counters = np.zeros(2, np.int64)
    for kernel, out, args in (
        (bp.ops.linear, np.empty((3, 2), np.float16), (x, W, None)),
        (bp.ops.linear, np.empty((1, 2)), (x, W, None)),
        (bp.ops.linear, np.empty((2, 3)).T, (x, W, None)),
        (bp.ops.linear_backward, (None, np.empty((2, 4)), None), (np.ones((3, 2)), x, W)),
        (bp.ops.linear_backward, (None, None, np.empty(1)), (np.ones((3, 2)), x, W)),
        (bp.ops.linear_backward, (np.empty((1, 4)), None, None), (np.ones((3, 2)), x, W)),
        (bp.ops.tanh, np.empty((3, 4), np.float32), (x,)),
        (bp.ops.relu_backward, np.empty((1, 4)), (x, x)),
        (bp.ops.softmax, np.empty((1, 4)), (x,)),
        (bp.ops.softmax_backward, np.empty((1, 4)), (x, x)),
        (bp.ops.softmax_cross_entropy, (np.empty(()), np.empty((1, 4))), (x, labels, 3.0)),
        (bp.ops.softmax_cross_entropy_backward, np.empty((1, 4)), (x, labels, 3.0, 1.0)),
        (bp.ops.soft_cross_entropy, (np.empty((), np.float16), np.empty((3, 4))), (x, x, 3.0)),
        (bp.ops.count_correct, np.empty(1), (x, labels, None)),
        (keep_mask, np.empty(3, np.bool_), (counters, 1, (1, 2), (3, 4), 0.5)),
        (bp.ops.dropout, (np.empty((3, 4)), np.empty((3, 1), np.bool_)), (x, counters, 1, (1, 2), 0.5)),
        (bp.ops.dropout_backward, np.empty((1, 4)), (x, np.ones((3, 4), np.bool_), 0.5)),
    ):
        variant = kernel.choose(args)
        assert (variant.name, variant.into is None) == ("fused", False), kernel
        with pytest.raises(ValueError, match="the result needs a writable"):
            variant.into(out, *args)  # type: ignore[misc]


def test_a_numba_that_cannot_be_loaded_is_told_once_and_numpy_computes(tmp_path: Path) -> None:
    for name in ("numba", "llvmlite"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('Numba needs NumPy 1.17 or less')")
    done = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import warnings, numpy as np, bpnet as bp\n"
        "with warnings.catch_warnings(record=True) as noted:\n"
        "    warnings.simplefilter('always')\n"
        "    print(bp.ops.relu(np.array([-1.0, 2.0])).tolist(), bp.ops.tanh(np.zeros(1)).tolist())\n"
        "print(len(noted), noted[0].message)\n"
        "print(bp.get_backend('numpy').describe()['kernels'])"
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "[0.0, 2.0] [0.0]", done.stderr
    assert lines[1].startswith("1 numba is installed and cannot be used (ImportError: Numba needs NumPy")
    assert lines[2] == "NumPy"
