"""Products by tiles in registers, the threads that share them, and passes divided among these."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.dispatch import kernels, load_variants

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

if fused.why_not():
    pytest.skip(fused.why_not(), allow_module_level=True)

from bpnet_numpy.fused import helpers  # noqa: E402
from bpnet_numpy.fused.instruction import Program, machine  # noqa: E402
from bpnet_numpy.fused.variants import common, linear, smooth  # noqa: E402

Array = Any
tiles = pytest.mark.skipif(not machine().VECTOR, reason="no tiles are made for this processor")


def forget() -> None:
    """Let every call be bound anew."""
    for kernel in kernels():
        if kernel.shortcut is not None:
            kernel.shortcut.forget()


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two helpers, however many processors there are."""
    monkeypatch.setattr(helpers, "wanted", lambda: 3)
    monkeypatch.setattr(helpers, "openblas", lambda: None)
    forget()
    yield
    helpers.dismiss()
    forget()


def factors(m: int, n: int, k: int, dtype: str, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))  # type: ignore[return-value]


def product(
    a: Array, b: Array, turned_a: bool, turned_b: bool, bias: Array | None = None, relu: bool = False, y: Any = None
) -> Array:
    """a b by tiles, from factors that lie transposed where that is asked for; what is around the result must stay.

    y : where it is not above 0, ReLU's derivative sets the product to 0
    """
    whole = np.full((a.shape[0] + 2, b.shape[1]), 7, a.dtype)
    left = np.ascontiguousarray(a.T) if turned_a else a
    right = np.ascontiguousarray(b.T) if turned_b else b
    out = whole[1:-1]
    program = linear.tiled_product(out, left, right, turned_a, turned_b, bias, relu)
    if y is not None:
        (derivative,) = common.elements("relu_backward", out, 0, 3, out, out, y, out.size)
        program = Program.join([program, derivative])
        assert machine().named(program.words)[1] == (*out.shape, a.shape[1])
        assert len(program.words) == 19  # and nothing behind it
    program()
    assert (whole[[0, -1]] == 7).all()
    return out


SIZES = st.one_of(st.integers(2, 40), st.integers(41, 600))


@tiles
@given(
    m=SIZES,
    n=st.one_of(SIZES, st.integers(2, 16)),
    k=st.one_of(SIZES, st.integers(1000, 2200)),
    flags=st.tuples(*[st.booleans()] * 5),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-6), ("float64", 1e-14)])
def test_a_product_by_tiles_is_the_product(
    m: int, n: int, k: int, flags: tuple[bool, ...], dtype: str, bound: float
) -> None:
    a, b, bias = factors(m, n, k, dtype)
    turned_a, turned_b, biased, relu, gated = flags
    y = np.random.default_rng(1).standard_normal((m, n)).astype(dtype) if gated else None
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    if biased:
        exact = exact + bias
        exact = np.maximum(exact, 0) if relu else exact
    if y is not None:
        exact = np.where(y > 0, exact, 0)
    found = product(a, b, turned_a, turned_b, bias if biased else None, relu, y)
    assert np.abs(found - exact).max() <= bound * math.sqrt(k) * max(1.0, float(np.abs(exact).max()))


@tiles
@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape",
    [(128, 512, 784), (784, 10, 128), (1500, 70, 300), (60, 900, 1100), (17, 33, 5000), (500, 700, 200), (300, 7, 600)],
)
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, int, int], dtype: str) -> None:
    a, b, bias = factors(*shape, dtype)
    y = np.random.default_rng(1).standard_normal(shape[:2]).astype(dtype)
    for turned_a, turned_b in ((False, False), (True, False), (False, True)):
        together = [product(a, b, turned_a, turned_b, bias, True, y).tobytes() for _ in range(10)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(helpers, "wanted", lambda: 1)
            once = product(a, b, turned_a, turned_b, bias, True, y).tobytes()
        assert set(together) == {once}


@tiles
def test_what_is_not_finite_stays_in_its_row_and_column() -> None:
    a, b, bias = factors(50, 70, 300, "float32")
    a[3, 7], b[11, 69] = np.nan, np.inf
    found = product(a, b, False, False, bias, True)
    assert np.isnan(found[3]).all()
    others = np.delete(found, 3, axis=0)
    assert np.isfinite(others[:, :69]).all()
    column = others[:, 69]
    assert set(column[~np.isnan(column)].tolist()) == {0.0, math.inf}


@pytest.mark.usefixtures("three_threads")
def test_threads_of_python_that_compute_at_once_get_what_each_gets_alone() -> None:
    problems = [factors(200, 300, 250, "float32", seed) for seed in range(4)]
    expected = [bp.ops.linear(a, b, bias).tobytes() for a, b, bias in problems]
    wrong: list[int] = []

    def compute(i: int) -> None:
        a, b, bias = problems[i]
        for _ in range(100):
            if bp.ops.linear(a, b, bias).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=compute, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.usefixtures("three_threads")
def test_helpers_sleep_wake_and_end() -> None:
    state, _ = helpers.team()
    assert state
    assert len(helpers._threads) == 2
    sleepers = machine().team.SLEEPERS
    for _ in range(3):
        for _ in range(5000):
            if helpers._state[sleepers] == 2:
                break
            threading.Event().wait(0.002)
        assert helpers._state[sleepers] == 2
        a, b, bias = factors(200, 300, 250, "float32")
        np.testing.assert_allclose(bp.ops.linear(a, b, bias), a @ b + bias, rtol=0, atol=1e-3)
    threads = list(helpers._threads)
    helpers.dismiss()
    assert not any(thread.is_alive() for thread in threads)
    np.testing.assert_allclose(bp.ops.linear(a, b, bias), a @ b + bias, rtol=0, atol=1e-3)


PROGRAM = """
import os, sys, numpy as np, bpnet as bp
from bpnet_numpy.fused import helpers
bp.get_backend("numpy")
helpers.wanted, helpers.openblas = lambda: 3, lambda: None
a = np.random.default_rng(0).standard_normal((300, 300), np.float32)
y = bp.ops.linear(a, a, None).tobytes()
print(len(helpers._threads), flush=True)
"""


@tiles
def test_a_process_ends_while_helpers_wait() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["2"], "")


