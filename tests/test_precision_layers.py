"""`Trainer(precision="bf16")` beyond Dense: convolutions, attention, recurrences, tables; what is rounded, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest
from test_precision import assert_copies_follow, state, widened

import bpnet as bp
from bpnet import ops
from bpnet.ops.windows import Window
from bpnet.plan import fuse_bits
from bpnet.trace import Trace
from bpnet_cupy.host.driver import HostLaunch

HALF = 2.0**-9  # of a number at most, by which rounding to bfloat16 changes it
TOKENS = 11


def bits(x: Any) -> Any:
    return ops.to_bf16(np.ascontiguousarray(x, np.float32))


def rounded(x: Any) -> Any:
    return widened(bits(x)).astype(np.float64)


def whole(rng: Any, *shape: int) -> Any:
    return rng.integers(-300, 300, shape).astype(np.float32)


# --- convolutions: what is rounded, to the bit ---

GEOMETRY = [
    (3, 2, 1, Window((3, 3), padding=((1, 1), (1, 1)))),
    (4, 6, 2, Window((2, 3), (2, 1), (1, 2), ((0, 1), (2, 0)))),
    (5, 3, 1, Window((1, 1))),
    (4, 4, 4, Window((3, 3))),  # depthwise, which layers leave to float32
]


@pytest.mark.parametrize(("c", "o", "groups", "window"), GEOMETRY)
def test_convolutions_are_those_of_the_rounded_numbers_to_the_bit(
    c: int, o: int, groups: int, window: Window, backend: bp.Backend
) -> None:
    """Whole numbers, so that sums are exact in any order: then only what is rounded, and when, can differ."""
    rng = np.random.default_rng(1)
    x, W, b = whole(rng, 2, 6, 7, c), whole(rng, *window.size, c // groups, o), whole(rng, o)
    dy = whole(rng, 2, *window.places(6, 7), o)
    assert (rounded(x) != x).any()
    given = [backend.asarray(each) for each in (bits(x), bits(W), b)]
    y = ops.conv2d_bf16(*given, window, groups, ops.relu)
    exact = ops.conv2d.reference.body(rounded(x), rounded(W), b.astype(float), window, groups, ops.relu)
    assert np.array_equal(bp.to_numpy(y), exact)
    found = ops.conv2d_bf16_backward(backend.asarray(dy), *given[:2], window, groups)
    dx, dW, _ = ops.conv2d_backward.reference.body(rounded(dy), rounded(x), rounded(W), window, groups)
    for a, each in zip(found, (dx, dW, dy.sum(axis=(0, 1, 2))), strict=True):  # db is of the numbers themselves
        assert np.array_equal(bp.to_numpy(a), each)
    back = ops.conv_transpose2d_bf16(backend.asarray(bits(dy)), given[1], None, window, groups, (6, 7))
    assert np.array_equal(bp.to_numpy(back), dx)
    dz = whole(rng, 2, 6, 7, c)
    found = ops.conv_transpose2d_bf16_backward(backend.asarray(dz), backend.asarray(bits(dy)), given[1], window, groups)
    expected = ops.conv_transpose2d_backward.reference.body(rounded(dz), rounded(dy), rounded(W), window, groups)
    for a, each in zip(found, (*expected[:2], dz.sum(axis=(0, 1, 2))), strict=True):
        assert np.array_equal(bp.to_numpy(a), each)


def test_scores_of_tokens_are_those_of_the_rounded_numbers_to_the_bit(backend: bp.Backend) -> None:
    rng = np.random.default_rng(2)
    x, W, dy = whole(rng, 4, 3, 5), whole(rng, 7, 5), whole(rng, 4, 3, 7)
    given = backend.asarray(bits(x)), backend.asarray(bits(W))
    assert np.array_equal(bp.to_numpy(ops.unembed_bf16(*given)), rounded(x) @ rounded(W).T)
    dx, dW = ops.unembed_bf16_backward(backend.asarray(dy), *given)
    assert np.array_equal(bp.to_numpy(dx), rounded(dy) @ rounded(W))
    assert np.array_equal(bp.to_numpy(dW), rounded(dy).reshape(-1, 7).T @ rounded(x).reshape(-1, 5))


def test_the_derivative_of_a_convolution_is_that_of_the_function_of_rounded_factors() -> None:
    """y is linear in the numbers that x and W are rounded to: exact differences over steps of the grid."""
    rng, window = np.random.default_rng(3), Window((2, 2), (2, 1), padding=((1, 0), (0, 1)))
    x, W = (rng.integers(-8, 9, s).astype(np.float32) for s in ((2, 3, 4, 2), (2, 2, 2, 3)))
    dy = rng.integers(-8, 9, (2, *window.places(3, 4), 3)).astype(np.float32)

    def loss(x: Any, W: Any) -> float:
        return float(np.sum(ops.conv2d_bf16(bits(x), bits(W), None, window, 1) * dy))

    dx, dW, _ = ops.conv2d_bf16_backward(dy, bits(x), bits(W), window, 1)
    for array, gradient in ((x, dx), (W, dW)):
        for index in np.ndindex(array.shape):
            high, low = array.copy(), array.copy()
            high[index] += 1
            low[index] -= 1
            pair = [(each, W) if array is x else (x, each) for each in (high, low)]
            assert (loss(*pair[0]) - loss(*pair[1])) / 2 == gradient[index]


# --- attention and recurrences: against float64, within what rounding can do ---


def attention_case(rng: Any) -> tuple[Callable[..., Any], ...]:
    mask = np.arange(9) < np.array([[9], [5]])
    keep = rng.uniform(size=(2, 2, 9, 9)) > 0.2

    def run(name: str) -> Callable[..., Any]:
        forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

        def both(dy: Any, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
            settings = (mask, keep, 2, True, 0.2)
            y, kept = forward(q, k, v, *settings)
            return y, backward(dy, y, q, k, v, kept, *settings)

        return both

    return run("attention"), run("attention_bf16")


def recurrent_case(name: str) -> Callable[[Any], tuple[Callable[..., Any], ...]]:
    def case(rng: Any) -> tuple[Callable[..., Any], ...]:
        lengths = np.array([7, 4])
        n_gates = {"rnn": 1, "lstm": 4, "gru": 3}[name]
        biases = [rng.normal(size=6 * n_gates), *([rng.normal(size=6)] if name == "gru" else [])]

        def run(name: str, exact: bool) -> Callable[..., Any]:
            forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
            own = [b.astype(np.float64 if exact else np.float32) for b in biases]
            more = ("tanh",) if "rnn" in name else ()

            def both(dy: Any, x: Any, W: Any, U: Any) -> tuple[Any, Any]:
                kept = forward(x, W, U, *own, *more, lengths, True)
                kept = kept if isinstance(kept, tuple) else (kept,)
                return kept[0], backward(dy, kept[0], x, W, U, *kept[1:], *more, lengths, True)

            return both

        return run(name, True), run(f"{name}_bf16", False)

    return case


FAMILIES: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "attention": (attention_case, ((2, 9, 8), (2, 9, 8), (2, 9, 8), (2, 9, 8))),
    "rnn": (recurrent_case("rnn"), ((2, 7, 6), (2, 7, 5), (5, 6), (6, 6))),
    "lstm": (recurrent_case("lstm"), ((2, 7, 6), (2, 7, 5), (5, 24), (6, 24))),
    "gru": (recurrent_case("gru"), ((2, 7, 6), (2, 7, 5), (5, 18), (6, 18))),
}


def family(name: str, seed: int) -> tuple[Any, Any, list[Any]]:
    """The function in float64, the one in bfloat16, and dy and factors whose numbers are on the grid already."""
    make, shapes = FAMILIES[name]
    rng = np.random.default_rng(seed)
    exact, halves = make(rng)
    return exact, halves, [rounded(0.7 * rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_results_are_those_of_float64_but_for_what_is_rounded_on_the_way(name: str, seed: int) -> None:
    exact, halves, (dy, *factors) = family(name, seed)
    y, gradients = exact(dy, *factors)
    found, slopes = halves(dy.astype(np.float32), *map(bits, factors))
    for a, b in zip((found, *slopes), (y, *gradients), strict=True):
        assert a.dtype == np.float32
        assert not np.array_equal(a, b.astype(np.float32))  # something was rounded
        assert np.abs(a - b).max() < 8 * HALF * np.abs(b).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_the_function_that_rounds_nothing_on_the_way(name: str) -> None:
    """Finite differences in float64, along random directions, of the mathematics that the roundings perturb."""
    exact, halves, (dy, *factors) = family(name, 9)
    _, slopes = halves(dy.astype(np.float32), *map(bits, factors))
    rng = np.random.default_rng(0)
    for place, slope in enumerate(slopes[: len(factors)]):
        for _ in range(3):
            way = rng.normal(size=factors[place].shape)
            ends = []
            for step in (1e-5, -1e-5):
                moved = [each + step * way if i == place else each for i, each in enumerate(factors)]
                ends.append(float(np.sum(exact(dy, *moved)[0] * dy)))
            scale = np.linalg.norm(way) * np.linalg.norm(slope)
            assert abs((ends[0] - ends[1]) / 2e-5 - float(np.sum(slope * way))) < 4 * HALF * scale


def test_probabilities_are_rounded_after_the_softmax_and_what_is_kept_is_not() -> None:
    """Keys of zero weigh alike: P is 1/3 everywhere, which bfloat16 has as 171/512."""
    q, k = np.zeros((1, 1, 2), np.float32), np.zeros((1, 3, 2), np.float32)
    v = np.array([[[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]]], np.float32)
    y, kept = ops.attention_bf16(bits(q), bits(k), bits(v), None, None, 1, False, 0.0)
    assert np.array_equal(kept, np.full((1, 1, 1, 3), np.float32(1) / np.float32(3)))
    assert np.array_equal(y, [[[21 * 171 / 512, 42 * 171 / 512]]])


def test_a_state_is_rounded_for_its_product_alone() -> None:
    """What GRU's z keeps of it is not: with z = 1 a state of float32 stays itself."""
    x, W, U = (np.zeros(shape, np.float32) for shape in ((1, 2, 1), (1, 3), (1, 3)))
    b, b_n, h = np.array([0, 50, 0], np.float32), np.zeros(1, np.float32), np.full((1, 1), 1 + 2.0**-20, np.float32)
    y, _ = ops.gru_bf16(bits(x), bits(W), bits(U), b, b_n, None, False, h)
    assert (y == h).all()
    y = ops.rnn_bf16(bits(x), bits(W[:, :1]), bits(np.ones((1, 1))), b[:1], "relu", None, False, h)
    assert (y == 1).all()  # r(h) U, and r(1) U


