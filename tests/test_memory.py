"""`model.memory`: what it says before training is what training takes."""

from __future__ import annotations

import copy
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from benchmarks.memory import CASES, predicted, traced
from bpnet import ops
from bpnet.dispatch import version
from bpnet.memory.report import bytes_of, shown

pytestmark = pytest.mark.lenient  # strict mode looks at every call, and so plans nothing
ITEM = 4


def small() -> bp.Sequential:
    return bp.Sequential(bp.Dense(6, 5), bp.ReLU(), bp.Dense(5, 3))


def stack(n: int = 4, wrap: tuple[int, ...] = ()) -> bp.Sequential:
    def block() -> bp.Layer:
        return bp.Residual(bp.Dense(32, 128), bp.Tanh(), bp.Dense(128, 32))

    blocks = [bp.Recompute(block()) if each in wrap else block() for each in range(n)]
    return bp.Sequential(*blocks, bp.Dense(32, 4))


# --- the peak ---


@pytest.mark.parametrize("planned", [True, False], ids=["trainer", "loop"])
@pytest.mark.parametrize("name", sorted(set(CASES) - {"wide", "cnn, large batch"}))
def test_the_peak_is_within_a_tenth_of_what_is_measured(name: str, planned: bool) -> None:
    """By tracemalloc, which NumPy tells of its arrays: of a whole fit, and of the explicit loop."""
    assert predicted(CASES[name], planned) == pytest.approx(traced(CASES[name], planned), rel=0.1)


def test_the_peak_of_a_hand_worked_step() -> None:
    """SGD without momentum on one Dense, 1000 samples: values, gradients, batch, the prediction, then dy and dW."""
    n, model = 1000, bp.Sequential(bp.Dense(8, 8, bias=False))
    report = model.memory(n, optimizer=bp.SGD(0.1), planned=False)
    assert (report.parameters, report.gradients, report.optimizer) == (8 * 8 * ITEM, 8 * 8 * ITEM, 0)
    assert report.batch == 2 * n * 8 * ITEM
    assert report.saved == n * 8 * ITEM  # the prediction, by the loss; x is the batch's
    held = report.parameters + report.gradients + report.batch + report.saved
    assert held + n * 8 * ITEM <= report.peak <= held + 2 * n * 8 * ITEM + 4096
    assert report.workspace == report.peak - report.parameters - report.gradients - report.batch


def test_rows_add_up_and_name_each_layer() -> None:
    report = small().memory(10, loss=bp.SoftmaxCrossEntropy(), optimizer=bp.Adam())
    rows = {row.path: row for row in report.rows}
    assert list(rows) == ["0", "1", "2", "(loss)"]
    assert (rows["0"].values, rows["2"].values) == ((6 * 5 + 5) * ITEM, (5 * 3 + 3) * ITEM)
    assert all((row.gradients, row.optimizer) == (row.values, 2 * row.values) for row in report.rows)
    assert (rows["0"].saved, rows["1"].saved, rows["2"].saved) == (0, 10 * 5 * ITEM, 0)  # ReLU's y is Dense's x
    assert rows["(loss)"].saved == 10 * 3 * ITEM  # the probabilities
    assert sum(row.saved for row in report.rows) == report.saved
    assert sum(row.values for row in report.rows) <= report.parameters
    text = str(report)
    assert text.startswith(
        "training on 10 samples of x (N, 6), float32 on numpy, with SoftmaxCrossEntropy() and Adam\n"
    )
    assert "Dense(6, 5)" in text
    assert f"({report.peak:,} bytes)" in text


def test_tied_parameters_count_once_and_shared_values_for_the_first() -> None:
    model = small()
    other = bp.Dense(6, 5)
    other.weight = model.layers[0].weight
    tied = bp.Sequential(bp.Concatenate(model.layers[0], other), bp.Dense(10, 2))
    report = tied.memory(4)
    values = {row.path: row.values for row in report.rows}
    assert (values["0.0"], values["0.1"]) == ((6 * 5 + 5) * ITEM, 5 * ITEM)