@tiles
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_the_same_and_starts_helpers_of_its_own() -> None:
    code = PROGRAM + (
        "child = os.fork()\n"
        "before = len(helpers._threads)\n"
        "same = bp.ops.linear(a, a, None).tobytes() == y\n"
        "helpers.team()\n"
        "os.write(1, f'{same} {before} {len(helpers._threads)}\\n'.encode())\n"  # two processes write there
        "if not child:\n"
        "    helpers.dismiss(); os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()[1:]) == ["0", "True 0 2", "True 2 2"], done.stderr


@tiles
def test_which_products_are_made_by_tiles_depends_on_shapes_alone() -> None:
    assert linear.tiled(128, 512, 784)
    assert linear.tiled(10_000, 10, 512)
    assert not linear.tiled(8, 4096, 4096)  # reading the matrix is what takes time
    assert not linear.tiled(64, 128, 64)  # a small product
    assert not linear.tiled(1 << 20, 1, 4)
    vector = machine().VECTOR // 4
    assert linear.tiled(128, vector, 512)  # rows that are multiplied with one vector of columns are not packed
    assert not linear.tiled(128, vector + 1, 512)
    assert not linear.tiled(128, vector, 512, "float64")  # two vectors
    assert not linear.tiled(128, vector, 512, transpose_a=True)
    assert not linear.tiled(128, vector, 8)  # a short sum


OPTIMIZERS: list[Any] = [
    lambda: bp.SGD(1e-2, weight_decay=1e-3),
    lambda: bp.SGD(1e-2, momentum=0.9, nesterov=True),
    lambda: bp.Adam(1e-3),
    lambda: bp.AdamW(1e-3, weight_decay=1e-2),
    lambda: bp.Adam(1e-3, amsgrad=True),
    lambda: bp.Adagrad(1e-2),
    lambda: bp.RMSprop(1e-3, momentum=0.9, centered=True),
    lambda: bp.RMSprop(1e-3),
    lambda: bp.Lion(1e-3),
]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_divided_update_gives_the_same_bits(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(long: int) -> bytes:
        monkeypatch.setattr(common, "LONG", long)
        model = bp.Sequential(bp.Dense(123, 401)).initialize(seed=1)
        rng = np.random.default_rng(0)
        optimizer = make()
        forget()
        for _ in range(3):
            dy = rng.standard_normal((4, 401)).astype(np.float32)
            model.forward(rng.standard_normal((4, 123)).astype(np.float32))
            model.backward(dy)
            optimizer.step(model)
        return bytes(model.store.values.tobytes()) + b"".join(slot.tobytes() for slot in model.store.slots.values())

    assert train(1 << 14) == train(1 << 30)


ELEMENTWISE = [
    "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "gelu_with_slope", "silu", "elu", "add", "mul",
    "relu_backward", "tanh_backward", "gelu_tanh_backward", "mish_backward",
]  # fmt: skip


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_divided_elementwise_body_gives_the_same_bits(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1234, 71)).astype(dtype)
    settings = (0.1,) if name in ("leaky_relu", "elu") else ()
    arguments = (x, y) if name in ("add", "mul") or name.endswith("backward") else (x, *settings)
    found = []
    for long in (1 << 10, 1 << 30):
        monkeypatch.setattr(common, "LONG", long)
        monkeypatch.setattr(smooth, "COSTLY", long)
        forget()
        result = getattr(bp.ops, name)(*arguments)
        found.append([each.tobytes() for each in (result if isinstance(result, tuple) else (result,))])
    assert found[0] == found[1]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000, (1 << 14) + 1, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_001])
def test_a_divided_pass_makes_every_element_once(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "LONG", 1)
    forget()
    total = np.arange(n, dtype=np.float64)
    bp.ops.add_(total, np.ones(n))
    np.testing.assert_array_equal(total, np.arange(1, n + 1))