# --- layers ---


def digits() -> Any:
    train, _ = bp.data.load("digits")
    return bp.data.Dataset(train.x.reshape(-1, 8, 8, 1), train.y)


def images() -> bp.Sequential:
    first = [bp.Conv2d(1, 8, 3, padding="same"), bp.BatchNorm(8), bp.ReLU(), bp.Conv2d(8, 8, 3, groups=8), bp.GELU()]
    last = [bp.Conv2d(8, 8, 2, groups=2, stride=2), bp.ReLU(), bp.ConvTranspose2d(8, 4, 2), bp.Flatten()]
    return bp.Sequential(*first, *last, bp.Dense(4 * 4 * 4, 10))


def text() -> bp.Sequential:
    table, scores = bp.Embedding(TOKENS, 16), bp.Unembedding(TOKENS, 16)
    scores.weight = table.weight
    blocks = [
        bp.TransformerBlock(16, 2, causal=True, rotary=10000.0, dropout=0.1),
        bp.TransformerBlock(16, 4, causal=True, activation="swiglu", norm="rms"),
    ]
    return bp.Sequential(table, *blocks, bp.LayerNorm(16), scores)


def recurrent(kind: Any) -> Callable[[], bp.Sequential]:
    def make() -> bp.Sequential:
        layer = kind(12, 8, n_layers=2, bidirectional=True)
        return bp.Sequential(bp.Embedding(TOKENS, 12), layer, bp.Dense(16, TOKENS))

    return make


