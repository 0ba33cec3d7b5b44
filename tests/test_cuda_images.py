"""CUDA kernels of images, norms and tables on the host: parts of the work, any geometry, planted errors, whole nets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_cases import cases_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_cuda_checks import changed_kernels

import bpnet as bp
from bpnet import ops
from bpnet.ops.windows import Window
from bpnet.testing.kernels import assert_close, call
from bpnet_cupy import names, names_images
from bpnet_cupy.driver import source
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.build import Kernels
from bpnet_cupy.host.driver import HostLaunch, HostProduct
from bpnet_cupy.kernels import axes, convolution, tables
from bpnet_cupy.kernels.axes import as_swap

pytestmark = pytest.mark.cuda_host
CONVOLUTIONS = ("conv2d", "conv2d_backward", "conv_transpose2d", "conv_transpose2d_backward")
IN_PACKS = (
    "max_pool2d", "avg_pool2d_backward", "batch_norm", "group_norm_backward", "layer_norm", "rms_norm_backward",
    "embedding", "embedding_backward", "transpose", "swiglu_backward", "add_positions", "gelu_with_slope",
)  # fmt: skip


def hold(name: str, args: tuple[Any, ...], dtype: str = "float32") -> bool:
    """Whether the variant takes the arguments; it then gives what the reference gives."""
    op, variant = next((k, v) for k, v in cuda_host.variants() if k.name == name)
    own = cuda_host.brought(args)
    assert variant.accepts is not None
    if not variant.accepts(*own):
        return False
    expected, after = call(op.reference.body, args)
    assert_close(cuda_host.back(variant.body(*own)), expected, dtype)
    changed = [(a, b) for a, b in zip(cuda_host.back(own), after, strict=True) if isinstance(b, np.ndarray)]
    assert_close(tuple(a for a, _ in changed), tuple(b for _, b in changed), dtype)
    return True


def hold_all(name: str, largest: int = 1500) -> int:
    held = 0
    for args in cases_of(name, "float32"):
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        if all(0 < a.size <= largest for a in arrays):
            held += hold(name, args)
    return held


# --- a part of the work at a time ---


@pytest.mark.parametrize("numbers", [1, 130, 700])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_in_parts_means_the_same(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One place at a time; parts that begin and end in the middle of a sample; a few samples at a time."""
    monkeypatch.setattr(convolution, "WORKSPACE", numbers)
    assert hold_all(name, 700 if numbers < 100 else 1500) > 20


def test_a_convolution_takes_no_more_memory_than_its_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "WORKSPACE", 1000)
    taken: list[int] = []
    driver = cuda_host.driver()
    empty = driver.empty
    monkeypatch.setattr(driver, "empty", lambda shape, dtype: taken.append(int(np.prod(shape))) or empty(shape, dtype))
    rng = np.random.default_rng(0)
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    for groups in (1, 2):
        x, W = rng.normal(size=(9, 12, 10, 8)), rng.normal(size=(3, 3, 8 // groups, 6))
        dy = rng.normal(size=(9, 12, 10, 6))
        outputs = {x.size, W.size, dy.size, 6}
        taken.clear()
        ops.conv2d(*cuda_host.brought((x, W, None, window, groups)))
        ops.conv2d_backward(*cuda_host.brought((dy, x, W, window, groups)))
        assert max(each for each in taken if each not in outputs) <= 1000


def test_the_usual_layers_are_computed_in_one_part() -> None:
    """Two launches and a product or so, not hundreds."""
    x, W = np.ones((64, 28, 28, 1), np.float32), np.ones((3, 3, 1, 16), np.float32)
    driver = cuda_host.driver()
    driver.launches.clear()
    driver.run = False
    try:
        ops.conv2d(*cuda_host.brought((x, W, np.ones(16, np.float32), Window((3, 3)), 1, ops.relu)))
        launched = [each.name for each in driver.launches]
    finally:
        driver.run = True
    assert launched == ["gather_windows<float>", "bias_activation<float, Relu>"]


def test_grids_that_are_smaller_than_the_work_go_through_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axes, "GRID_YZ", 1)
    monkeypatch.setattr(tables, "GRID_Y", 2)
    with cuda_host.mode(orders=(0, 1, 5)):
        assert hold_all("transpose", 5000) >= 7
        assert hold_all("embedding_backward") >= 4


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *IN_PACKS])
def test_arrays_that_begin_anywhere_give_the_same_numbers(name: str) -> None:
    """What is not at a multiple of 16 bytes is moved element by element."""
    op, variant = next((k, v) for k, v in cuda_host.variants() if k.name == name)
    seen = 0
    for args in cases_of(name, "float32"):
        if any(isinstance(a, np.ndarray) and not 2 < a.size <= 1500 for a in args):
            continue
        shifted = tuple(moved_by_one(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else cuda_host.brought(a)
                        for a in args)  # fmt: skip
        assert variant.accepts is not None
        if not variant.accepts(*shifted):
            continue
        with cuda_host.mode(orders=(0, 5)):
            assert_close(cuda_host.back(variant.body(*shifted)), call(op.reference.body, args)[0], "float32")
        seen += 1
    assert seen > 3


def moved_by_one(x: Any) -> HostArray:
    room = cuda_host.driver().zeros(x.size + 1, x.dtype).array
    room[1:] = x.reshape(-1)
    return HostArray(room[1:].reshape(x.shape))


# --- anything ---


@st.composite
def geometries(draw: Any) -> tuple[tuple[int, int, int, int], int, int, Window]:
    """The shape of images, outputs, groups and a window that stands somewhere."""
    small, pair = st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))
    pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
    window = Window(draw(pair), draw(pair), draw(pair), (draw(pads), draw(pads)))
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    channels, outputs = groups * draw(small), groups * draw(small)
    shape = (draw(small), draw(st.integers(1, 7)), draw(st.integers(1, 7)), channels)
    assume(all(window.places(*shape[1:3])))
    return shape, outputs, groups, window


