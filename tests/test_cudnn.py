"""Convolutions and attention by cuDNN: what is asked of it, the choice of plans, and what happens without one."""

from __future__ import annotations

import gc
import math
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_cases import cases_of
from fake_cublaslt import HostMemory
from fake_cudnn import FakeCudnn

import bpnet as bp
from bpnet import ops
from bpnet.dispatch import kernels
from bpnet.ops.windows import Window
from bpnet.testing.kernels import assert_close, call
from bpnet_cupy import cudnn as by_cudnn
from bpnet_cupy import memory as memories
from bpnet_cupy.cudnn import Cudnn, CudnnError
from bpnet_cupy.cudnn_graphs import Attention, Convolution
from bpnet_cupy.gemm import PER_THREAD_STREAM
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.kernels import by_cudnn as convolution_variants
from bpnet_cupy.kernels import by_cudnn_attention as attention_variants
from bpnet_cupy.problem import precision

KINDS = {
    "conv2d": ("fprop",),
    "conv2d_backward": ("dgrad", "wgrad"),
    "conv_transpose2d": ("dgrad",),
    "conv_transpose2d_backward": ("fprop", "wgrad"),
}
CONVOLUTIONS = list(KINDS)
OF_BITS = {name.replace("2d", "2d_bf16"): kinds for name, kinds in KINDS.items()}
ATTENTION = ["attention", "attention_backward", "self_attention", "self_attention_backward"]
ATTENTION_OF_BITS = [name.replace("attention", "attention_bf16") for name in ATTENTION]
OP = sys.modules["bpnet.ops.attention"]  # the module: the op has its name
DESCRIPTION = Convolution(
    "fprop", (2, 5, 6, 4), (3, 3, 4, 8), (2, 5, 6, 8), (1, 1), (1, 1), ((1, 1), (1, 1)), "float32"
)


class Memory(HostMemory):
    """The memory of arrays of `cuda_host`, and of buffers."""

    def pointer(self, x: Any) -> int:
        return super().pointer(x.array if isinstance(x, HostArray) else x)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "_said", set())


@contextmanager
def asked(module: FakeCudnn) -> Iterator[Cudnn]:
    """The variants by cuDNN before those of `cuda_host`."""
    driver = cuda_host.driver()
    library = Cudnn(module, Memory())
    before = {op: list(op._registered.get(HostArray, ())) for op in kernels()}
    for each in (convolution_variants, attention_variants):
        each.register(HostArray, driver, lambda: library)
    try:
        yield library
    finally:
        for op, found in before.items():
            if found:
                op._registered[HostArray] = found
                op._clear()


def of_cudnn(name: str) -> Any:
    found = next(v for k, v in cuda_host.variants() if k.name == name and v.name == "cudnn")
    return found


# --- results ---


def as_bf16(x: Any) -> Any:
    return ops.from_bf16(ops.to_bf16(x)) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