def signals() -> bp.Sequential:
    return bp.Sequential(bp.Conv1d(1, 4, 3, channels="first"), bp.ReLU(), bp.Flatten(), bp.Dense(4 * 62, 10))


MODELS: dict[str, Callable[[], bp.Sequential]] = {
    "images": images,
    "signals": signals,
    "text": text,
    "rnn": recurrent(bp.RNN),
    "lstm": recurrent(bp.LSTM),
    "gru": recurrent(bp.GRU),
}


def batches(name: str, n: int, size: int = 16) -> list[Any]:
    if name in ("images", "signals"):
        data = digits()
        x = data.x if name == "images" else data.x.reshape(-1, 1, 64)
        return [(x[i * size : (i + 1) * size], data.y[i * size : (i + 1) * size]) for i in range(n)]
    rng = np.random.default_rng(5)
    starts, steps = rng.integers(0, TOKENS, (n, size, 1)), rng.integers(1, 4, (n, size, 1))
    ids = (starts + steps * np.arange(9)) % TOKENS
    return [(each[:, :-1], each[:, 1:]) for each in ids]


def trainer(name: str, where: Any = "numpy", **options: Any) -> bp.Trainer:
    options = {"precision": "bf16", "seed": 2} | options
    optimizer = bp.AdamW(3e-3, weight_decay=0.01, clip_norm=5.0)
    return bp.Trainer(MODELS[name](), bp.SoftmaxCrossEntropy(), optimizer, backend=where, **options)


