"""The CuPy backend without a GPU: devices, streams, captures, uploads and what goes wrong, on a stand-in for CuPy."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stub_cupy import OutOfMemoryError, Stub

import bpnet as bp
from bpnet import backend as registry
from bpnet import dispatch


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stub]:
    """Puts a `Stub` in the place of CuPy."""
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_READY", dict(registry._READY))
    monkeypatch.setattr(registry, "_PROBED", list(registry._PROBED))
    monkeypatch.setattr(dispatch, "_GUARDS", dict(dispatch._GUARDS))
    monkeypatch.setattr(dispatch, "_PROVIDERS", {k: v for k, v in dispatch._PROVIDERS.items() if k != "cupy"})

    def put(*args: Any, **options: Any) -> Stub:
        stub = Stub(*args, **options)
        monkeypatch.setitem(sys.modules, "cupy", stub)
        monkeypatch.setitem(sys.modules, "array_api_compat.cupy", stub.namespace)
        monkeypatch.setattr("array_api_compat.cupy", stub.namespace, raising=False)
        monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=stub.empty_pinned))
        monkeypatch.setattr("bpnet_cupy.trouble.installed", lambda: ["cupy-cuda13x"])
        monkeypatch.setattr("bpnet_cupy.products.prepare_stream", lambda: stub.enqueue("workspace"))
        monkeypatch.setattr("bpnet_cupy.cudnn.prepare_stream", lambda: stub.enqueue("handle"))
        for name in [name for name in registry._READY if name.startswith("cupy")]:
            del registry._READY[name]
        for op in dispatch.kernels():
            op._registered[stub.ndarray] = []  # reference bodies, whatever runs on the class below it
        stubs.append(stub)
        return stub

    stubs: list[Stub] = []
    yield put
    for op in dispatch.kernels():
        op._table.clear()
        for stub in stubs:
            op._registered.pop(stub.ndarray, None)


def model() -> bp.Layer:
    return bp.Sequential(bp.Dense(6, 8), bp.ReLU(), bp.Dropout(0.3), bp.Dense(8, 3))


def data(n: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)


# --- devices ---


def test_a_device_is_chosen_by_its_number(install: Callable[..., Stub]) -> None:
    stub = install(2)
    second, first = bp.get_backend("cupy:1"), bp.get_backend("cupy")
    assert (first.index, second.index) == (0, 1)  # type: ignore[attr-defined]
    assert second.describe()["device"] == "cuda:1 Stub 1"
    for backend in (first, second):
        for array in (backend.zeros((2,), "float32"), backend.asarray([1.0])):
            assert array.device_id == backend.index  # type: ignore[attr-defined]
    assert stub.current_device() == 0, "choosing a device changes nothing for the caller"


def test_training_is_on_the_chosen_device_from_any_thread(install: Callable[..., Stub]) -> None:
    stub = install(2)
    x, y = data()
    trainer = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy:1", capture="off", seed=0)
    plain = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)
    failed: list[BaseException] = []
    seen: list[tuple[int, str]] = []

    def note(trainer: bp.Trainer) -> None:
        seen.append((stub.current_device(), stub.current_stream().name))

    def fit() -> None:
        try:
            trainer.fit(x, y, epochs=2, batch_size=16, progress=False, callbacks=[bp.callbacks.EveryStep(note)])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert not failed, failed
    plain.fit(x, y, epochs=2, batch_size=16, progress=False)
    assert set(seen[:6]) == {(1, trainer.model.backend.stream.name)}  # type: ignore[attr-defined]
    for name, array in trainer.model.store.arrays().items():
        assert array.device_id == 1, name
        assert array.tobytes() == plain.model.store.arrays()[name].tobytes(), name


def test_a_layer_runs_where_its_arrays_are(install: Callable[..., Stub]) -> None:
    stub = install(2)
    net = model().initialize(backend="cupy:1")
    x = net.asarray(data()[0])
    assert stub.current_device() == 0
    net.forward(x)
    assert stub.current_device() == 1
    stub.log.clear()
    net(x)
    assert ("use", 1) not in stub.log  # it is there already


def test_one_device_needs_no_guard(install: Callable[..., Stub]) -> None:
    stub = install(1)
    bp.get_backend("cupy")
    assert stub.ndarray not in dispatch._GUARDS


# --- streams ---


def test_a_scope_joins_its_stream_with_the_callers_before_and_behind(install: Callable[..., Stub]) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    assert backend.stream.non_blocking
    own = backend.stream.name
    stub.log.clear()
    stub.enqueue("before")
    with backend.scope():
        stub.enqueue("inside")
        with backend.scope("tf32"):
            stub.enqueue("further inside")
    stub.enqueue("behind")
    kinds = [(entry[0], entry[1]) for entry in stub.log]
    assert kinds == [
        ("before", "null"),
        ("record", "null"),
        ("wait", own),
        ("inside", own),
        ("further inside", own),
        ("record", own),
        ("wait", "null"),
        ("behind", "null"),
    ]
    assert stub.log[2][2] == stub.log[1][2]
    assert stub.log[6][2] == stub.log[5][2]


def test_a_scope_is_left_and_joined_after_an_error(install: Callable[..., Stub]) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    stub.log.clear()
    with pytest.raises(KeyError), backend.scope():
        raise KeyError
    assert stub.current_stream() is stub.null
    assert [entry[:2] for entry in stub.log][-1] == ("wait", "null")


def test_the_precision_of_a_scope_is_that_of_products(install: Callable[..., Stub]) -> None:
    from bpnet_cupy.problem import current_precision

    install()
    backend: Any = bp.get_backend("cupy")
    with backend.scope("bf16"):
        assert current_precision() == "bf16"
    assert current_precision() == "float32"
    with pytest.raises(bp.ConfigError, match="must be one of 'float32', 'tf32', 'bf16'"), backend.scope("fp8"):
        pass


# --- captures ---


def test_calls_are_recorded_on_a_stream_of_their_own_and_launched_on_the_current_one(
    install: Callable[..., Stub],
) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    counts = {"a": 0, "b": 0}

    def call(name: str) -> Callable[[], None]:
        def add() -> None:
            counts[name] += 1

        def run() -> None:
            if stub.current_stream().captured is not None:
                assert len(stub.allocators) == 1, "what is allocated must come from the graph's own pool"
            stub.enqueue(name, add)

        return run

    stub.log.clear()
    replay = backend.capture([call("a"), call("b"), call("a")])
    assert counts == {"a": 0, "b": 0}, "capturing runs nothing"
    assert [entry[0] for entry in stub.log] == ["workspace", "handle", "begin", "end"]
    assert {entry[1] for entry in stub.log} == {backend._capture_stream.name}
    assert not stub.allocators
    with backend.scope():
        stub.log.clear()
        replay()
        replay()
        assert [entry[0] for entry in stub.log] == ["launch", "a", "b", "a"] * 2
        assert {entry[1] for entry in stub.log} == {backend.stream.name}
    assert counts == {"a": 4, "b": 2}


def test_a_call_that_fails_ends_the_capture_and_is_what_is_raised(install: Callable[..., Stub]) -> None:
    stub = install(capture_error=RuntimeError("the capture was invalidated"))
    backend: Any = bp.get_backend("cupy")

    def forbidden() -> None:
        raise NotImplementedError("cuBLAS")

    with pytest.raises(NotImplementedError, match="cuBLAS"):
        backend.capture([forbidden])
    assert [entry[0] for entry in stub.log][-1] == "end"
    assert stub.current_stream() is stub.null
    assert not stub.allocators
    with pytest.raises(RuntimeError, match="invalidated"):
        backend.capture([lambda: None])
    stub.capture_error = None
    assert backend.capture([lambda: None]) is not None  # the stream is usable again


def test_a_call_that_copies_from_the_host_cannot_be_captured(install: Callable[..., Stub]) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    others: list[Any] = []

    def copies() -> None:
        elsewhere = threading.Thread(target=lambda: others.append(stub.pinned_allocator(8)))
        elsewhere.start()
        elsewhere.join()
        stub.pinned_allocator(64)

    with pytest.raises(bp.BackendError, match="a call copies numbers from the host, which a graph cannot repeat"):
        backend.capture([copies])
    assert others == [("page-locked", 8)]  # of other threads' uploads
    assert stub.pinned_allocator(64) == ("page-locked", 64)


def test_inputs_are_written_by_one_copy_where_they_are_contiguous(install: Callable[..., Stub]) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    buffer = backend.zeros((3, 2), "float32")
    write = backend.writer(buffer)
    x = backend.asarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    stub.log.clear()
    with backend.scope():
        write(x)
    assert ("copy on the device", backend.stream.name) in stub.log
    assert buffer.tolist() == x.tolist()
    stub.log.clear()
    write(backend.asarray(np.arange(6, dtype=np.float32).reshape(2, 3)).T)
    assert buffer.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert stub.log == []


def test_what_a_graph_names_lives_as_long_as_the_graph(install: Callable[..., Stub]) -> None:
    import gc
    import weakref

    install()
    backend: Any = bp.get_backend("cupy")

    class Held:
        def __call__(self) -> None:
            pass

    call = Held()
    seen = weakref.ref(call)
    replay = backend.capture([call])
    del call
    gc.collect()
    assert seen() is not None
    del replay
    gc.collect()
    assert seen() is None


def test_a_trainer_goes_on_where_its_step_cannot_be_captured(install: Callable[..., Stub]) -> None:
    stub = install(capture_error=RuntimeError("cudaErrorStreamCaptureUnsupported"))
    x, y = data(8)
    trainer = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", seed=0)
    plain = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)
    with pytest.warns(RuntimeWarning, match="not as one graph: capturing it failed with RuntimeError: cudaErrorStream"):
        found = [trainer.step(x, y).tobytes() for _ in range(4)]
    assert found == [plain.step(x, y).tobytes() for _ in range(4)]
    assert [entry[0] for entry in stub.log].count("begin") == 1


# --- uploads ---


def test_uploads_go_through_page_locked_memory_in_turn_and_are_ordered_by_events(install: Callable[..., Stub]) -> None:
    stub = install()
    backend: Any = bp.get_backend("cupy")
    copying = backend._copy_stream.name
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(4, 3)), rng.integers(0, 3, 4)) for _ in range(5)]
    uploader = backend.uploader()
    assert isinstance(uploader.send, Callable)  # type: ignore[arg-type]
    with backend.scope():
        computing = backend.stream.name
        stub.log.clear()
        sent = [uploader.send(given[0]), uploader.send(given[1])]
        places = []
        for i in range(5):
            x, y = uploader.receive(sent[i])
            np.testing.assert_array_equal(x.array, given[i][0])
            np.testing.assert_array_equal(y.array, given[i][1])
            places.append(x.data.ptr)
            if 0 < i < 4:
                sent.append(uploader.send(given[i + 1]))
        log = list(stub.log)
        uploader.close()
    assert len(set(places)) == 2
    assert places[0] == places[2] == places[4]
    assert len(stub.pinned_memory) == 4  # two arrays in two places, however many batches
    copies = [entry for entry in log if entry[0] == "copy"]
    assert len(copies) == 10
    assert all(entry == ("copy", copying, True) for entry in copies)
    filled = [entry[2] for entry in log if entry[:2] == ("record", copying)]
    waited = [entry[2] for entry in log if entry[:2] == ("wait", computing)]
    assert filled == waited  # what is computed with has arrived
    used = [entry[2] for entry in log if entry[:2] == ("record", computing)]
    before_copies = [entry[2] for entry in log if entry[:2] == ("wait", copying)]
    assert before_copies[2:] == used[:3]  # what is overwritten has been used


def test_a_smaller_last_batch_has_memory_of_its_own(install: Callable[..., Stub]) -> None:
    stub = install()
    uploader = bp.get_backend("cupy").uploader()  # type: ignore[attr-defined]
    for n in (4, 3, 4, 3):
        (found,) = uploader.receive(uploader.send((np.full((n, 2), float(n)),)))
        assert found.tolist() == [[n, n]] * n
    assert len(stub.pinned_memory) == 2


def test_a_closed_uploader_lets_the_sender_go(install: Callable[..., Stub]) -> None:
    install()
    uploader = bp.get_backend("cupy").uploader()  # type: ignore[attr-defined]
    uploader.send((np.zeros(2),))
    uploader.send((np.zeros(2),))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            uploader.send((np.zeros(2),))
        except bp.StateError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    uploader.close()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert str(raised[0]) == "this uploader is closed"


def test_a_memory_map_trains_through_uploads(install: Callable[..., Stub], tmp_path: Any) -> None:
    stub = install()
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    trainer = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)
    trainer.fit(mapped, y, epochs=2, batch_size=16, progress=False)
    plain = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)
    plain.fit(x, y, epochs=2, batch_size=16, progress=False)
    assert trainer.model.store.values.tobytes() == plain.model.store.values.tobytes()
    assert [entry[0] for entry in stub.log].count("copy") == 12


# --- what goes wrong ---


def refused(name: str = "cupy") -> str:
    with pytest.raises(bp.BackendError) as raised:
        bp.get_backend(name)
    assert bp.get_backend().name == "numpy"  # the process goes on
    return str(raised.value)


INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"


def test_no_driver(install: Callable[..., Stub]) -> None:
    install(driver=0, error=INSUFFICIENT)
    assert refused().endswith(
        "there is no NVIDIA driver, or it is older than this CuPy needs: install or update the driver (`nvidia-smi` "
        "must work), or run on the CPU with BPNET_BACKEND=numpy"
    )


def test_a_driver_that_is_too_old(install: Callable[..., Stub]) -> None:
    install(driver=12040, runtime=13020, error=INSUFFICIENT)
    assert (
        "the driver supports CUDA up to 12.4, and this CuPy is built for 13.2: update the driver, or install the "
        in (refused())
    )


def test_no_such_device(install: Callable[..., Stub]) -> None:
    install(2)
    assert refused("cupy:2").endswith("there is no CUDA device 2; this machine has 2: 'cupy:0', 'cupy:1'")
    assert "'cupy:x'" in refused("cupy:x")


def test_hidden_devices(install: Callable[..., Stub]) -> None:
    install(0)
    assert "sees no GPU (CUDA_VISIBLE_DEVICES hides all of them?); run on the CPU with" in refused()
    install(error="cudaErrorNoDevice: no CUDA-capable device is detected")
    assert "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or run on the CPU" in refused()


def test_two_cupy_packages(install: Callable[..., Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr("bpnet_cupy.trouble.installed", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
    assert (
        "two CuPy packages are installed, cupy-cuda12x and cupy-cuda13x, and overwrite each other's files; "
        "pip uninstall cupy-cuda12x cupy-cuda13x, then install the one that fits: pip install" in refused()
    )


def test_which_cupy_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet_cupy.trouble import installed

    def version(name: str) -> str:
        if name in ("cupy", "cupy-cuda12x"):
            return "14"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert installed() == ["cupy", "cupy-cuda12x"]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: no such file"),
            "CuPy compiles its kernels with NVRTC",
        ),
        (RuntimeError("Failed to find CUDA headers: cuda_fp16.h"), 'pip install "bpnet-xp[cuda12]"'),
        (OutOfMemoryError("Out of memory allocating 512 bytes"), "the GPU has no memory left: `nvidia-smi` shows who"),
        (RuntimeError("cudaErrorDevicesUnavailable"), "see `nvidia-smi` and `bpnet doctor`"),
    ],
)
def test_a_gpu_that_can_run_no_kernel(install: Callable[..., Stub], error: BaseException, remedy: str) -> None:
    stub = install(compile_error=error)
    text = refused()
    assert f"cannot run a kernel on the GPU ({type(error).__name__}: {error}): " in text
    assert remedy in text
    stub.compile_error = None
    assert bp.get_backend("cupy").name == "cupy"  # once it is put right, in the same process


def test_lack_of_memory_names_the_layer_the_amount_and_the_limit(
    install: Callable[..., Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = install()
    monkeypatch.setenv("CUPY_GPU_MEMORY_LIMIT", "4GiB")
    x, y = data(8)
    trainer = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)
    plain = bp.Trainer(model(), bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend="cupy", capture="off", seed=0)

    def none_left(self: bp.Layer, x: Any) -> Any:
        raise OutOfMemoryError("Out of memory allocating 12,800,000 bytes (allocated so far: 3,221,225,472 bytes).")

    with monkeypatch.context() as patch:
        patch.setattr(bp.ReLU, "forward", none_left)
        stub.log.clear()
        with pytest.raises(bp.OutOfMemoryError) as raised:
            trainer.step(x, y)
    assert str(raised.value).startswith(
        "out of memory in none_left of ReLU(), layer '1' with a batch of 8: Out of memory"
    )
    assert (
        "allocating 12,800,000 bytes (allocated so far: 3,221,225,472 bytes); bpnet's process uses 3.00 GiB, "
        "the GPU has 1.00 GiB of 4.00 GiB free, CUPY_GPU_MEMORY_LIMIT is 4GiB. Take a smaller batch"
        in str(raised.value)
    )
    assert ("free all",) in stub.log
    for _ in range(3):
        assert trainer.step(x, y).tobytes() == plain.step(x, y).tobytes()


def test_a_numpy_array_is_refused_by_a_layer_on_the_gpu(install: Callable[..., Stub]) -> None:
    install()
    net = bp.Dense(6, 3).initialize(backend="cupy")
    x = data()[0]
    with pytest.raises(
        bp.DTypeError, match=r"Dense\(6, 3\) holds cupy.ndarray arrays, got numpy.ndarray; bring it over"
    ):
        net(x)
    net(net.asarray(x))
    y = net.forward(net.asarray(x))
    with pytest.raises(bp.DTypeError, match=r"Dense\(6, 3\).backward needs dy as a cupy.ndarray, got numpy"):
        net.backward(np.zeros(y.shape, np.float32))


def test_products_without_cublaslt_are_cupys_and_that_is_said_once(
    install: Callable[..., Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpnet_cupy import cublaslt, memory, products

    stub = install()
    products.gemm.cache_clear()
    monkeypatch.setattr(memory, "_said", set())

    def none() -> Any:
        raise cublaslt.CublasLtError("cublasLt cannot be loaded (no file); it comes with pip install ...")

    monkeypatch.setattr(cublaslt, "load", none)
    a, b, out = stub.asarray(np.eye(2)), stub.asarray([[1.0, 2.0], [3.0, 4.0]]), stub.zeros((2, 2))
    with pytest.warns(RuntimeWarning, match="cublasLt cannot be loaded .*; products are CuPy's then, which") as said:
        calls = [products.product(out, a, b) for _ in range(2)]
    assert calls[1] is not None
    calls[1]()
    assert len(said) == 1
    assert out.tolist() == b.tolist()
    assert products.product(out, a, b, bias=stub.zeros(2)) is None
    call = products.product(out, a, b, alpha=2.0, beta=0.5)
    assert call is not None
    call()
    assert out.tolist() == [[2.5, 5.0], [7.5, 10.0]]
    halves = stub.asarray(np.array([[0x3F80, 0x4000], [0x4040, 0x4080]], np.uint16))  # 1, 2; 3, 4
    single = stub.zeros((2, 2), "float32")
    for left, right, beta, expected in (
        (halves, halves, 0.0, [[7, 10], [15, 22]]),
        (halves.T, halves, 0.0, [[10, 14], [14, 20]]),
        (halves, halves.T, 1.0, [[15, 25], [25, 45]]),
    ):
        call = products.product(single, left, right, beta=beta)
        assert call is not None
        call()
        assert single.tolist() == expected
    products.gemm.cache_clear()