@settings(deadline=None, max_examples=60)
@given(geometries(), st.sampled_from([1, 50, 10**6]), st.integers(0, 2**32))
def test_any_convolution_gives_what_the_reference_gives(geometry: Any, numbers: int, seed: int) -> None:
    shape, outputs, groups, window = geometry
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(size=shape), rng.normal(size=(shape[0], *window.places(*shape[1:3]), outputs))
    W, b, c = rng.normal(size=(*window.size, shape[3] // groups, outputs)), rng.normal(size=outputs), x[0, 0, 0]
    before = convolution.WORKSPACE
    convolution.WORKSPACE = numbers
    try:
        assert hold("conv2d", (x, W, b, window, groups, ops.tanh), "float64")
        assert hold("conv2d_backward", (dy, x, W, window, groups), "float64")
        assert hold("conv_transpose2d", (dy, W, c, window, groups, shape[1:3], ops.relu), "float64")
        assert hold("conv_transpose2d_backward", (x, dy, W, window, groups), "float64")
    finally:
        convolution.WORKSPACE = before


@settings(deadline=None, max_examples=60)
@given(geometries(), st.sampled_from([0, 1, 2]), st.integers(0, 2**32))
def test_any_largest_of_windows_goes_back_where_it_came_from(geometry: Any, special: int, seed: int) -> None:
    """Numbers of which many are equal; with infinities; with NaN, whose place the op's own rule says."""
    shape, _, _, window = geometry
    rng = np.random.default_rng(seed)
    x = rng.choice(
        np.array([0.0, 1.0, -2.0, *([-np.inf, np.inf] if special else []), *([np.nan] * (special == 2))]), shape
    )
    dy = rng.normal(size=(shape[0], *window.places(*shape[1:3]), shape[3]))
    assert hold("max_pool2d", (x, window), "float64")
    assert hold("max_pool2d_backward", (dy, x, window), "float64")
    assert hold("global_max_pool_backward", (dy[:, 0, 0, :].copy(), x), "float64")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2500), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**32))