WHERE = ("numpy", *(() if cuda_host.why_not() else ("cuda_host",)))


@pytest.mark.parametrize("name", MODELS)
def test_planned_steps_have_the_bits_of_eager_ones(name: str) -> None:
    for where in WHERE:
        runs = []
        for plan in (False, True):
            one = trainer(name, where, plan=plan)
            losses = [bp.to_numpy(one.step(x, y)).tobytes() for x, y in batches(name, 5)]
            runs.append((losses, state(one)))
            assert_copies_follow(one.model)
        assert runs[0] == runs[1]
        assert "planned, " in one.plan_report()


@pytest.mark.parametrize("name", MODELS)
def test_every_backend_trains_alike(name: str, backend: bp.Backend) -> None:
    own, numpys = trainer(name, backend), trainer(name)
    for x, y in batches(name, 2):
        a, b = float(bp.to_numpy(own.step(x, y))), float(numpys.step(x, y))
        assert abs(a - b) < 2e-3
    assert_copies_follow(own.model)
    x = batches(name, 1)[0][0]
    np.testing.assert_allclose(bp.to_numpy(own.predict(x)), numpys.predict(x), atol=0.03)


@pytest.mark.parametrize("name", ["images", "text", "lstm"])
def test_a_resumed_training_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    for where in WHERE:
        straight, first, second = (trainer(name, where) for _ in range(3))
        given = batches(name, 6)
        for x, y in given:
            straight.step(x, y)
        for x, y in given[:3]:
            first.step(x, y)
        first.save(tmp_path / where)
        second.restore(tmp_path / where)
        for x, y in given[3:]:
            second.step(x, y)
        assert state(second) == state(straight)


@pytest.mark.parametrize(("name", "steps"), [("images", 60), ("text", 60), ("gru", 70)])
def test_the_course_of_the_loss_is_that_of_float32_but_for_rounding(name: str, steps: int) -> None:
    found = {}
    for precision in ("float32", "bf16"):
        one = trainer(name, precision=precision)
        found[precision] = np.array([float(one.step(x, y)) for x, y in batches(name, steps)])
    exact, halves = found["float32"], found["bf16"]
    assert (halves != exact).all()
    assert exact[-5:].mean() < 0.75 * exact[:5].mean()
    np.testing.assert_allclose(halves, exact, rtol=0.05)