@pytest.mark.cuda_host
@pytest.mark.parametrize("mode", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_by_cudnn_means_what_the_reference_means(name: str, mode: str) -> None:
    module, accepted = FakeCudnn(), 0
    with asked(module), precision(mode):
        op, variant = getattr(ops, name), of_cudnn(name)
        for args in cases_of(name, "float32"):
            if mode == "bf16":  # what is rounded on the way is rounded before, so that nothing is left to tolerances
                args = (*map(as_bf16, args[:2]), as_bf16(args[2]) if name.endswith("backward") else args[2], *args[3:])
            own = cuda_host.brought(args)
            if not variant.accepts(*own):
                continue
            assert op.choose(own) is variant
            accepted += 1
            expected, after = call(op.reference.body, args)
            assert_close(cuda_host.back(variant.body(*own)), expected, "float32")
            assert all(
                a is b or a.tobytes() == b.tobytes() for a, b in zip(own, after, strict=True) if hasattr(a, "tobytes")
            )
    assert accepted > 10
    assert module.executed
    assert {kind for kind, _ in module.executed} == set(KINDS[name])


@pytest.mark.cuda_host
@pytest.mark.parametrize("factors", ["BFLOAT16", "FLOAT"])
@pytest.mark.parametrize("name", OF_BITS)
def test_a_convolution_of_bits_by_cudnn_means_what_the_reference_means(name: str, factors: str) -> None:
    """Whatever `matmul_precision` is: of bits, or of the numbers that they are where cuDNN has no plan for bits."""
    module = FakeCudnn(lacks=lambda _, kind: "" if kind == factors else "no")
    accepted = 0
    with asked(module), warnings.catch_warnings():
        warnings.simplefilter("error")
        op, variant = getattr(ops, name), of_cudnn(name)
        for args in cases_of(name, "float32"):
            own = cuda_host.brought(args)
            if not variant.accepts(*own):
                continue
            assert op.choose(own) is variant
            accepted += 1
            expected, after = call(op.reference.body, args)
            assert_close(cuda_host.back(variant.body(*own)), expected, "float32")
            assert all(
                a is b or a.tobytes() == b.tobytes() for a, b in zip(own, after, strict=True) if hasattr(a, "tobytes")
            )
    assert accepted > 10
    assert {kind for kind, _ in module.executed} == set(OF_BITS[name])
    planned = [graph for graph in module.graphs if graph.chosen is not None]
    assert {t.data_type.name for graph in planned for t in graph.tensors if t.given} == {factors}
    assert {t.data_type.name for graph in planned for t in graph.tensors if t.output} == {"FLOAT"}


@pytest.mark.cuda_host
def test_what_cudnn_has_no_plan_for_is_multiplied_in_bits_by_the_kernels() -> None:
    module = FakeCudnn(lacks=lambda kind, _: "no engine for this" if kind == "dgrad" else "")
    rng = np.random.default_rng(0)
    x, W, dy = (rng.normal(size=s).astype(np.float32) for s in ((2, 5, 5, 3), (3, 3, 3, 4), (2, 3, 3, 4)))
    args = (dy, ops.to_bf16(x), ops.to_bf16(W), Window((3, 3)), 1)
    with asked(module), pytest.warns(RuntimeWarning, match="dgrad of a convolution of tf32 images"):
        found = ops.conv2d_bf16_backward(*cuda_host.brought(args))
    assert [kind for kind, _ in module.executed] == ["wgrad"]
    assert_close(cuda_host.back(found), ops.conv2d_bf16_backward.reference.body(*args), "float32")


def test_float64_depthwise_and_one_pixel_are_not_asked_for() -> None:
    if cuda_host.why_not():
        pytest.skip(cuda_host.why_not())
    x = np.ones((2, 4, 4, 3), np.float32)
    with asked(FakeCudnn()):
        accepts = of_cudnn("conv2d").accepts
        for dtype, window, groups, expected in (
            ("float32", Window((2, 2)), 1, True),
            ("float64", Window((2, 2)), 1, False),
            ("float32", Window((1, 1)), 1, False),
            ("float32", Window((1, 1), (2, 2)), 1, True),
            ("float32", Window((2, 2)), 3, False),
            ("float32", Window((5, 5)), 1, False),
        ):
            W = np.ones((*window.size, 3 // groups, 6), dtype)
            assert accepts(*cuda_host.brought((x.astype(dtype), W, None, window, groups))) is expected


def attention_arguments(name: str, causal: bool, lengths: tuple[int, int]) -> tuple[Any, ...]:
    rng, (queries, keys) = np.random.default_rng(5), lengths
    heads, width = 2, 16
    shape = {"q": (3, queries, width), "k": (3, keys, width)}

    def normal(*shape: int) -> Any:
        return as_bf16(rng.normal(size=shape).astype(np.float32))

    joined = "self" in name
    factors = (
        (normal(3, queries, 3 * width),) if joined else (normal(*shape["q"]), *(normal(*shape["k"]) for _ in "kv"))
    )
    if "bf16" in name:
        factors = tuple(map(ops.to_bf16, factors))
    settings = (None, None, heads, causal, 0.0)
    if not name.endswith("backward"):
        return (*factors, *settings)
    forward = getattr(ops, name.removesuffix("_backward"))
    y, kept = forward.reference.body(*factors, *settings)
    return (normal(*shape["q"]), y, *factors, kept, *settings)


@pytest.mark.cuda_host
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ATTENTION + ATTENTION_OF_BITS)
def test_attention_by_cudnn_means_what_the_reference_means_to_bfloat16(
    name: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OP, "KEPT", 8)  # so that probabilities are not kept
    module = FakeCudnn()
    for lengths in ((9, 9),) if "self" in name else ((9, 9), (4, 11), (1, 7)):
        args = attention_arguments(name, causal, lengths)
        own = cuda_host.brought(args)
        with asked(module):
            variant = of_cudnn(name)
            if "bf16" not in name:
                assert not variant.accepts(*own), "in float32 it is not cuDNN's"
            with precision("float32" if "bf16" in name else "bf16"):
                assert variant.accepts(*own)
                assert getattr(ops, name).choose(own) is variant
                found = cuda_host.back(variant.body(*own))
        expected = getattr(ops, name).reference.body(*args)
        pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        for a, b in pairs:
            assert a.shape == b.shape
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * float(np.abs(b).max()))
    assert module.executed


@pytest.mark.cuda_host
def test_masks_dropping_kept_probabilities_and_blind_queries_are_left_to_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v, *_ = attention_arguments("attention", True, (4, 6))
    mask = np.ones((3, 6), bool)
    keep = np.ones((3, 2, 4, 6), bool)
    with asked(FakeCudnn()), precision("bf16"):
        accepts = of_cudnn("attention").accepts
        brought = cuda_host.brought
        assert not accepts(*brought((q, k, v, None, None, 2, True, 0.0))), "small: probabilities are kept"
        monkeypatch.setattr(OP, "KEPT", 8)
        assert accepts(*brought((q, k, v, None, None, 2, True, 0.0)))
        assert not accepts(*brought((q, k, v, mask, None, 2, True, 0.0)))
        assert not accepts(*brought((q, k, v, None, keep, 2, True, 0.5)))
        assert not accepts(*brought((k, q, q, None, None, 2, True, 0.0))), "six queries and four keys: two see nothing"
        assert accepts(*brought((k, q, q, None, None, 2, False, 0.0)))
        with pytest.warns(RuntimeWarning, match="hidden_dim"), asked(FakeCudnn(lacks=lambda *_: "hidden_dim")):
            assert not of_cudnn("attention").accepts(*brought((q, k, v, None, None, 2, True, 0.0)))


@pytest.mark.cuda_host
def test_bits_are_handed_to_attention_as_they_are_unless_they_lie_oddly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OP, "KEPT", 8)
    qkv, *rest = attention_arguments("self_attention_bf16", True, (9, 9))
    flat = np.zeros(qkv.size + 32, np.uint16)
    start = next(i for i in range(8) if (flat.ctypes.data + 2 * i) % 16 == 0)
    with asked(FakeCudnn()):
        variant, accepted = of_cudnn("self_attention_bf16"), []
        for offset in (0, 1):
            place = flat[start + offset : start + offset + qkv.size].reshape(qkv.shape)
            accepted.append(variant.accepts(HostArray(place), *rest))
            if accepted[-1]:
                calls = variant.bind(
                    cuda_host.brought(variant.allocate(HostArray(place), *rest)), HostArray(place), *rest
                )
                assert [getattr(each, "name", "cudnn") for each in calls] == ["cudnn", "from_bf16<0>"]
    assert accepted == [True, False]