def test_float64_takes_twice_as_much() -> None:
    one, two = (small().memory(4000, dtype=dtype) for dtype in ("float32", "float64"))
    assert two.saved == 2 * one.saved
    assert two.peak == pytest.approx(2 * one.peak, rel=0.05)
    assert small().to(dtype="float64").memory(4000).peak == two.peak


def test_memory_grows_with_the_batch_by_what_a_sample_takes() -> None:
    a, b, c = (stack().memory(n, planned=False).peak for n in (1000, 2000, 3000))
    assert a < b < c
    assert c - b == pytest.approx(b - a, rel=0.01)


def test_it_says_where_an_eager_step_holds_the_most() -> None:
    model = bp.Sequential(bp.Dense(4, 4), bp.Dense(4, 2000), bp.ReLU(), bp.Dense(2000, 4))
    report = model.memory(2000, loss=bp.MeanSquaredError(), planned=False)
    assert report.at == "backward of layer '2'"
    assert "the most in backward of layer '2'" in str(report)


# --- what it leaves alone ---


def test_nothing_is_allocated() -> None:
    model = bp.Sequential(bp.Dense(1 << 12, 1 << 12), bp.ReLU(), bp.Dense(1 << 12, 10))
    model.memory(2)  # imports, caches
    tracemalloc.start()
    report = model.memory(50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.parameters > 64 << 20
    assert report.peak > 2 << 30
    assert peak < 32 << 20
    assert not model.initialized


def test_a_model_without_arrays_stays_so_and_is_initialized_as_it_would_have_been() -> None:
    model, other = small(), small()
    before = {path: set(vars(layer)) for path, layer in model.walk()}
    model.memory(16, budget="1 MiB")
    assert not model.initialized
    assert {path: set(vars(layer)) for path, layer in model.walk()} == before
    values = [each.initialize(seed=3).store.values for each in (model, other)]
    assert values[0].tobytes() == values[1].tobytes()


def test_a_model_in_training_goes_on_as_if_nobody_had_asked() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 6)).astype("float32"), rng.integers(0, 3, 12)

    def make() -> bp.Trainer:
        model = bp.Sequential(bp.Dense(6, 8), bp.Dropout(0.5), bp.BatchNorm(8), bp.ReLU(), bp.Dense(8, 3)).initialize()
        return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2, average=0.9))

    one, two = make(), make()
    for trainer in (one, two):
        for _ in range(4):
            trainer.step(x, y)
    one.model.memory(3)  # the defaults are made
    for trainer in (one, two):
        for _ in range(3):
            trainer.step(x, y)
    seen, report = version(), one.plan_report()
    state = {name: array.tobytes() for name, array in one.model.store.arrays().items()}
    held = copy.copy(vars(one.loss)), copy.copy(vars(one.optimizer))
    found = one.model.memory(12, loss=one.loss, optimizer=one.optimizer, budget="1 MiB")
    assert found.optimizer == 3 * found.parameters
    assert version() == seen
    assert (vars(one.loss), vars(one.optimizer)) == held
    assert {name: array.tobytes() for name, array in one.model.store.arrays().items()} == state
    for trainer in (one, two):
        trainer.step(x, y)
    assert one.plan_report() == report
    assert one.model.store.values.tobytes() == two.model.store.values.tobytes()


def test_a_forward_that_waits_for_its_backward_is_kept() -> None:
    model = small().initialize()
    x = np.ones((2, 6), "float32")
    y = model.forward(x)
    model.memory(100)
    assert model.backward(np.ones_like(y)).shape == (2, 6)


def test_a_part_of_a_model_is_looked_at_alone() -> None:
    model = small().initialize(dtype="float64")
    report = model.layers[2].memory(7)
    assert (report.dtype, report.input_shape, [row.path for row in report.rows]) == ("float64", (5,), ["", "(loss)"])