PRODUCTS = {  # of a step: those of weights forward and backward, and of attention
    "images": {"conv2d_bf16": 2, "conv_transpose2d_bf16": 1, "conv2d": 1, "linear_bf16": 1},
    "text": {"linear_bf16": 8, "self_attention_bf16": 2, "unembed_bf16": 1, "embedding": 1},
    "lstm": {"lstm_bf16": 4, "linear_bf16": 1, "embedding": 1},
}
FLOAT32 = {"linear", "unembed", "matmul", "conv_transpose2d", "attention", "self_attention", "rnn", "lstm", "gru"}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_step_multiplies_nothing_in_float32_but_depthwise(name: str) -> None:
    one = trainer(name, plan=False)
    x, y = (one.model.asarray(each) for each in batches(name, 1)[0])
    trace = Trace((x, y), one.model.store.known_arrays)
    trace.record(lambda: one._whole_batch(x, y))
    assert not trace.refusal
    names = [step.kernel.name for step in trace.steps]
    trace.close()
    for op, count in PRODUCTS[name].items():
        assert names.count(op) == names.count(f"{op}_backward") == count, op
    assert not FLOAT32 & set(names)


@pytest.mark.cuda_host
@pytest.mark.parametrize("name", MODELS)
def test_a_planned_step_on_cuda_converts_no_weight(name: str) -> None:
    """What is rounded are inputs and what comes back; the weights' bits are read where the update has written them."""
    one = trainer(name, "cuda_host")
    for x, y in batches(name, 4):
        one.step(x, y)
    (plan,) = one._planner.plans().values()  # type: ignore[union-attr]
    calls = [each for each in plan._calls if isinstance(each, HostLaunch)]  # type: ignore[attr-defined]
    assert not any(each.name == "from_bf16<0>" for each in calls)
    assert sum(each.name == "adam<float, false>" for each in calls) == 2  # with weight decay and without
    values = one.model.store.values
    inside = range(address(values), address(values) + values.nbytes)
    sources = [address(each.args[1]) for each in calls if each.name == "to_bf16<0>"]
    assert sources
    assert not any(each in inside for each in sources)


def address(x: Any) -> int:
    return int(x.array.__array_interface__["data"][0])


@pytest.mark.cuda_host
def test_what_is_multiplied_next_is_rounded_in_the_pass_that_makes_it() -> None:
    """By a pass of its own is what others have made: rotations, SwiGLU, an activation in an epilogue, the batch."""
    for name, alone, fused in (("text", 3, 8), ("images", 3, 1)):
        one = trainer(name, "cuda_host")
        for x, y in batches(name, 4):
            one.step(x, y)
        (plan,) = one._planner.plans().values()  # type: ignore[union-attr]
        kernels = [step.kernel for step in plan.steps]
        assert (kernels.count(ops.to_bf16), kernels.count(ops.also_bf16)) == (alone, fused)
        calls = [each for each in plan._calls if isinstance(each, HostLaunch)]  # type: ignore[attr-defined]
        names = ("activation_with_slope<", "layer_norm<", "dropout<", "join_heads<")
        makers = [each for each in calls if each.name.startswith(names)]
        written = [each for each in makers if any(getattr(arg, "dtype", None) == np.uint16 for arg in each.args)]
        assert len(written) == fused


def test_bits_are_written_for_one_reader_and_other_steps_stay() -> None:
    """The pass of a plan, by hand: of what is rounded twice, and of what no such kernel makes."""
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    trace = Trace((x,), {})

    def step() -> Any:
        y = ops.relu(x)
        first, second = ops.to_bf16(y), ops.to_bf16(y)
        return ops.add(ops.from_bf16(first), ops.from_bf16(ops.to_bf16(ops.add(ops.from_bf16(second), y))))

    trace.record(step)
    names = [each.kernel.name for each in fuse_bits(trace.steps)]
    trace.close()
    assert names == ["also_bf16", "to_bf16", "from_bf16", "from_bf16", "add", "to_bf16", "from_bf16", "add"]