@pytest.mark.cuda_host
@pytest.mark.parametrize("tensor", ["Y", "DX", "DW", "O", "Stats", "DQ", "DK", "DV"])
def test_a_wrong_number_of_cudnns_is_found(tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons above can fail, for every result."""
    module = FakeCudnn()
    module.spoil = lambda name, values: values + (np.arange(values.size).reshape(values.shape) == 5) * (name == tensor)
    monkeypatch.setattr(f"{__name__}.FakeCudnn", lambda: module)
    forward = tensor in ("Y", "O", "Stats")
    if tensor in ("Y", "DX", "DW"):
        with pytest.raises(AssertionError):
            test_a_convolution_by_cudnn_means_what_the_reference_means(CONVOLUTIONS[not forward], "float32")
    else:
        with pytest.raises(AssertionError):
            test_attention_by_cudnn_means_what_the_reference_means_to_bfloat16(
                "self_attention" if forward else "attention_backward", False, monkeypatch
            )


WRONG: dict[str, Any] = {
    "stride": (2, 1),
    "dilation": (1, 2),
    "padding": ((0, 1), (1, 1)),
    "filters": (3, 3, 2, 8),
    "images": (2, 5, 6, 8),
}


@pytest.mark.cuda_host
@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_description_is_found(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field, changed on the way to the graph, makes a comparison fail."""
    real = Convolution.build

    def wrong(self: Convolution, cudnn: Any, graph: Any) -> None:
        real(replace(self, **{field: WRONG[field]}), cudnn, graph)

    monkeypatch.setattr(Convolution, "build", wrong)
    with pytest.raises((AssertionError, CudnnError, ValueError)):
        test_a_convolution_by_cudnn_means_what_the_reference_means("conv2d", "float32")


# --- training ---


def images() -> tuple[Any, tuple[int, ...]]:
    layers = bp.Conv2d(2, 4, 3, padding="same"), bp.ReLU(), bp.Conv2d(4, 8, 3, stride=2), bp.Flatten(), bp.Dense(72, 3)
    return bp.Sequential(*layers), (8, 8, 2)


def sequences() -> tuple[Any, tuple[int, ...]]:
    return bp.Sequential(bp.TransformerBlock(16, 2, causal=True), bp.Flatten(), bp.Dense(96, 3)), (6, 16)


def trained(net: Any = images, **options: Any) -> dict[str, Any]:
    rng, (model, shape) = np.random.default_rng(0), net()
    x, labels = rng.normal(size=(24, *shape)).astype(np.float32), rng.integers(0, 3, 24)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.01), backend=cuda_host.NAME, seed=1, **options)
    trainer.fit(x, labels, epochs=2, batch_size=8, progress=False)
    return {name: bp.to_numpy(array) for name, array in model.store.arrays().items()}