# --- what it is good for ---


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("budget", ["1 MiB", "64 MiB", 3_000_000])
def test_the_largest_batch_fits_and_one_more_does_not(budget: int | str, planned: bool) -> None:
    model, options = stack(), {"optimizer": bp.SGD(0.1), "planned": planned}
    report = model.memory(8, budget=budget, **options)
    assert report.largest is not None
    assert report.largest >= 1
    assert model.memory(report.largest, **options).peak <= bytes_of(budget)
    assert model.memory(report.largest + 1, **options).peak > bytes_of(budget)
    assert report.largest_batch(budget) == report.largest
    assert f"the largest batch in {shown(bytes_of(budget))}: {report.largest}" in str(report)


def test_the_largest_batch_is_0_where_one_sample_is_too_much() -> None:
    assert small().memory(8).largest_batch(1000) == 0


def test_the_smallest_batch_is_2_where_statistics_need_it() -> None:
    model = bp.Sequential(bp.Dense(6, 5), bp.BatchNorm(5))
    report = model.memory(8)
    assert report.largest_batch(report.peak) == 8
    assert report.largest_batch(1000) == 0


def test_the_largest_batch_where_attention_begins_to_keep_less() -> None:
    model = bp.Sequential(bp.Embedding(20, 16), bp.TransformerBlock(16, 2, causal=True), bp.Unembedding(20, 16))
    report = model.memory(4, input_shape=(48,), loss=bp.SoftmaxCrossEntropy(), planned=False)
    found = report.largest_batch("24 MiB")
    peaks = [
        model.memory(n, input_shape=(48,), loss=bp.SoftmaxCrossEntropy(), planned=False).peak
        for n in (found, found + 1)
    ]
    assert peaks[0] <= 24 << 20 < peaks[1]


@pytest.mark.parametrize("planned", [True, False])
def test_what_recompute_would_save_is_what_it_saves(planned: bool) -> None:
    report = stack().memory(512, planned=planned)
    rows = {row.paths: row for row in report.recompute}
    every = ("0", "1", "2", "3")
    assert {("0",), ("1",), ("2",), ("3",)} < set(rows)
    assert rows[("1",)].peak == stack(wrap=(1,)).memory(512, planned=planned).peak
    assert rows[("1",)].saved == sum(row.saved for row in report.rows if row.path.startswith("1."))
    whole = next(row for row in report.recompute if set(row.paths) >= set(every))
    assert whole.name == "all of them, each by itself"
    assert whole.peak < 0.85 * report.peak
    assert f"Recompute around all of them, each by itself: peak {shown(whole.peak)}" in str(report)


def test_a_recompute_that_is_there_is_not_proposed_again() -> None:
    report = stack(wrap=(0, 1, 2, 3)).memory(64)
    assert {row.paths for row in report.recompute} <= {("4",)}


def test_everything_is_json() -> None:
    found = json.loads(json.dumps(small().memory(3, budget=10**6).as_dict()))
    assert (found["batch_size"], found["input_shape"], found["loss"]) == (3, [6], "MeanSquaredError()")
    assert found["peak"] == max(found["peaks"][name] for name in ("eager", "recorded", "proved", "replayed"))
    assert found["rows"][0]["path"] == "0"


# --- where nothing of it can run ---


@pytest.mark.parametrize("name", ["cupy", "cupy:1", "torch"])
def test_other_backends_are_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPNET_BACKEND", name)
    report = stack().memory(256)
    monkeypatch.setenv("BPNET_BACKEND", "numpy")
    ours = stack().memory(256)
    assert report.backend == name
    assert (report.saved, report.parameters) == (ours.saved, ours.parameters)
    said = "nor what its pool rounds up and keeps" if name.startswith("cupy") else "arrays of the references"
    assert said in str(report)
    assert report.peak > report.parameters + report.gradients + report.optimizer + report.batch


