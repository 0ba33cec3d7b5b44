"""Threads of NumPy's BLAS: how many there are to be, and which products get only one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet import processors
from bpnet_numpy import threads

ONLY_OPENBLAS = pytest.mark.skipif(threads.openblas() is None, reason="NumPy has another BLAS")


class Library:
    """Stands for OpenBLAS, and writes down what it is told."""

    def __init__(self, n: int, kernel: str = "haswell") -> None:
        self.n = n
        self.told: list[int] = []
        self.as_tuple = threads.OpenBlas(lambda: self.n, self.set, kernel)

    def set(self, n: int) -> None:
        self.n = n
        self.told.append(n)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (threads.ENVIRONMENT_VARIABLE, *threads.THREAD_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    threads.settle.cache_clear()
    yield
    threads.settle.cache_clear()


def use(library: Library | None, monkeypatch: pytest.MonkeyPatch, usable: int = 2) -> None:
    monkeypatch.setattr(threads, "openblas", lambda: library and library.as_tuple)
    monkeypatch.setattr(threads, "usable", lambda: usable)


# --- processors ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", None), ("200000 100000", 2.0), ("150000 100000\n", 1.5), ("", None), ("a b", None), ("5 0", None)],
)
def test_a_limit_of_control_groups_version_2_is_read(text: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text, encoding="utf-8")
    assert processors.quota(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("300000", 3.0), ("0", None), ("x", None)])
def test_a_limit_of_control_groups_version_1_is_read(quota: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota, encoding="utf-8")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n", encoding="utf-8")
    assert processors.quota(tmp_path) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert processors.quota(tmp_path) is None
    assert processors.usable(tmp_path) == processors.affinity() >= 1


@pytest.mark.parametrize(("share", "allowed", "expected"), [(0.5, 64, 1), (1.5, 64, 2), (100.0, 4, 4), (2.0, 2, 2)])
def test_usable_is_the_affinity_and_at_most_the_quota(
    share: float, allowed: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "affinity", lambda: allowed)
    (tmp_path / "cpu.max").write_text(f"{int(share * 100000)} 100000", encoding="utf-8")
    assert processors.usable(tmp_path) == expected


# --- how many ---


def test_threads_are_lowered_to_the_processors_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = Library(64), Library(1)
    for library in (many, few):
        use(library, monkeypatch)
        threads.settle()
        threads.settle.cache_clear()
    assert (many.told, few.told) == ([2], [])


@pytest.mark.parametrize("variable", threads.THREAD_VARIABLES)
def test_who_set_a_variable_of_openblas_is_asked_nothing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(64)
    use(library, monkeypatch)
    monkeypatch.setenv(variable, "64")
    threads.settle()
    assert library.told == []


def test_the_setting_decides_and_is_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(2)
    use(library, monkeypatch)
    monkeypatch.setenv("BPNET_THREADS", "3")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    threads.settle()
    threads.settle()
    assert library.told == [3]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_setting_that_is_no_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(2)
    use(library, monkeypatch)
    monkeypatch.setenv("BPNET_THREADS", value)
    with pytest.raises(bp.BackendError) as error:
        threads.settle()
    assert str(error.value) == f"BPNET_THREADS must be a whole number of threads, at least 1, got {value!r}"
    assert library.told == []


def test_a_setting_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(None, monkeypatch)
    threads.settle()
    threads.settle.cache_clear()
    monkeypatch.setenv("BPNET_THREADS", "1")
    with pytest.raises(bp.BackendError, match="BPNET_THREADS=1 cannot be set: NumPy's BLAS is not an OpenBLAS"):
        threads.settle()


@ONLY_OPENBLAS
def test_openblas_says_what_threadpoolctl_sees() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    library = threads.openblas()
    assert library is not None
    seen = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    assert (library.get(), library.kernel) in [(each["num_threads"], each["architecture"].lower()) for each in seen]
    with threadpoolctl.threadpool_limits(1, "blas"):
        assert library.get() == 1


# --- which products ---


@pytest.mark.parametrize(
    ("m", "k", "n", "plain", "kernel", "expected"),
    [
        (64, 64, 64, False, "haswell", False),  # 2^18: not divided
        (65, 64, 64, False, "haswell", True),
        (128, 128, 128, True, "haswell", True),  # 2^21
        (129, 128, 128, True, "haswell", False),  # worth dividing
        (100, 100, 100, True, "skylakex", False),  # kernels for small matrices
        (101, 100, 100, True, "skylakex", True),
        (100, 100, 100, False, "skylakex", True),
        (15, 300, 300, False, "haswell", False),  # few rows: threads help to read
        (16, 300, 300, False, "haswell", True),
        (1, 1000, 1000, True, "haswell", False),
        (1000, 1000, 1, True, "haswell", False),
        (0, 4, 4, True, "haswell", False),
    ],
)
def test_products_between_two_bounds_get_one_thread(
    m: int, k: int, n: int, plain: bool, kernel: str, expected: bool
) -> None:
    assert threads.one_thread_is_enough((m, k), (k, n), plain, kernel) == expected


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.sampled_from([1, 2, 8]))
def test_a_product_is_right_and_leaves_the_threads_as_they_were(m: int, k: int, n: int, plain: bool, have: int) -> None:
    rng = np.random.default_rng(m * 1600 + k * 40 + n)
    a = rng.standard_normal((m, k))
    b = rng.standard_normal((k, n)) if plain else rng.standard_normal((n, k)).T
    library, out = Library(have), np.empty((m, n))
    with pytest.MonkeyPatch.context() as patch:
        use(library, patch)
        patch.setattr(threads, "DIVIDED", 1000)
        patch.setattr(threads, "WORTH_DIVIDING", 8000)
        threads.product(a, b, out)()
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    narrow = 1000 < m * k * n <= 8000 and m >= threads.FEW_ROWS and n > 1 and k > 1
    assert library.told == ([1, have] if narrow and have > 1 else [])
    assert library.n == have


def test_the_threads_come_back_when_a_product_fails() -> None:
    library = Library(4)
    with pytest.raises(ValueError):
        threads._on_one_thread(library.as_tuple.get, library.set, np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)))
    assert library.told == [1, 4]


def test_a_network_of_such_products_trains_as_the_reference_does() -> None:
    """64-128-128-10 at batch 64 has products on both sides of the bounds."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 64)).astype(np.float32), rng.integers(0, 10, 64)

    def losses(backend: str) -> list[float]:
        model = bp.Sequential(bp.Dense(64, 128), bp.ReLU(), bp.Dense(128, 128), bp.ReLU(), bp.Dense(128, 10))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-3), seed=0, backend=backend)
        return [float(trainer.step(x, labels)) for _ in range(5)]

    np.testing.assert_allclose(losses("numpy"), losses("strict"), rtol=1e-4)


@ONLY_OPENBLAS
def test_the_setting_reaches_the_library_of_a_fresh_process() -> None:
    import subprocess
    import sys

    code = (
        "import bpnet as bp; bp.get_backend('numpy'); from bpnet_numpy import threads; print(threads.openblas().get())"
    )
    for asked in ("1", ""):
        environment = {name: value for name, value in os.environ.items() if name not in threads.THREAD_VARIABLES}
        environment["BPNET_THREADS"] = asked
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found: Any = int(done.stdout)
        assert found == 1 if asked else 1 <= found <= max(1, math.ceil(processors.usable()))