def test_the_gradient_of_a_table_adds_every_place_once(n: int, n_tokens: int, width: int, seed: int) -> None:
    """Whole numbers, so that the sums are exact in any order; ids that name no row among them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, n_tokens + 1, n) if seed % 2 else np.full(n, n_tokens - 1)
    dy = rng.integers(-9, 10, (n, width)).astype(np.float32)
    expected = np.zeros((n_tokens, width), np.float32)
    for v in range(n_tokens):
        expected[v] = dy[ids == v].sum(axis=0)
    found = ops.embedding_backward(*cuda_host.brought((dy, ids)), n_tokens)
    assert np.array_equal(found.array, expected)


def test_a_permutation_is_a_swap_of_neighbours_or_left_to_the_library() -> None:
    taken = 0
    for shape in ((2, 3), (1, 4, 1), (2, 3, 4), (2, 1, 3, 4), (3, 2, 4, 5), (2, 3, 1, 2, 3)):
        x = np.arange(np.prod(shape)).reshape(shape)
        for order in permutations(range(len(shape))):
            found = as_swap(shape, order)
            if found is None:
                continue
            batch, rows, columns, inner = found
            swapped = x.reshape(batch, rows, columns, inner).swapaxes(1, 2)
            assert np.array_equal(swapped.reshape(-1), x.transpose(order).reshape(-1)), (shape, order)
            taken += 1
    assert taken > 60
    assert as_swap((2, 3, 4), (2, 1, 0)) is None
    for first in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1), (0, 1, 3, 2, 4)):
        assert as_swap(tuple(range(2, 2 + len(first))), first) is not None


# --- accuracy ---


def test_statistics_of_numbers_far_from_zero_keep_their_digits() -> None:
    """The variance is of differences from the mean: with a sum of squares nothing of it would be left in float32."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(600, 20)) + 3000).astype(np.float32)
    exact = x.astype(np.float64)
    _, mean, variance = ops.batch_norm(*cuda_host.brought((x, None, None)), 1e-5)
    np.testing.assert_allclose(mean.array, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance.array, exact.var(axis=0), rtol=1e-3)
    _, _, variance = ops.group_norm(*cuda_host.brought((x, None, None)), 4, 1e-5)
    np.testing.assert_allclose(variance.array, exact.reshape(600, 4, 5).var(axis=2), rtol=0.02)


def test_what_is_not_finite_stays_in_its_column_and_in_its_row() -> None:
    x = np.ones((40, 3), np.float32)
    x[:, 0], x[7, 1], x[9, 2] = np.arange(40), np.inf, np.nan
    assert hold("batch_norm", (x, None, None, 1e-5))
    y, mean, _ = ops.batch_norm(*cuda_host.brought((x, None, None)), 1e-5)
    assert np.isfinite(y.array[:, 0]).all()
    assert mean.array[1] == np.inf
    assert hold("layer_norm", (x, np.ones(3, np.float32), None, 1e-5))


def test_the_sums_of_a_table_are_the_same_bits_again() -> None:
    rng = np.random.default_rng(1)
    ids, dy = rng.integers(0, 3, 3000), rng.normal(size=(3000, 5)).astype(np.float32)
    found = [ops.embedding_backward(*cuda_host.brought((dy, ids)), 3).tobytes() for _ in range(2)]
    with cuda_host.mode(orders=(0, 1, 5)):
        found.append(ops.embedding_backward(*cuda_host.brought((dy, ids)), 3).tobytes())
    assert len(set(found)) == 1


def test_the_constants_of_the_host_are_those_of_the_kernels() -> None:
    assert f"constexpr int TILE = {tables.TILE};" in source()
    assert convolution.WORKSPACE * convolution.WORKSPACE < 2**63
    assert "tile, 32 * 33" in source()
    assert axes.TILE == 32


def test_what_is_compiled_together_exists_and_has_no_part_twice() -> None:
    groups = (names.USUAL, names_images.USUAL)
    assert set().union(*groups) <= set(names.name_expressions())
    assert not set(groups[0]) & set(groups[1])
    assert names.compiled_together("normalize<float>") == names_images.USUAL
    assert names.compiled_together("rotate<float>") == ("rotate<float>",)


# --- planted errors ---

MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "a window sees the row before": (
        "if (row >= 0 && row < height && column >= 0 && column < width) {",
        "if (row >= 0 && row < height && column < width) {",
        "conv2d",
        "gather_windows<float>",
    ),
    "a pixel asks places that are none": (
        "if (before < 0 || q >= places_across ||",
        "if (before < 0 ||",
        "conv2d_backward",
        "add_windows<float, Identity>",
    ),
    "a pixel takes from windows that step over it": (
        "|| p * w.down != above) continue;",
        ") continue;",
        "conv_transpose2d",
        "add_windows<float, Identity>",
    ),
    "a part adds to nothing": (
        "if (first > 0 && at.sample == 0) load(sum, out + i);",
        "if (at.sample == 0) load(sum, out + i);",
        "conv_transpose2d",
        "add_windows<float, Relu>",
    ),
    "a part forgets the part before": (
        "if (first > 0 && at.sample == 0) load(sum, out + i);",
        "",
        "conv_transpose2d",
        "add_windows<float, Relu>",
    ),
    "every part adds the bias": (
        "if ((at.sample + 1) * places <= first + rows) {",
        "{",
        "conv_transpose2d",
        "add_windows<float, Relu>",
    ),
    "packs of outputs of several channels": (
        "aligned(out, x, W, bias) && multiple == 1 && outputs",
        "aligned(out, x, W, bias) && outputs",
        "conv2d",
        "depthwise<float, Identity>",
    ),
    "an element's sums go to the next": (
        "partial + (int64)element * gridDim.y * outputs, counter",
        "partial, counter",
        "conv2d_backward",
        "depthwise_weight<float, 32>",
    ),
    "padding is the largest": (
        "for (auto& each : best) each = -Limits<T>::infinity();",
        "for (auto& each : best) each = 0;",
        "max_pool2d",
        "max_pool<float>",
    ),
    "a NaN wins otherwise": (
        "if (j > 0 && !(largest >= v)) here = j;",
        "if (j > 0 && v > largest) here = j;",
        "max_pool2d_backward",
        "max_pool_winners<float>",
    ),
    "padding is averaged": (
        "int rows = min(height, row + w.tall) - max(0, row)",
        "int rows = min(height, row + w.tall) - row",
        "avg_pool2d",
        "avg_pool<float>",
    ),
    "the largest is read before it is known": (
        "    __syncthreads();\n    return places[threadIdx.x];",
        "    return places[threadIdx.x];",
        "global_max_pool_backward",
        "global_max_pool_backward<float, 8>",
    ),
    "a tile is written over while it is read": (
        "                }\n            }\n            __syncthreads();\n        }\n    }\n}",
        "                }\n            }\n        }\n    }\n}",
        "transpose",
        "transpose_tiles<float>",
    ),
    "the mean is that of a lane": (
        "mean = row_sum<W>(mean) / T(columns);\n        }",
        "mean = mean / T(columns);\n        }",
        "layer_norm",
        "layer_norm<float, 8, true>",
    ),
    "all samples have the first one's statistics": (
        "if (sample != now) {",
        "if (now < 0) {",
        "group_norm_backward",
        "norm_sums<float, 8>",
    ),
    "two sums in one place": (
        "partial[(blockIdx.y * m + k) * columns + column] = sums[k];",
        "partial[(blockIdx.y + k) * columns + column] = sums[k];",
        "layer_norm_backward",
        "gain_sums<float, 8>",
    ),
    "the lines of the next row come too early": (
        "    __syncthreads();  // who has called this before has read them\n",
        "",
        "embedding_backward",
        "sum_rows<float>",
    ),
    "equal ids take one place": (
        "(found == id && other < k)",
        "(found == id && other <= k)",
        "embedding_backward",
        "sort_tiles<int>",
    ),
    "equal ids of two tiles take one place": (
        "id, tile < own)",
        "id, false)",
        "embedding_backward",
        "merge_tiles<0>",
    ),
    "an id below 0 names what lies before": (
        "if (id >= 0 && id < n_rows) load",
        "if (id < n_rows) load",
        "embedding",
        "take_rows<float, int>",
    ),
    "statistics are kept whatever the loss is": (
        "__global__ void commit(T* value /* n */, const T* pending /* n */, const bool* ok /* 1 */, int64 n) {\n"
        "    if (!*ok) return;",
        "__global__ void commit(T* value /* n */, const T* pending /* n */, const bool* ok /* 1 */, int64 n) {",
        "commit_",
        "commit<float>",
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels]:
    return changed_kernels(MUTANTS, tmp_path_factory.mktemp("image-mutants"))