# --- bad input ---


class Reads(bp.Layer):
    """Looks at a value."""

    def forward(self, x: Any) -> Any:
        return x if float(x[0, 0]) > 0 else ops.relu(x)

    __call__ = forward

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


class Leaves(bp.Layer):
    """Leaves NumPy's protocols in its backward."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)

    __call__ = forward

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return np.array([1.0]) @ [dy.tolist()]


class Breaks(bp.Layer):
    """Has a mistake."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x).no_such_method()

    def __call__(self, x: Any) -> Any:
        return ops.relu(x)


@pytest.mark.parametrize(
    ("layer", "where", "why"),
    [
        (Reads(), "layer '1', Reads()", "the value of an array is asked for, on which nothing of a step may depend"),
        (
            Leaves(),
            "layer '1', Leaves()",
            "the values of an array are asked for, on which nothing of a step may depend",
        ),
        (Breaks(), "layer '1', Breaks()", "AttributeError: 'Outline' object has no attribute 'no_such_method'"),
    ],
)
def test_a_layer_that_needs_values_is_named(layer: bp.Layer, where: str, why: str) -> None:
    model = bp.Sequential(bp.Dense(4, 4), layer, bp.Dense(4, 2))
    with pytest.raises(bp.ConfigError) as raised:
        model.memory(5)
    assert str(raised.value) == (
        f"memory: {where}, cannot be followed without the values of its arrays: {why}. A layer touches arrays through "
        "kernels, or functions of their own namespace"
    )
    assert not model.initialized


def test_a_model_that_does_not_say_its_samples_shape_asks_for_it() -> None:
    with pytest.raises(bp.ConfigError) as raised:
        bp.Sequential(bp.Conv2d(1, 2, 3)).memory(5)
    assert str(raised.value) == (
        "memory: the model does not say which shape its samples have; pass input_shape=, that of one sample, as "
        "(28, 28, 1) for images or (64,) for 64 features or 64 tokens"
    )
    with pytest.raises(bp.ConfigError, match="pass input_shape="):
        bp.Sequential(bp.Embedding(5, 2)).memory(5)
    text = bp.Sequential(bp.Embedding(5, 2), bp.LearnedPositions(7, 2))
    assert text.memory(5).input_shape == (7,)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "8", None])
def test_a_batch_is_a_number_of_samples(batch_size: Any) -> None:
    with pytest.raises(bp.ConfigError, match="batch_size must be an integer of at least 1, got"):
        small().memory(batch_size)


@pytest.mark.parametrize("shape", [(0,), (6.0,), "6", True, [True], -3, ()])
def test_a_shape_is_that_of_one_sample(shape: Any) -> None:
    with pytest.raises((bp.ConfigError, bp.ShapeError)):
        small().memory(2, input_shape=shape)


def test_a_shape_that_the_model_cannot_take_is_refused_as_in_training() -> None:
    with pytest.raises(bp.ShapeError, match=r"Dense\(6, 5\) needs x of shape \(N, 6\), got \(2, 7\)"):
        small().memory(2, input_shape=(7,))
    with pytest.raises(bp.ShapeError, match="BatchNorm"):
        bp.Sequential(bp.Dense(6, 5), bp.BatchNorm(5)).memory(1)


@pytest.mark.parametrize(
    "budget", [0, -5, 1.5, True, "", "GiB", "2 XB", "2 GiB more", "-1 MB", "1e9", "0 B", None, [1]]
)
def test_a_budget_is_a_number_of_bytes(budget: Any) -> None:
    with pytest.raises(bp.ConfigError) as raised:
        small().memory(2).largest_batch(budget)
    assert str(raised.value) == (
        "a budget is a number of bytes of at least 1, or text such as '2 GiB', '500 MB' or '64KiB', got " + repr(budget)
    )