LAYERS: list[tuple[Callable[[], bp.Layer], tuple[int, ...]]] = [
    (lambda: bp.Conv2d(2, 3, 3), (2, 5, 5, 2)),
    (lambda: bp.Conv1d(2, 3, 3, channels="first"), (2, 2, 7)),
    (lambda: bp.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 3, 2)),
    (lambda: bp.Unembedding(5, 4), (3, 4)),
    (lambda: bp.MultiHeadAttention(4, 2, rotary=10000.0), (2, 3, 4)),
    (lambda: bp.RNN(3, 4, last=True), (2, 5, 3)),
    (lambda: bp.LSTM(3, 4, bidirectional=True), (2, 5, 3)),
    (lambda: bp.GRU(3, 4, n_layers=2), (2, 5, 3)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_a_backward_is_of_its_forward_whatever_is_set_between(
    make: Callable[[], bp.Layer], shape: tuple[int, ...], backend: bp.Backend
) -> None:
    layer = make().initialize(1, backend=backend)
    store, x = layer.store, backend.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    found = []
    for first, then in (("bf16", "float32"), ("float32", "bf16")):
        store.use_precision(first)
        y = layer.forward(x)
        expected = bp.to_numpy(layer.backward(y)).tobytes()
        layer.forward(x)
        store.use_precision(then)
        assert bp.to_numpy(layer.backward(y)).tobytes() == expected
        found.append(bp.to_numpy(y))
        assert y.dtype == x.dtype
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, atol=0.05)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_a_wrong_dy_is_refused_in_bfloat16_too(make: Callable[[], bp.Layer], shape: tuple[int, ...]) -> None:
    layer = make().initialize(1)
    layer.store.use_precision("bf16")
    y = layer.forward(np.ones(shape, np.float32))
    with pytest.raises(bp.DTypeError, match="needs dy of .*float32, got .*uint16"):
        layer.backward(ops.to_bf16(y))
    with pytest.raises(bp.ShapeError, match="needs dy of the output's shape"):
        layer.backward(y[:1])
    assert layer.backward(y).shape == shape


def test_attention_to_another_sequence_with_padding_and_dropout(backend: bp.Backend) -> None:
    rng = np.random.default_rng(3)
    x, context = rng.normal(size=(2, 4, 6)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.arange(5) < np.array([[5], [2]])
    found = []
    for precision in ("float32", "bf16"):
        layer = bp.MultiHeadAttention(6, 2, n_context=3, dropout=0.3).initialize(4, backend=backend)
        layer.store.use_precision(precision)
        args = layer.asarray(x), layer.asarray(context)
        y = layer.forward(*args, mask=layer.asarray(mask))
        results = (y, *layer.backward(y), *(each.grad for each in layer.parameters().values()))
        found.append([bp.to_numpy(each) for each in results])
    for exact, halves in zip(*found, strict=True):
        assert not np.array_equal(exact, halves)
        assert np.abs(exact - halves).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["text", "lstm causal"])
def test_steps_with_a_cache_go_on_as_the_whole_sequence(name: str) -> None:
    model = text() if name == "text" else bp.Sequential(bp.Embedding(TOKENS, 6), bp.LSTM(6, 5), bp.Dense(5, TOKENS))
    model.initialize(0)
    model.store.use_precision("bf16")
    ids = np.arange(14).reshape(2, 7) % TOKENS
    all_at_once, cache, parts = model(ids), None, []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        y, cache = model.step(ids[:, start:stop], cache)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), all_at_once, atol=0.02)


def test_a_depthwise_convolution_stays_in_float32_and_a_model_of_it_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    for layer in (bp.Conv2d(4, 8, 3, groups=4), bp.ConvTranspose2d(8, 4, 3, groups=4)):
        assert not layer.computes_in_bf16
        own = x if layer.n_in == 4 else np.concatenate((x, x), axis=-1)
        y = layer.initialize(0)(own)
        layer.store.use_precision("bf16")
        assert np.array_equal(layer(own), y)
        with pytest.raises(bp.ConfigError, match="changes nothing in a model without a layer that multiplies in bfl"):
            bp.Trainer(bp.Sequential(layer), bp.MeanSquaredError(), bp.Adam(), precision="bf16")
    assert bp.Conv2d(4, 8, 3, groups=2).computes_in_bf16
    assert bp.Conv2d(1, 8, 3, groups=1).computes_in_bf16
    assert not bp.Embedding(3, 3).computes_in_bf16