@pytest.mark.parametrize("what", MUTANTS)
def test_a_change_for_the_worse_is_found(
    what: str, mutants: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, op_name, name = MUTANTS[what]
    monkeypatch.setattr(convolution, "WORKSPACE", 300)
    monkeypatch.setattr(axes, "GRID_YZ", 1)
    monkeypatch.setattr(tables, "GRID_Y", 2)
    patched = cuda_host.Patched(cuda_host.driver().driver.kernels, name, mutants[what])
    with cuda_host.mode(kernels=patched, orders=(0, 1, 5)), pytest.raises(AssertionError):
        hold_all(op_name, 4000)
    assert patched.used > 0


# --- nets ---


def cnn() -> bp.Layer:
    return bp.Sequential(
        bp.Conv2d(2, 8, 3, padding="same"),
        bp.BatchNorm(8),
        bp.ReLU(),
        bp.Dropout2d(0.2),
        bp.MaxPool2d(2),
        bp.Conv2d(8, 8, 3, groups=8, padding=1),
        bp.GroupNorm(2, 8),
        bp.SiLU(),
        bp.Conv2d(8, 12, 3, stride=2, groups=2, padding=1),
        bp.GELU(),
        bp.AvgPool2d(2, stride=1),
        bp.ConvTranspose2d(12, 6, 2),
        bp.Tanh(),
        bp.GlobalMaxPool2d(),
        bp.Dense(6, 3),
    )


def first_cnn() -> bp.Layer:
    """Images with their channels first, and one global pool."""
    return bp.Sequential(
        bp.Conv2d(2, 6, 3, channels="first"), bp.BatchNorm(6, channels="first"), bp.ReLU(),
        bp.GlobalAveragePool2d(channels="first"), bp.Dense(6, 3),
    )  # fmt: skip


def sequence_net() -> bp.Layer:
    return bp.Sequential(
        bp.Embedding(11, 8), bp.LayerNorm(8), bp.Dense(8, 8), bp.RMSNorm(8), bp.GELU(), bp.Flatten(), bp.Dense(48, 3)
    )


def images(first: bool) -> Callable[[Any], Any]:
    return lambda rng: rng.normal(size=(12, 2, 8, 8) if first else (12, 8, 8, 2)).astype(np.float32)


NETS: dict[str, tuple[Callable[[], bp.Layer], Callable[[Any], Any]]] = {
    "images": (cnn, images(False)),
    "channels first": (first_cnn, images(True)),
    "tokens": (sequence_net, lambda rng: rng.integers(0, 11, (12, 6))),
}


def trained(net: str, backend: str, n: int = 8, **more: Any) -> tuple[bp.Trainer, list[float]]:
    make, inputs = NETS[net]
    rng = np.random.default_rng(3)
    x, y = inputs(rng), rng.integers(0, 3, 12)
    trainer = bp.Trainer(make(), bp.SoftmaxCrossEntropy(), bp.SGD(0.05, momentum=0.9), seed=1, backend=backend, **more)
    return trainer, [float(bp.to_numpy(trainer.step(x, y))) for _ in range(n)]


@pytest.mark.parametrize("net", NETS)
def test_a_net_trains_as_on_numpy_planned_and_eager_with_the_same_bits(net: str) -> None:
    _, expected = trained(net, "numpy")
    planned, losses = trained(net, "cuda_host")
    eager, again = trained(net, "cuda_host", plan=False)
    assert "planned" in planned.plan_report(), planned.plan_report()
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert losses == again
    for name, array in planned.model.store.arrays().items():
        assert bp.to_numpy(array).tobytes() == bp.to_numpy(eager.model.store.arrays()[name]).tobytes(), name


@pytest.mark.parametrize("net", NETS)
def test_a_planned_step_is_launches_and_products_only(net: str) -> None:
    trainer, _ = trained(net, "cuda_host", 4)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    assert {type(each) for each in plan._calls} == {HostLaunch, HostProduct}


@pytest.mark.parametrize("net", NETS)
def test_a_step_gives_the_same_bits_in_every_order_of_threads(net: str) -> None:
    _, losses = trained(net, "cuda_host", 2)
    with cuda_host.mode(orders=(0, 1)):
        _, again = trained(net, "cuda_host", 2)
    assert losses == again


def test_inference_takes_the_running_statistics() -> None:
    trainer, _ = trained("images", "cuda_host", 3)
    other, _ = trained("images", "numpy", 3)
    x = images(False)(np.random.default_rng(9))
    np.testing.assert_allclose(
        bp.to_numpy(trainer.model(trainer.model.asarray(x))), other.model(other.model.asarray(x)), rtol=1e-3, atol=1e-4
    )