@pytest.mark.parametrize(
    ("budget", "n"),
    [(7, 7), (np.int64(9), 9), ("12", 12), ("1 kB", 1000), ("1KiB", 1024), ("1.5 MiB", 3 << 19), (" 2 gib ", 2 << 30),
     ("3GB", 3 * 10**9), ("1 TiB", 1 << 40), ("10 B", 10)],
)  # fmt: skip
def test_a_budget_may_be_text(budget: Any, n: int) -> None:
    assert bytes_of(budget) == n


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5 << 30, "5 GiB"), (-2048, "-2 KiB")],
)
def test_bytes_for_people(n: int, text: str) -> None:
    assert shown(n) == text


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"loss": bp.SoftmaxCrossEntropy}, "loss must be a Loss, got .*; write its instance, with parentheses"),
        ({"optimizer": "adam"}, "optimizer must be an Optimizer, got 'adam'"),
        ({"loss": bp.MeanSquaredError(reduction="none")}, "gives no one number to train on"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    ],
)
def test_what_is_no_setting_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        small().memory(2, **keywords)


def test_a_model_with_nothing_to_train_is_refused_as_by_the_optimizer() -> None:
    with pytest.raises(bp.StateError, match="nothing to train"):
        small().freeze().memory(2)


# --- the Trainer's side ---


def test_recording_a_step_keeps_no_array_alive() -> None:
    """The second step holds a copy of the state beside what an eager one holds, and not every result at a time."""
    peaks = stack(12).memory(2000, optimizer=bp.SGD(0.1)).peaks
    model = stack(12).memory(2000, optimizer=bp.SGD(0.1))
    assert peaks.recorded <= peaks.eager + model.parameters + model.gradients + 1000


# --- the command line ---


def invoke(*arguments: str) -> Any:
    from typer.testing import CliRunner

    from bpnet.commands import app

    return CliRunner().invoke(app, list(arguments))


def test_the_command_says_what_the_report_of_a_recipe_says() -> None:
    done = invoke("memory", "spiral", "--batch-size", "50", "--budget", "8 MiB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.splitlines()[-1])
    recipe = bp.recipes.find("spiral").prepare()
    report = recipe.model.memory(50, input_shape=2, loss=recipe.trainer.loss, optimizer=recipe.trainer.optimizer)
    assert (found["peak"], found["batch_size"], found["planned"]) == (report.peak, 50, True)
    assert found["largest"] == report.largest_batch("8 MiB")
    assert f"the largest batch in 8 MiB: {found['largest']}" in done.output


@pytest.mark.parametrize("name", ["diabetes", "autoencoder", "cnn-digits", "char-lstm"])
def test_the_command_takes_recipes_that_normalize_reconstruct_and_take_ids(name: str) -> None:
    done = invoke("memory", name, "--batch-size", "2", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["peak"] > 0


def test_the_command_reads_a_saved_model(tmp_path: Any) -> None:
    path = str(tmp_path / "small.safetensors")
    small().initialize(seed=0).save(path)
    done = invoke("memory", path, "--loop")
    assert done.exit_code == 0, done.output
    assert "training on 32 samples of x (N, 6), float32 on numpy, with MeanSquaredError() and Adam" in done.output
    assert "explicit loop" in done.output
    bp.Sequential(bp.Conv2d(1, 2, 3)).initialize().save(path)
    assert "x (N, 9, 9, 1)" in invoke("memory", path, "--input-shape", "9,9,1").output


def test_the_command_names_all_mistakes() -> None:
    done = invoke("memory", "spiral", "--batch-size", "0", "--budget", "lots", "--input-shape", "2,x")
    assert done.exit_code == 2
    said = done.stderr
    assert "3 settings cannot be used" in said
    assert "--batch-size must be an integer of at least 1, got '0'" in said
    assert "--input-shape: the shape of one sample, as 64 or 28,28,1, got '2,x'" in said
    assert "--budget: a budget is a number of bytes of at least 1" in said
    assert invoke("memory", "nothing.safetensors").exit_code == 2
