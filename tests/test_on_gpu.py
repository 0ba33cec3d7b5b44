"""What only a GPU can show: cublasLt's answers, captures, uploads and lack of memory. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpnet as bp

pytestmark = pytest.mark.gpu

EPILOGUES = ("", "bias", "relu", "relu_bias", "gelu", "gelu_bias", "bgrada", "bgradb")


def the_cupy() -> Any:
    bp.get_backend("cupy")
    import cupy

    return cupy


def the_gemm() -> Any:
    from bpnet_cupy.products import gemm

    found = gemm()
    assert found is not None, "cublasLt cannot be loaded"
    return found


def gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "n", "k"), [(64, 10, 128), (128, 512, 784), (1, 1, 1), (3, 5, 7), (257, 33, 129)])
def test_cublaslt_makes_every_layout_of_a_product(m: int, n: int, k: int, dtype: str) -> None:
    cupy, gemm = the_cupy(), the_gemm()
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    for a_turned in (False, True):
        for b_turned in (False, True):
            for alpha, beta in ((1.0, 0.0), (1.0, 1.0), (0.5, 2.0)):
                x = cupy.asarray(np.ascontiguousarray(a.T)).T if a_turned else cupy.asarray(a)
                y = cupy.asarray(np.ascontiguousarray(b.T)).T if b_turned else cupy.asarray(b)
                out = cupy.asarray(c)
                call = gemm.prepare(out, x, y, alpha=alpha, beta=beta)
                assert call is not None, (a_turned, b_turned, dtype)
                call()
                expected = alpha * (a.astype(np.float64) @ b) + beta * c
                tolerance = 1e-5 * k if dtype == "float32" else 1e-12 * k
                np.testing.assert_allclose(cupy.asnumpy(out), expected, atol=tolerance, rtol=1e-5)


def test_cublaslt_makes_batches() -> None:
    cupy, gemm = the_cupy(), the_gemm()
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 5, 6))
    out = cupy.empty((3, 4, 6), "float64")
    call = gemm.prepare(out, cupy.asarray(a), cupy.asarray(b))
    assert call is not None
    call()
    np.testing.assert_allclose(cupy.asnumpy(out), a @ b)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_an_epilogue_that_the_library_has_is_what_it_says(epilogue: str) -> None:
    cupy, gemm = the_cupy(), the_gemm()
    rng = np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(shape).astype("float32") for shape in ((128, 64), (64, 32), (32,)))
    out = cupy.empty((128, 32), "float32")
    vector = cupy.asarray(bias) if "bias" in epilogue else cupy.empty({"bgradb": 128}.get(epilogue, 32), "float32")
    try:
        call = gemm.prepare(
            out, cupy.asarray(a), cupy.asarray(b), epilogue=epilogue, vector=vector if "b" in epilogue else None
        )
    except bp.BackendError as error:
        pytest.skip(f"refused: {error}")
    if call is None:
        pytest.skip("this GPU has no algorithm for it in float32")
    call()
    y = a.astype(np.float64) @ b + (bias if "bias" in epilogue else 0)
    y = np.maximum(y, 0) if "relu" in epilogue else gelu_tanh(y) if "gelu" in epilogue else y
    np.testing.assert_allclose(cupy.asnumpy(out), y, atol=1e-3)
    if epilogue.startswith("bgrad"):
        sums = b.sum(axis=0) if epilogue == "bgrada" else a.sum(axis=1)
        np.testing.assert_allclose(cupy.asnumpy(vector), sums, atol=1e-3)


def test_a_product_has_the_same_bits_whenever_it_is_made() -> None:
    cupy, gemm = the_cupy(), the_gemm()
    rng = np.random.default_rng(0)
    a, b = (cupy.asarray(rng.standard_normal(shape).astype("float32")) for shape in ((333, 1024), (1024, 511)))
    seen = set()
    for _ in range(20):
        out = cupy.empty((333, 511), "float32")
        call = gemm.prepare(out, a, b)
        assert call is not None
        call()
        seen.add(cupy.asnumpy(out).tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize(("name", "bits"), [("tf32", 10), ("bf16", 7)])
def test_other_precisions_round_the_factors_and_no_more(name: str, bits: int) -> None:
    from bpnet_cupy.problem import precision

    cupy, gemm = the_cupy(), the_gemm()
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((256, 512)).astype("float32"), rng.standard_normal((512, 256)).astype("float32")
    out = cupy.empty((256, 256), "float32")
    with precision(name):
        call = gemm.prepare(out, cupy.asarray(a), cupy.asarray(b))
    assert call is not None
    call()
    terms = np.abs(a).astype(np.float64) @ np.abs(b)
    off = np.abs(cupy.asnumpy(out) - a.astype(np.float64) @ b) / terms
    assert off.max() < 2.0**-bits


# --- graphs ---


def test_a_product_is_captured_and_reads_its_factors_at_each_launch() -> None:
    cupy, gemm = the_cupy(), the_gemm()
    backend: Any = bp.get_backend("cupy")
    a, b, out = cupy.zeros((4, 3), "float32"), cupy.ones((3, 5), "float32"), cupy.zeros((4, 5), "float32")
    call = gemm.prepare(out, a, b)
    assert call is not None
    with backend.scope():
        call()
        graph = backend.capture([call])
        for value in (1.0, 2.0):
            a[...] = value
            graph()
            assert cupy.asnumpy(out).tolist() == [[3 * value] * 5] * 4


def test_memory_that_captured_calls_take_is_the_graphs_own() -> None:
    cupy = the_cupy()
    backend: Any = bp.get_backend("cupy")
    x, y = cupy.arange(1000, dtype="float32"), cupy.zeros(1000, "float32")

    def call() -> None:
        y[...] = cupy.sqrt(x * x) + x

    with backend.scope():
        call()
        graph = backend.capture([call])
        for value in (1.0, 2.0, 3.0):
            taken = [cupy.full(1000, cupy.nan, "float32") for _ in range(50)]  # of the ordinary pool
            x[...] = value
            graph()
            assert cupy.asnumpy(y).tolist() == [2 * value] * 1000
            del taken


def test_what_copies_from_the_host_is_refused_and_the_stream_goes_on() -> None:
    cupy = the_cupy()
    backend: Any = bp.get_backend("cupy")
    y = cupy.zeros(3, "float32")

    def call() -> None:
        y[...] = cupy.asarray([1.0, 2.0, 3.0], dtype="float32")

    with backend.scope():
        call()
        with pytest.raises(bp.BackendError, match="copies numbers from the host"):
            backend.capture([call])
        graph = backend.capture([lambda: y.fill(7)])
        graph()
        assert cupy.asnumpy(y).tolist() == [7, 7, 7]


MODELS: dict[str, Callable[[], bp.Layer]] = {
    "mlp": lambda: bp.Sequential(bp.Dense(64, 128), bp.ReLU(), bp.Dropout(0.2), bp.Dense(128, 10)),
    "activations": lambda: bp.Sequential(
        *(bp.Dense(64, 32), bp.GELU("tanh"), bp.Dense(32, 32), bp.SiLU()),
        *(bp.Residual(bp.Dense(32, 32), bp.Tanh()), bp.Dense(32, 10)),
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("micro", [None, 24])
def test_a_captured_training_has_the_bits_of_the_eager_one(make: Callable[[], bp.Layer], micro: int | None) -> None:
    train, _ = bp.data.load("digits")

    def run(**options: Any) -> tuple[list[bytes], dict[str, bytes], str]:
        optimizer = bp.Adam(bp.Cosine(0.01, 100, warmup=3), clip_norm=1.0)
        trainer = bp.Trainer(make(), bp.SoftmaxCrossEntropy(), optimizer, backend="cupy", seed=1, **options)
        losses = []
        for i in range(12):
            batch = slice(64 * i, 64 * i + 64)
            loss = trainer.step(train.x[batch], train.y[batch], micro_batch_size=micro)
            losses.append(bp.to_numpy(loss).tobytes())
        arrays = trainer.model.store.arrays().items()
        return losses, {name: bp.to_numpy(array).tobytes() for name, array in arrays}, trainer.plan_report()

    captured, eager = run(capture="on"), run(plan=False)
    assert "captured as one graph" in captured[2], captured[2]
    assert captured[:2] == eager[:2]


def test_a_fit_on_a_memory_map_is_that_on_arrays(tmp_path: Path) -> None:
    train, _ = bp.data.load("digits")
    np.save(tmp_path / "x.npy", train.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    values = []
    for x in (mapped, np.asarray(train.x)):
        trainer = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", seed=1)
        trainer.fit(x, train.y, epochs=3, batch_size=50, progress=False)
        values.append(bp.to_numpy(trainer.model.store.values).tobytes())
    assert values[0] == values[1]


def test_work_of_the_callers_stream_is_done_before_a_step_and_the_steps_before_what_follows() -> None:
    cupy = the_cupy()
    train, _ = bp.data.load("digits")
    trainer = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), backend="cupy", seed=1)
    plain = bp.Trainer(MODELS["mlp"](), bp.SoftmaxCrossEntropy(), bp.SGD(0.1), backend="cupy", seed=1)
    x, y = cupy.asarray(train.x[:64]), cupy.asarray(train.y[:64])
    large = cupy.ones((4096, 4096), "float32")
    cupy.cuda.Device().synchronize()  # these are made on another stream than they are read on
    for _ in range(5):
        with cupy.cuda.Stream(non_blocking=True):
            slow = large @ large  # keeps the stream busy while the step is asked for
            late = x * (slow[0, 0] / slow[0, 0])
            loss = trainer.step(late, y) + 0
            found = float(loss)
        assert found == float(plain.step(x, y))
