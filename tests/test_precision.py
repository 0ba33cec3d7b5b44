"""`Trainer(precision="bf16")`: rounding by hand, masters in float32, copies that follow, the same bits everywhere."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import ops
from bpnet.abilities import computes_bf16
from bpnet.doctor import diagnose
from bpnet.identity import described
from bpnet.testing.kernels import call
from bpnet.trace import Trace
from bpnet_cupy import CupyBackend
from bpnet_cupy.host.arrays import HostArray
from bpnet_cupy.host.driver import HostLaunch

WORDS = [  # bits of a float32, bits of the nearest bfloat16
    (0x00000000, 0x0000),
    (0x80000000, 0x8000),
    (0x3F800000, 0x3F80),  # 1
    (0xBF800000, 0xBF80),
    (0x3F807FFF, 0x3F80),  # just below a half: down
    (0x3F808000, 0x3F80),  # halfway, to even: down
    (0x3F808001, 0x3F81),  # just above: up
    (0x3F818000, 0x3F82),  # halfway, to even: up
    (0xBF818000, 0xBF82),
    (0x3FFF8000, 0x4000),  # up to the next power of 2
    (0x3FFFFFFF, 0x4000),
    (0x7F7F7FFF, 0x7F7F),  # the largest bfloat16
    (0x7F7F8000, 0x7F80),  # halfway to what would be the next: infinite
    (0x7F7FFFFF, 0x7F80),  # the largest float32
    (0xFF7FFFFF, 0xFF80),
    (0x7F800000, 0x7F80),
    (0xFF800000, 0xFF80),
    (0x7FC00000, 0x7FC0),
    (0x7F800001, 0x7FC0),  # a NaN whose upper half is that of infinity
    (0xFFC12345, 0x7FC0),
    (0x00000001, 0x0000),  # the smallest float32
    (0x00008000, 0x0000),  # half of the smallest bfloat16, to even
    (0x00008001, 0x0001),
    (0x00018000, 0x0002),
    (0x80008001, 0x8001),
    (0x007F8000, 0x0080),  # subnormal, up to the smallest normal number
    (0x007FFFFF, 0x0080),
    (0x00800000, 0x0080),
    (0x0080FFFF, 0x0081),
]


def as_floats(words: Any) -> Any:
    return np.array(words, np.uint32).view(np.float32)


def widened(bits: Any) -> Any:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("body", ["reference", "variant"])
def test_numbers_are_rounded_to_the_nearest_and_ties_to_even(backend: bp.Backend, body: str) -> None:
    x = backend.asarray(as_floats([word for word, _ in WORDS]))
    run = ops.to_bf16.reference.body if body == "reference" else ops.to_bf16
    found = bp.to_numpy(run(x))
    assert found.dtype == np.uint16
    for (word, bits), got in zip(WORDS, found, strict=True):
        assert got == bits, f"{word:#010x} gave {got:#06x}, not {bits:#06x}"


@settings(max_examples=300, deadline=None)
@given(word=st.integers(0, 2**32 - 1))
def test_no_other_bfloat16_is_nearer(word: int) -> None:
    """The distance, in exact arithmetic, to the neighbours on the grid."""
    x = float(as_floats([word])[0])
    bits = int(ops.to_bf16(as_floats([word]))[0])
    if not math.isfinite(x) or bits & 0x7FFF == 0x7F80:
        assert math.isnan(x) == (bits == 0x7FC0)
        assert math.isnan(x) or abs(x) >= float(widened([0x7F7F])[0]) + 2.0**119
        return
    own = abs(x - float(widened([bits])[0]))
    for near in (bits - 1, bits + 1):
        if 0 <= near & 0x7FFF < 0x7F80 and (near ^ bits) & 0x8000 == 0 and near >= 0:
            other = abs(x - float(widened([near])[0]))
            assert own < other or (own == other and bits % 2 == 0)


def test_every_bfloat16_is_a_float32_and_comes_back(backend: bp.Backend) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    for body in (ops.from_bf16.reference.body, ops.from_bf16):
        found = bp.to_numpy(body(backend.asarray(every)))
        assert np.array_equal(found, widened(every), equal_nan=True)
        assert np.array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(widened(every))[~np.isnan(found)])
    back = bp.to_numpy(ops.to_bf16(backend.asarray(widened(every))))
    nan = np.isnan(widened(every))
    assert np.array_equal(back[~nan], every[~nan])
    assert (back[nan] == 0x7FC0).all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (2, 3, 4), (20001,)])
def test_arrays_of_any_shape_and_strides_are_rounded(backend: bp.Backend, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x.flags.writeable = False
    expected = ops.to_bf16.reference.body(x)
    assert np.array_equal(bp.to_numpy(ops.to_bf16(backend.asarray(x))), expected)
    if backend.name == "numpy" and len(shape) == 3:
        turned = x.transpose(2, 0, 1)
        assert np.array_equal(ops.to_bf16(turned), expected.transpose(2, 0, 1))
        assert np.array_equal(ops.from_bf16(expected.transpose(2, 0, 1)), widened(expected).transpose(2, 0, 1))


def test_products_are_those_of_the_rounded_numbers_to_the_bit(backend: bp.Backend) -> None:
    """Whole numbers, so that sums are exact in any order: then only what is rounded, and when, can differ."""
    rng = np.random.default_rng(1)
    x, W, b = (rng.integers(-300, 300, s).astype(np.float32) for s in ((9, 7), (7, 5), (5,)))
    dy = rng.integers(-300, 300, (9, 5)).astype(np.float32)
    bx, bW, bdy = (ops.to_bf16.reference.body(each) for each in (x, W, dy))
    assert (widened(bx) != x).any()  # above 256 some whole numbers are not on the grid
    assert (widened(bdy) != dy).any()
    given = [backend.asarray(each) for each in (bx, bW, b, dy)]
    y = ops.linear_bf16(given[0], given[1], given[2], ops.relu)
    assert np.array_equal(bp.to_numpy(y), np.maximum(widened(bx) @ widened(bW) + b, 0))
    dx, dW, db = ops.linear_bf16_backward(given[3], given[0], given[1])
    assert np.array_equal(bp.to_numpy(dx), widened(bdy) @ widened(bW).T)
    assert np.array_equal(bp.to_numpy(dW), widened(bx).T @ widened(bdy))
    assert np.array_equal(bp.to_numpy(db), dy.sum(axis=0))  # of the numbers themselves


def test_the_derivative_is_that_of_the_function_of_rounded_factors() -> None:
    """y is linear in the numbers that x and W are rounded to: exact differences over steps of the grid."""
    rng = np.random.default_rng(2)
    x, W = (rng.integers(-8, 9, s).astype(np.float32) for s in ((4, 3), (3, 2)))
    dy = rng.integers(-8, 9, (4, 2)).astype(np.float32)

    def loss(x: Any, W: Any) -> float:
        return float(np.sum(ops.linear_bf16(ops.to_bf16(x), ops.to_bf16(W), None) * dy))

    dx, dW, _ = ops.linear_bf16_backward(dy, ops.to_bf16(x), ops.to_bf16(W))
    for array, gradient in ((x, dx), (W, dW)):
        for index in np.ndindex(array.shape):
            high, low = array.copy(), array.copy()
            high[index] += 1
            low[index] -= 1
            pair = [(each, W) if array is x else (x, each) for each in (high, low)]
            assert (loss(*pair[0]) - loss(*pair[1])) / 2 == gradient[index]


@pytest.mark.torch
def test_numbers_are_rounded_as_pytorch_rounds_them() -> None:
    import torch

    words = np.random.default_rng(3).integers(0, 2**32, 100_000, dtype=np.uint32)
    words[::2] &= np.uint32(0xFFFF8000)
    x = words.view(np.float32)
    theirs = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    ours, number = ops.to_bf16(x), ~np.isnan(x)
    assert np.array_equal(ours[number], theirs[number])
    assert (ours[~number] == 0x7FC0).all()


@pytest.mark.torch
def test_a_product_is_pytorchs_of_the_same_numbers() -> None:
    import torch

    rng = np.random.default_rng(4)
    x, W = (rng.normal(size=shape).astype(np.float32) for shape in ((33, 70), (70, 20)))
    theirs = (torch.from_numpy(x).bfloat16() @ torch.from_numpy(W).bfloat16()).float().numpy()
    ours = ops.linear_bf16(ops.to_bf16(x), ops.to_bf16(W), None)
    np.testing.assert_allclose(widened(ops.to_bf16(ours)), theirs, rtol=2**-7, atol=1e-3)  # theirs is rounded again


# --- training ---


def network() -> bp.Sequential:
    hidden = [bp.Dense(64, 48), bp.ReLU(), bp.Dropout(0.2), bp.Dense(48, 16), bp.GELU("tanh")]
    return bp.Sequential(*hidden, bp.Dense(16, 10))


def trainer(backend: Any = "numpy", *, optimizer: Any = None, **options: Any) -> bp.Trainer:
    options = {"precision": "bf16", "seed": 3} | options
    optimizer = optimizer or bp.AdamW(bp.Cosine(3e-3, 400, warmup=5), weight_decay=0.01, clip_norm=5.0)
    return bp.Trainer(network(), bp.SoftmaxCrossEntropy(), optimizer, backend=backend, **options)


def batches(n: int, size: int = 32) -> list[Any]:
    train, _ = bp.data.load("digits")
    return [(train.x[i * size : (i + 1) * size], train.y[i * size : (i + 1) * size]) for i in range(n)]


def state(each: bp.Trainer) -> dict[str, bytes]:
    return {name: bp.to_numpy(array).tobytes() for name, array in each.model.store.arrays().items()}


def assert_copies_follow(model: bp.Layer) -> None:
    """Every copy is what its values are rounded to, to the bit."""
    store = model.store
    assert store.precision == "bf16"
    for path, parameter in model.parameters().items():
        if path not in store.statistics:
            expected = ops.to_bf16.reference.body(bp.to_numpy(parameter.value))
            assert np.array_equal(bp.to_numpy(parameter.compute), expected), path
    whole = ops.to_bf16.reference.body(bp.to_numpy(store.values)[: store.compute.shape[0]])
    assert np.array_equal(bp.to_numpy(store.compute), whole)


def test_masters_take_in_updates_that_a_bfloat16_would_lose(backend: bp.Backend) -> None:
    """1000 steps of 2^-12 beside 1: each is an eighth of the spacing to the next bfloat16, together 31 spacings."""
    model = bp.Sequential(bp.Dense(1, 1, bias=False)).initialize(backend=backend)
    model.store.use_precision("bf16")
    weight = model.layers[0].weight
    weight.value = np.ones((1, 1))
    optimizer = bp.SGD(2.0**-12)
    without_master = np.ones(1, np.float32)
    for _ in range(1000):
        weight.accumulate(backend.asarray(np.array([[-1.0]], np.float32)))
        optimizer.step(model)
        without_master = widened(ops.to_bf16(without_master + np.float32(2.0**-12)))
    assert float(bp.to_numpy(weight.value)[0, 0]) == 1 + 1000 * 2.0**-12
    assert float(widened(bp.to_numpy(weight.compute))[0, 0]) == 1.2421875  # the nearest of 1.244140625
    assert without_master[0] == 1
    assert_copies_follow(model)


def test_the_course_of_the_loss_is_that_of_float32_but_for_rounding() -> None:
    train, test = bp.data.load("digits")
    found = {}
    for precision in ("float32", "bf16"):
        one = trainer(precision=precision, optimizer=bp.Adam(3e-3), metrics=[bp.Accuracy()])
        losses = one.fit(train, epochs=6, progress=False)["loss"]
        found[precision] = np.array(losses), one.evaluate(test)["accuracy"]
    (exact, accuracy), (rounded, rounded_accuracy) = found["float32"], found["bf16"]
    assert (rounded != exact).all()
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    assert abs(rounded_accuracy - accuracy) < 0.02
    assert rounded_accuracy > 0.93


OPTIMIZERS = [
    lambda: bp.SGD(0.05),
    lambda: bp.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    lambda: bp.AdamW(3e-3, clip_norm=1.0, average=0.9),
    lambda: bp.Adam(3e-3, amsgrad=True),
    lambda: bp.Adagrad(0.02),
    lambda: bp.RMSprop(1e-3, momentum=0.5, centered=True),
    lambda: bp.Lion(1e-3, groups=[bp.Group("0.*", learning_rate_scale=0.1)]),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: repr(make())[:20])
def test_planned_steps_have_the_bits_of_eager_ones(make: Any) -> None:
    for where in ("numpy", *(() if cuda_host.why_not() else ("cuda_host",))):
        runs = []
        for plan in (False, True):
            one = trainer(where, optimizer=make(), plan=plan)
            losses = [bp.to_numpy(one.step(x, y)).tobytes() for x, y in batches(6)]
            runs.append((losses, state(one)))
            assert_copies_follow(one.model)
        assert runs[0] == runs[1]
        assert "planned, " in one.plan_report()
        assert ("update_bf16_(" in one.plan_report()) == (where == "cuda_host")
        assert ("round_bf16_(" in one.plan_report()) == (where == "numpy")


def test_every_backend_trains_alike(backend: bp.Backend) -> None:
    own, numpys = trainer(backend), trainer()
    for x, y in batches(3):
        a, b = float(bp.to_numpy(own.step(x, y))), float(numpys.step(x, y))
        assert abs(a - b) < 1e-2
    assert_copies_follow(own.model)
    x = batches(1)[0][0]
    np.testing.assert_allclose(own.predict(x), numpys.predict(x), atol=0.05)
    model = own.model.to("numpy")
    assert_copies_follow(model)


@pytest.mark.cuda_host
def test_a_planned_step_on_cuda_converts_no_weight() -> None:
    one = trainer("cuda_host", optimizer=bp.Adam(3e-3))
    for x, y in batches(4):
        one.step(x, y)
    (plan,) = one._planner.plans().values()  # type: ignore[union-attr]
    names = [each.name for each in plan._calls if isinstance(each, HostLaunch)]  # type: ignore[attr-defined]
    assert names.count("to_bf16<0>") == 1  # the batch: all else is rounded by what makes it, or sums it
    assert sum(name.startswith("column_sum_bf16<") for name in names) == 3
    assert "from_bf16<0>" not in names
    assert names.count("adam<float, false>") == 1  # all parameters, with their copies


def test_micro_batches_frozen_layers_and_a_loss_that_is_not_finite(backend: bp.Backend) -> None:
    for plan in (True, False):
        one = trainer(backend, optimizer=bp.SGD(0.1), plan=plan)
        one.model.layers[0].freeze()
        before = bp.to_numpy(one.model.layers[0].weight.value).copy()
        for x, y in batches(4):
            one.step(x, y, micro_batch_size=12)
        assert np.array_equal(bp.to_numpy(one.model.layers[0].weight.value), before)
        kept = state(one)
        with np.errstate(invalid="ignore"):
            one.step(np.full((32, 64), np.inf, np.float32), batches(1)[0][1])
        after = state(one)
        assert {name for name in kept if kept[name] != after[name]} <= {"grads", "ok"}
        one.step(*batches(1)[0])
        assert state(one)["values"] != kept["values"]
        assert_copies_follow(one.model)


def test_layers_keep_their_inputs_in_half_the_memory(backend: bp.Backend) -> None:
    one = trainer(backend)
    model = one.model
    x = model.asarray(batches(1)[0][0])
    y = model.forward(x)
    (kept,) = model.layers[3]._kept
    assert kept.dtype == backend.xp.uint16
    assert y.dtype == x.dtype
    dx = model.backward(y)
    assert dx.dtype == x.dtype
    assert dx.shape == x.shape


def test_a_backward_is_of_its_forward_whatever_is_set_between() -> None:
    model = bp.Sequential(bp.Dense(3, 2)).initialize()
    store, x = model.store, np.ones((4, 3), np.float32)
    for first, then in (("bf16", "float32"), ("float32", "bf16")):
        store.use_precision(first)
        y = model.forward(x)
        expected = model.backward(y)
        model.forward(x)
        store.use_precision(then)
        assert model.backward(y).tobytes() == expected.tobytes()


# --- copies follow ---


def test_the_copies_follow_whatever_sets_values(backend: bp.Backend) -> None:
    one = trainer(backend, optimizer=bp.Adam(3e-3, average=0.9))
    for x, y in batches(3):
        one.step(x, y)
    model = one.model
    model.layers[0].weight.value = np.full((64, 48), 1.001)
    assert_copies_follow(model)
    with model.averaged():
        assert_copies_follow(model)
    assert_copies_follow(model)
    model.use_average()
    assert_copies_follow(model)
    model.store.values[...] = 0.3  # by hand, which nobody is told
    with one.working():
        assert_copies_follow(model)
    assert_copies_follow(model.to(backend))


def test_the_best_parameters_come_back_with_their_copies() -> None:
    train, test = bp.data.load("digits")
    one = trainer(optimizer=bp.SGD(3.0))
    stop = bp.callbacks.EarlyStopping("val_loss", patience=1, restore_best=True)
    one.fit(train, epochs=6, validation_data=test, callbacks=[stop], progress=False)
    assert_copies_follow(one.model)


def test_a_model_that_gets_other_parameters_gets_copies_of_them() -> None:
    one = trainer()
    one.step(*batches(1)[0])
    store = one.model.store
    one.model.layers[5].bias = None
    one.step(*batches(1)[0])
    assert one.model.store is not store
    assert_copies_follow(one.model)
    assert one.model.layers[5].weight.compute is not None


def test_tied_weights_have_one_copy_and_statistics_none() -> None:
    a, b = bp.Dense(4, 4), bp.Dense(4, 4)
    b.weight = a.weight
    model = bp.Sequential(a, bp.BatchNorm(4), b).initialize()
    model.store.use_precision("bf16")
    assert a.weight.compute is b.weight.compute
    assert model.store.compute.shape[0] < model.store.size
    assert all(each.compute is None for each in model.store.statistics.values())
    assert_copies_follow(model)


def test_a_model_computes_in_the_precision_of_its_latest_trainer() -> None:
    one = trainer()
    x = one.model.asarray(batches(1)[0][0])
    rounded = [one.model(x).tobytes() for _ in range(4)]  # from the third on by a plan
    assert len(set(rounded)) == 1
    one.precision = "float32"
    one.step(*batches(1)[0])
    assert one.model.store.compute is None
    assert one.model.layers[0].weight.compute is None
    assert "compute" not in one.model.store.arrays()
    plain = bp.Trainer(network(), bp.SoftmaxCrossEntropy(), bp.Adam(), seed=3)
    assert plain.model(x).tobytes() != rounded[0]
    plain.precision = "bf16"
    with plain.working():
        assert plain.model(x).tobytes() == rounded[0]
    twin = copy.deepcopy(plain.model)
    assert twin.store.precision == "float32"
    again = pickle.loads(pickle.dumps(plain))
    assert again.precision == "bf16"
    again.step(*batches(1)[0])
    assert_copies_follow(again.model)


# --- files ---


def test_a_resumed_training_ends_with_the_same_bits(backend: bp.Backend, tmp_path: Path) -> None:
    straight, first, second = trainer(backend), trainer(backend), trainer(backend)
    given = batches(8)
    for x, y in given:
        straight.step(x, y)
    for x, y in given[:4]:
        first.step(x, y)
    first.save(tmp_path / "state")
    second.restore(tmp_path / "state")
    assert_copies_follow(second.model)
    for x, y in given[4:]:
        second.step(x, y)
    assert state(second) == state(straight)


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path: Path) -> None:
    train, _ = bp.data.load("digits")
    settings: dict[str, Any] = {"progress": False, "batch_size": 64}
    straight, first, second = (trainer(optimizer=bp.Adam(3e-3)) for _ in range(3))
    straight.fit(train, epochs=4, **settings)
    first.fit(train, epochs=2, checkpoint=str(tmp_path), **settings)
    second.fit(train, epochs=4, checkpoint=str(tmp_path), resume=True, **settings)
    assert state(second) == state(straight)


def test_copies_are_in_no_file_and_a_model_is_loaded_in_float32(tmp_path: Path) -> None:
    from bpnet.files import read

    one = trainer()
    one.step(*batches(1)[0])
    one.save(tmp_path / "state")
    one.model.save(tmp_path / "model")
    for name in ("state", "model"):
        arrays, _ = read(tmp_path / name)
        assert not any(array.dtype == np.uint16 for array in arrays.values())
    loaded = bp.load(tmp_path / "model")
    assert loaded.store.precision == "float32"
    for path, parameter in one.model.parameters().items():
        assert loaded.parameters()[path].value.tobytes() == parameter.value.tobytes()
    other = bp.Trainer(loaded, bp.SoftmaxCrossEntropy(), bp.Adam(), precision="bf16")
    assert_copies_follow(other.model)
    x = batches(1)[0][0]
    assert np.array_equal(other.predict(x), one.predict(x))


@pytest.mark.parametrize(("before", "now"), [("float32", "bf16"), ("bf16", "float32")])
def test_a_checkpoint_of_the_other_precision(before: str, now: str, tmp_path: Path) -> None:
    """`restore` takes the masters and says so; a fit that is resumed would no longer be the same, and is refused."""
    train, _ = bp.data.load("digits")
    first = trainer(precision=before, optimizer=bp.Adam(3e-3))
    first.fit(train, epochs=1, checkpoint=str(tmp_path / "folder"), progress=False)
    first.save(tmp_path / "state")
    second = trainer(precision=now, optimizer=bp.Adam(3e-3))
    untouched = state(second)
    kept, present = ("bf16", "nothing") if before == "bf16" else ("nothing", "bf16")
    with pytest.raises(bp.ConfigError, match=f"precision: {kept} in the checkpoint, {present} now"):
        second.fit(train, epochs=2, resume=str(tmp_path / "folder"), progress=False)
    assert state(second) == untouched
    with pytest.warns(RuntimeWarning, match=f"precision: {before} in the checkpoint, {now} now"):
        second.restore(tmp_path / "state")
    wanted = state(first)
    for name, found in state(second).items():
        assert name in ("compute", "grads") or found == wanted[name], name
    second.step(*batches(1)[0])
    if now == "bf16":
        assert_copies_follow(second.model)


def test_the_precision_is_part_of_what_a_training_depends_on() -> None:
    assert described(trainer())["precision"] == "bf16"
    assert "precision" not in described(trainer(precision="float32"))


# --- what looks at a model ---


def test_audits_and_explanations_are_of_the_masters_mathematics() -> None:
    """They work on copies of the model, which compute in its dtype or in float64: derivatives, not rounding."""
    one = trainer(optimizer=bp.Adam(3e-3))
    for x, y in batches(3):
        one.step(x, y)
    x, y = batches(1, 6)[0]
    for against in (None, "eager", "float64"):
        assert bp.audit(one.model, bp.SoftmaxCrossEntropy(), x, y, against=against).passed
    explained = bp.explain(one.model, x[:1], bp.SoftmaxCrossEntropy(), y[:1])
    assert "Dense(64, 48)" in str(explained)
    assert one.model.store.precision == "bf16"
    assert_copies_follow(one.model)


def test_a_step_in_bfloat16_is_a_straight_line_of_kernels() -> None:
    one = trainer(plan=False)
    store = one.model.store
    x, y = one.model.asarray(batches(1)[0][0]), batches(1)[0][1]
    trace = Trace((x, y), store.known_arrays)
    trace.record(lambda: one._whole_batch(x, y))
    assert not trace.refusal
    names = [step.kernel.name for step in trace.steps]
    assert names.count("linear_bf16") == names.count("linear_bf16_backward") == names.count("to_bf16") == 3
    assert "linear" not in names
    assert names.count("round_bf16_") == names.count("adam_") == 2  # weights, biases
    trace.close()


def test_which_backends_multiply_bfloat16_themselves() -> None:
    assert not computes_bf16(bp.get_backend("numpy"))
    assert "bf16" in CupyBackend.precisions
    (numpy,) = (each for each in diagnose("numpy")["backends"] if each["name"] == "numpy")
    assert numpy["bf16"] == "emulated in float32"


# --- CUDA's kernels ---


@pytest.mark.cuda_host
@pytest.mark.parametrize("flush", [False, True], ids=["denormals", "flushed"])
@pytest.mark.parametrize("size", [1, 3, 4, 7, 8, 1000, 5001])
def test_the_kernel_rounds_by_integers_in_any_order_of_threads(size: int, flush: bool) -> None:
    words = np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)
    expected = ops.to_bf16.reference.body(words.view(np.float32))
    with cuda_host.mode(orders=(0, 1, 5), flush=flush):
        assert np.array_equal(ops.to_bf16(HostArray(words.view(np.float32))).array, expected)
        wide = ops.from_bf16(HostArray(expected)).array
    assert np.array_equal(wide, widened(expected), equal_nan=True)


@pytest.mark.cuda_host
@pytest.mark.parametrize("name", ["sgd_", "sgd_momentum_", "adam_", "amsgrad_", "adagrad_", "rmsprop_", "lion_"])
@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "odd"])
def test_an_update_that_rounds_has_the_bits_of_two_passes(name: str, shift: int) -> None:
    from bpnet.testing.cases import CASES

    op = getattr(ops, name)
    seen = 0
    for value, *rest in CASES[name](np.random.default_rng(7), "float32"):
        if value.size not in (1, 5, 16385):
            continue
        seen += 1
        bits = ops.to_bf16(value)
        single = cuda_host.brought((value, *rest))
        with cuda_host.mode(orders=(0, 1) if value.size < 100 else (0,)):
            op(*single)
            both = list(cuda_host.brought((value, bits, *rest)))
            room = cuda_host.driver().zeros(bits.size + 1, np.uint16)  # copies may begin anywhere
            both[1] = room[shift : shift + bits.size]
            both[1][...] = HostArray(bits)
            variant = ops.update_bf16_.choose((both[0], both[1], op, *both[2:]))
            assert variant.name == "bpnet_cupy"
            variant.body(both[0], both[1], op, *both[2:])
        for a, b in zip(single, (both[0], *both[2:]), strict=True):
            assert not isinstance(a, HostArray) or a.tobytes() == b.tobytes()
        assert np.array_equal(both[1].array, ops.to_bf16(both[0].array))
    assert seen >= 4


# --- bad input ---


def test_what_cannot_be_is_refused_before_anything_is_changed() -> None:
    loss = bp.SoftmaxCrossEntropy()
    with pytest.raises(
        bp.ConfigError, match=re.escape("precision must be one of 'float32', 'bf16', got 'bf61'; did you mean 'bf16'?")
    ):
        trainer(precision="bf61")
    with pytest.raises(bp.ConfigError, match="precision must be one of 'float32', 'bf16', got 16"):
        trainer(precision=16)
    double = network().initialize(dtype="float64")
    with pytest.raises(
        bp.ConfigError,
        match=r"precision='bf16' computes products of a float32 model's copies in bfloat16; this one is of float64: "
        r"model.to\(dtype='float32'\), or leave precision='float32'",
    ):
        bp.Trainer(double, loss, bp.Adam(), precision="bf16")
    assert double.store.compute is None
    with pytest.raises(bp.ConfigError, match="changes nothing in a model without a layer that multiplies in bfloat16"):
        bp.Trainer(bp.Sequential(bp.LayerNorm(3), bp.ReLU()), loss, bp.Adam(), precision="bf16")
    one = trainer()
    with pytest.raises(bp.ConfigError, match="this one is of float64"):
        one.model.to(dtype="float64")
    assert one.model.store.dtype == "float32"
    with pytest.raises(bp.ConfigError, match="precision must be one of"):
        one.precision = "half"
    assert one.precision == "bf16"
    one.step(*batches(1)[0])
    assert_copies_follow(one.model)


def test_a_backend_without_uint16_is_named() -> None:
    class Lacking(type(bp.get_backend("numpy"))):  # type: ignore[misc]
        name = "lacking"

        def zeros(self, shape: Any, dtype: str) -> Any:
            if dtype == "uint16":
                raise TypeError("no such dtype")
            return super().zeros(shape, dtype)

    with pytest.raises(
        bp.ConfigError,
        match=r"precision='bf16' needs arrays of uint16, which hold the bits, and '\w+' makes none \(TypeError",
    ):
        trainer(Lacking())


def test_the_reference_of_an_update_rounds_what_it_has_made() -> None:
    value, grad = np.ones(5, np.float32), np.full(5, 2.0**-12, np.float32)
    state = (np.array(True), np.array(1.0))
    bits = np.zeros(5, np.uint16)
    _, after = call(ops.update_bf16_.reference.body, (value, bits, ops.sgd_, grad, *state, 0.0))
    assert (after[0] == np.float32(1 - 2.0**-12)).all()
    assert np.array_equal(after[1], ops.to_bf16(after[0]))