@pytest.mark.cuda_host
def test_a_net_trains_as_without_cudnn_and_planned_as_eager() -> None:
    plain, module = trained(), FakeCudnn()
    with asked(module):
        planned = trained()
        assert {kind for kind, _ in module.executed} == {"fprop", "dgrad", "wgrad"}
        eager = trained(plan=False)
    for name, found in planned.items():
        assert found.tobytes() == eager[name].tobytes(), name
        np.testing.assert_allclose(found, plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.cuda_host
@pytest.mark.parametrize("net", [images, sequences])
def test_a_net_in_bfloat16_trains_as_without_cudnn_and_planned_as_eager(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OP, "KEPT", 8)
    plain, module = trained(net, precision="bf16"), FakeCudnn()
    with asked(module):
        planned = trained(net, precision="bf16")
        expected = {"fprop", "dgrad", "wgrad"} if net is images else {"forward", "backward"}
        assert {kind for kind, _ in module.executed} == expected
        assert {g.tensors[0].data_type.name for g in module.graphs} == {"BFLOAT16"}
        eager = trained(net, precision="bf16", plan=False)
    for name, found in planned.items():
        assert found.tobytes() == eager[name].tobytes(), name
        if found.dtype == np.float32:  # as a whole: Adam makes steps of the rounding errors of a bias of keys
            assert np.linalg.norm(found - plain[name]) <= 0.03 * np.linalg.norm(plain[name]), name


# --- plans ---


def made(module: FakeCudnn) -> tuple[Cudnn, Memory]:
    memory = Memory()
    return Cudnn(module, memory), memory


def test_the_first_plan_that_keeps_precision_and_order_is_taken() -> None:
    for mode, expected in (("float32", 2), ("tf32", 1), ("bf16", 1)):
        module = FakeCudnn()
        library, _ = made(module)
        assert library.plan(replace(DESCRIPTION, mode=mode)) is not None
        assert module.graphs[-1].chosen == expected
        assert [m.name for m in module.graphs[-1].modes] == ["A", "FALLBACK"]
    module = FakeCudnn()
    library, _ = made(module)
    assert library.plan(Attention("backward", (2, 2, 64, 64, 8), True, joined=True)) is not None
    assert module.graphs[-1].chosen == 1
    assert [m.name for m in module.graphs[-1].modes] == ["A"]


def test_plans_are_kept_by_description_and_device() -> None:
    module = FakeCudnn()
    library, memory = made(module)
    first = library.plan(DESCRIPTION)
    assert library.plan(replace(DESCRIPTION)) is first
    assert len(module.graphs) == 1
    others = [
        replace(DESCRIPTION, mode="tf32"),
        replace(DESCRIPTION, kind="wgrad"),
        replace(DESCRIPTION, images=(4, 5, 6, 4), places=(4, 5, 6, 8)),
        replace(DESCRIPTION, filters=(3, 3, 2, 8)),
        replace(DESCRIPTION, padding=((2, 0), (1, 1))),
    ]
    assert len({id(library.plan(each)) for each in (DESCRIPTION, *others)}) == 6
    memory.current_device = 1
    assert library.plan(DESCRIPTION) is not first


def test_where_there_is_no_plan_it_is_said_once_and_the_kernels_compute() -> None:
    if cuda_host.why_not():
        pytest.skip(cuda_host.why_not())
    module = FakeCudnn(lacks=lambda kind, _: "no engine for this" if kind == "wgrad" else "")
    rng = np.random.default_rng(0)
    x, W = rng.normal(size=(2, 5, 5, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    dy = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    args = (dy, x, W, Window((3, 3)), 1)
    expected = ops.conv2d_backward.reference.body(*args)
    with asked(module) as library:
        with pytest.warns(RuntimeWarning) as said:
            found = ops.conv2d_backward(*cuda_host.brought(args))
        assert [str(each.message) for each in said] == [
            "cuDNN has no plan for the wgrad of a convolution of float32 images (2, 5, 5, 3) with 4 filters (3, 3, 3) "
            "that keeps its precision and adds in a fixed order (NotSupported: no engine for this); bpnet's own "
            "kernels compute it, and others like it"
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = ops.conv2d_backward(*cuda_host.brought(args))
        assert [kind for kind, _ in module.executed] == ["dgrad", "dgrad"]
        assert library.why_not(variants_description("wgrad", x, W, dy)) == "NotSupported: no engine for this"
    for result in (found, again):
        assert_close(cuda_host.back(result), expected, "float32")


@pytest.mark.cuda_host
def test_products_of_bfloat16_that_cudnn_cannot_sum_in_float32_are_made_in_tf32() -> None:
    module = FakeCudnn(lacks=lambda kind, factors: "no" if factors == "BFLOAT16" and kind != "fprop" else "")
    rng = np.random.default_rng(0)
    x, W, dy = (rng.normal(size=s).astype(np.float32) for s in ((2, 5, 5, 3), (3, 3, 3, 4), (2, 3, 3, 4)))
    args = (dy, x, W, Window((3, 3)), 1)
    with asked(module), precision("bf16"), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ops.conv2d_backward(*cuda_host.brought(args))
        ops.conv2d(*cuda_host.brought((x, W, None, Window((3, 3)), 1)))
    used = [
        (graph.name, graph.tensors[0].data_type.name) for graph in module.graphs if graph.steps[-1] == "build_plans"
    ]
    assert sorted(used) == [("dgrad", "FLOAT"), ("fprop", "BFLOAT16"), ("wgrad", "FLOAT")]
    assert_close(cuda_host.back(found), ops.conv2d_backward.reference.body(*args), "float32")


def variants_description(kind: str, x: Any, W: Any, dy: Any) -> Convolution:
    return Convolution(kind, x.shape, W.shape, dy.shape, (1, 1), (1, 1), ((0, 0), (0, 0)), "float32")


@pytest.mark.cuda_host
def test_arrays_at_odd_addresses_are_left_to_the_kernels() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=2 * 5 * 5 * 3 + 64).astype(np.float32)
    start = next(i for i in range(4) if (flat.ctypes.data + 4 * i) % 16 == 4)
    x = HostArray(flat[start : start + 150].reshape(2, 5, 5, 3))
    W = HostArray(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))
    with asked(FakeCudnn()):
        variant = of_cudnn("conv2d")
        assert not variant.accepts(x, W, None, Window((3, 3)), 1)
        own = cuda_host.brought((x.array, W.array, None, Window((3, 3)), 1))
        own = (HostArray(aligned(x.array)), *own[1:])
        assert variant.accepts(*own)
        place = flat[start : start + 2 * 3 * 3 * 4]  # an unaligned result
        out = HostArray(place.reshape(2, 3, 3, 4))
        calls = variant.bind(out, *own)
        assert not any(type(each).__name__ == "Execution" for each in calls)


def aligned(x: Any) -> Any:
    found = HostMemory().empty(x.shape, str(x.dtype))
    found[...] = x
    return found


# --- handles, workspaces, streams ---


def prepared(library: Cudnn, memory: Memory) -> Any:
    shapes = {1: DESCRIPTION.images, 2: (8, 3, 3, 4), 3: DESCRIPTION.places}
    return library.call(DESCRIPTION, {k: memory.asarray(np.zeros(s, np.float32)) for k, s in shapes.items()})


def test_each_stream_has_a_handle_and_a_workspace_that_calls_share() -> None:
    module = FakeCudnn()
    library, memory = made(module)
    run = prepared(library, memory)
    memory.current_stream = 5
    memory.allocated.clear()
    run()
    prepared(library, memory)()
    memory.current_stream = 9
    run()
    memory.current_stream = 5
    run()
    assert [stream for _, stream in module.executed] == [5, 5, 9, 5]
    assert sorted(module.streams.values()) == [0, 5, 9]  # 0 made the plan
    assert [shape for shape, dtype in memory.allocated if dtype == "uint8"] == [(48,), (48,)]


def test_a_stream_that_is_prepared_needs_nothing_more_in_a_capture() -> None:
    module = FakeCudnn()
    library, memory = made(module)
    run = prepared(library, memory)
    memory.current_stream = 3
    library.prepare_stream()
    memory.allocated.clear()
    handles = len(module.streams)
    run()
    assert not memory.allocated
    assert len(module.streams) == handles
    assert module.executed == [("fprop", 3)]


def test_a_workspace_grows_and_one_that_a_graph_names_stays() -> None:
    module = FakeCudnn(workspace_bytes=16)
    library, memory = made(module)
    prepared(library, memory)()
    eager = weakref.ref(library._workspaces[0, 0, 0][0])
    memory.current_stream = 4
    library.prepare_stream()
    captured = weakref.ref(library._workspaces[0, 4, 0][0])
    module.workspace_bytes = 64
    library.call(replace(DESCRIPTION, mode="tf32"), {})
    library.prepare_stream()
    memory.current_stream = 0
    library._workspace()
    assert [size for _, _, size in library._workspaces.values()] == [64, 64]
    gc.collect()
    assert eager() is None
    assert captured() is not None


def test_lack_of_memory_is_no_lack_of_a_plan() -> None:
    """Another method would give other bits than a run that had the memory."""
    module = FakeCudnn(lacks=lambda *_: "CUDNN_STATUS_ALLOC_FAILED")
    library, _ = made(module)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        library.plan(DESCRIPTION)
    module.lacks = lambda *_: ""
    assert library.plan(DESCRIPTION) is not None


def test_threads_have_their_own_handles_where_the_stream_is_the_threads() -> None:
    module = FakeCudnn()
    library, memory = made(module)
    memory.current_stream = PER_THREAD_STREAM
    run = prepared(library, memory)
    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert list(module.streams.values()) == [PER_THREAD_STREAM, PER_THREAD_STREAM]


def test_no_workspace_is_taken_where_no_plan_needs_one() -> None:
    module = FakeCudnn(workspace_bytes=0)
    library, memory = made(module)
    run = prepared(library, memory)
    memory.allocated.clear()
    run()
    assert not memory.allocated


# --- errors ---


def test_a_failure_names_the_operation_and_the_way_around() -> None:
    module = FakeCudnn()
    library, memory = made(module)
    run = prepared(library, memory)
    module.fails = "CUDNN_STATUS_EXECUTION_FAILED\nmore"
    with pytest.raises(CudnnError) as raised:
        run()
    assert str(raised.value) == (
        "cuDNN failed at the fprop of a convolution of float32 images (2, 5, 6, 4) with 8 filters (3, 3, 4): "
        "RuntimeError: CUDNN_STATUS_EXECUTION_FAILED; BPNET_CUDNN=0 computes without it"
    )


def test_a_driver_that_is_too_old_is_said_with_the_remedy() -> None:
    module = FakeCudnn()
    module.create_handle = lambda: exec("raise RuntimeError('no driver')")  # type: ignore[assignment, method-assign]
    library, _ = made(module)
    with pytest.raises(CudnnError) as raised:
        library.prepare_stream()
    assert str(raised.value) == (
        "cuDNN cannot be started on the GPU (RuntimeError: no driver); is the driver new enough for cuDNN 9.28.1 by "
        "nvidia-cudnn-frontend 1.26.0? BPNET_CUDNN=0 computes without it"
    )


def put(
    monkeypatch: pytest.MonkeyPatch, module: Any, *, cupy: tuple[str, ...] = (), present: tuple[str, ...] = ()
) -> None:
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(by_cudnn, "installed", lambda: list(cupy))
    monkeypatch.setattr(by_cudnn, "_is_installed", lambda name: name in present)


def test_what_is_wrong_with_an_installation_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    install = 'pip install "bpnet-xp[cudnn12]" (or [cudnn13], as CuPy is for CUDA 12 or 13)'

    def refused() -> str:
        with pytest.raises(CudnnError) as raised:
            by_cudnn.load()
        return str(raised.value)

    put(monkeypatch, None)
    assert refused().startswith("nvidia-cudnn-frontend cannot be imported (")
    assert refused().endswith(f"; {install}")

    def missing() -> int:
        raise RuntimeError("Unable to dlopen libcudnn\nat")

    put(monkeypatch, SimpleNamespace(backend_version=missing))
    assert refused() == (
        "nvidia-cudnn-frontend finds no cuDNN (RuntimeError: Unable to dlopen libcudnn): its library libcudnn.so.9 "
        f"comes with {install}"
    )
    put(monkeypatch, FakeCudnn(version=90100))
    assert refused() == f"cuDNN 9.1.0 is too old, bpnet needs 9.28.0: {install}"
    put(monkeypatch, FakeCudnn(), cupy=("cupy-cuda12x",), present=("nvidia-cudnn-cu13",))
    assert refused() == (
        "nvidia-cudnn-cu13 is for CUDA 13, and this CuPy is for CUDA 12: pip uninstall nvidia-cudnn-cu13, then pip "
        "install nvidia-cudnn-cu12"
    )
    put(monkeypatch, FakeCudnn(), cupy=("cupy-cuda13x",), present=("nvidia-cudnn-cu13",))
    assert by_cudnn.load().backend_version() == 92801


def test_who_computes_convolutions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, FakeCudnn())
    monkeypatch.setattr(by_cudnn, "find_spec", lambda name: object())
    assert by_cudnn.convolutions_by() == "cuDNN 9.28.1 by nvidia-cudnn-frontend 1.26.0"
    put(monkeypatch, FakeCudnn(version=90100))
    assert by_cudnn.convolutions_by().startswith("bpnet's kernels and cublasLt, because cuDNN 9.1.0 is too old")
    monkeypatch.setenv("BPNET_CUDNN", "0")
    assert by_cudnn.convolutions_by() == "bpnet's kernels and cublasLt, because BPNET_CUDNN is 0"
    monkeypatch.delenv("BPNET_CUDNN")
    monkeypatch.setattr(by_cudnn, "find_spec", lambda name: None)
    assert by_cudnn.convolutions_by() == (
        "bpnet's kernels and cublasLt, because the extra cudnn12 or cudnn13 is not installed"
    )


def test_the_library_is_asked_for_once_and_its_lack_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(cuda=SimpleNamespace(runtime=None, get_current_stream=None))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(by_cudnn, "find_spec", lambda name: object())
    by_cudnn.library.cache_clear()
    try:
        put(monkeypatch, FakeCudnn(version=90100))
        with pytest.warns(RuntimeWarning, match=r"too old.*; convolutions and attention are computed by bpnet's own"):
            assert by_cudnn.library() is None
        assert by_cudnn.library() is None
        by_cudnn.library.cache_clear()
        put(monkeypatch, FakeCudnn())
        found = by_cudnn.library()
        assert found is not None
        assert by_cudnn.library() is found
        module = found.module
        found.memory = Memory()
        by_cudnn.prepare_stream()  # nothing was prepared, so nothing is made
        assert not module.streams
        module.workspace_bytes = 0
        found.call(DESCRIPTION, {})
        found.memory.current_stream = 6
        by_cudnn.prepare_stream()  # calls that need no workspace need a handle
        assert list(module.streams.values()) == [0, 6]
        by_cudnn.library.cache_clear()
        monkeypatch.setenv("BPNET_CUDNN", "0")
        assert by_cudnn.library() is None
    finally:
        by_cudnn.library.cache_clear()


def test_descriptions_say_what_they_are() -> None:
    assert str(Attention("forward", (2, 4, 100, 50, 16), False, joined=False)) == (
        "forward of attention of 2 x 4 heads of 16 features, 100 queries and 50 keys"
    )
    assert Attention.WORKSPACE > Convolution.WORKSPACE > math.prod((64, 1024, 1024))