# --- what is said and saved ---


def test_the_summary_says_what_multiplies_in_bfloat16() -> None:
    model = images().initialize()
    before = str(model.summary((8, 8, 1)))
    assert "bfloat16" not in before
    model.store.use_precision("bf16")
    summary = model.summary((8, 8, 1))
    assert summary.in_bf16 == {"0", "5", "7", "9"}
    lines = str(summary).splitlines()
    assert lines[0].split()[3] == "products"
    assert [line.split()[0] for line in lines if " bfloat16 " in line] == ["0", "5", "7", "9"]
    copied = sum(each.size for path, each in model.parameters().items() if path not in model.store.statistics)
    assert f"bytes and {2 * copied:,} of their copies in bfloat16, float32 on numpy" in lines[-1]
    model.store.use_precision("float32")
    assert str(model.summary((8, 8, 1))) == before


@pytest.mark.parametrize("name", MODELS)
def test_the_memory_that_is_foreseen_counts_copies_and_inputs_of_half_the_size(name: str) -> None:
    one = trainer(name)
    ((x, _),) = batches(name, 1)
    shape: Any = {"input_shape": x.shape[1:], "loss": one.loss, "optimizer": one.optimizer}
    halves = one.model.memory(16, **shape)
    exact = one.model.memory(16, **shape, precision="float32")
    assert (halves.precision, exact.precision) == ("bf16", "float32")
    assert halves.copies == one.model.store.compute.nbytes
    assert exact.copies == 0
    assert "products in bfloat16" in str(halves)
    assert "bfloat16" not in str(exact)
    assert halves.as_dict()["copies"] == halves.copies
    assert halves.parameters == exact.parameters == one.model.store.values.nbytes
    layer = {"images": "5", "signals": "0", "text": "4"}.get(name, "1")
    saved = {report: next(row.saved for row in report.rows if row.path == layer) for report in (halves, exact)}
    assert saved[halves] < saved[exact]
    fresh = MODELS[name]().memory(16, **shape, precision="bf16")
    assert fresh.copies == halves.copies
    assert one.model.memory(16, **shape, dtype="float64").precision == "float32"
    with pytest.raises(bp.ConfigError, match="precision must be one of"):
        one.model.memory(16, **shape, precision="half")
    with pytest.raises(bp.ConfigError, match="this one is of float64"):
        one.model.memory(16, **shape, precision="bf16", dtype="float64")


@pytest.mark.parametrize("name", ["images", "text", "gru"])
def test_files_hold_the_masters_alone(name: str, tmp_path: Path) -> None:
    from bpnet.files import read

    one = trainer(name)
    one.step(*batches(name, 1)[0])
    one.model.save(tmp_path / "model")
    arrays, _ = read(tmp_path / "model")
    assert not any(array.dtype == np.uint16 for array in arrays.values())
    loaded = bp.load(tmp_path / "model")
    for path, parameter in one.model.parameters().items():
        assert loaded.parameters()[path].value.tobytes() == parameter.value.tobytes()


def test_an_exported_graph_holds_the_masters(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from bpnet.interop.onnx import export

    one = trainer("images")
    one.step(*batches("images", 1)[0])
    export(one.model, tmp_path / "halves.onnx", input_shape=(8, 8, 1))
    one.model.store.use_precision("float32")
    export(one.model, tmp_path / "exact.onnx", input_shape=(8, 8, 1))
    halves, exact = (onnx.load(tmp_path / f"{name}.onnx").graph for name in ("halves", "exact"))
    assert {each.data_type for each in halves.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert halves == exact
