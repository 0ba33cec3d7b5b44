"""Every mistake there is: a clear error, and nothing changed or lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bpnet as bp

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def trainer(**settings: Any) -> bp.Trainer:
    model = bp.Sequential(bp.Dense(4, 5), bp.ReLU(), bp.Dense(5, 3))
    return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(), metrics=[bp.Accuracy()], seed=0, **settings)


def strict(x: Any) -> Any:
    return bp.get_backend("strict").asarray(x)


LAYER_MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "foreign": (
        lambda: bp.Dense(4, 2).initialize()(strict(X)),
        bp.DTypeError,
        "holds numpy.ndarray arrays, got array_api_strict.Array; bring it over with model.asarray",
    ),
    "other device": (
        lambda: bp.Dense(4, 2).initialize(backend="strict:device1")(strict(X)),
        bp.DTypeError,
        "is on device .*device1.*, got x on .*CPU_DEVICE",
    ),
    "a shape that is none": (lambda: bp.Parameter(3, "zeros"), bp.ConfigError, "needs a tuple of axes"),  # type: ignore[arg-type]
    "dtype name": (lambda: bp.Dense(2, 2).initialize(dtype="float16"), bp.ConfigError, "one of float32, float64"),
    "unknown backend": (lambda: bp.Dense(2, 2).initialize(backend="nunpy"), bp.BackendError, "did you mean 'numpy'"),
}


@pytest.mark.parametrize(("mistake", "kind", "message"), LAYER_MISTAKES.values(), ids=LAYER_MISTAKES)
def test_layers_refuse_what_belongs_elsewhere(mistake: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        mistake()
    assert isinstance(raised.value, bp.BpnetError)
    assert isinstance(raised.value, (ValueError, TypeError, RuntimeError))


def test_the_same_layer_twice_is_refused() -> None:
    layer = bp.Dense(3, 3)
    message = r"the same Dense\(3, 3\) stands at '0' and at '2'.*second.weight = first.weight"
    with pytest.raises(bp.ConfigError, match=message):
        bp.Sequential(layer, bp.ReLU(), layer)
    with pytest.raises(bp.ConfigError, match="stands at '0' and at '1.0'"):
        bp.Sequential(layer, bp.Residual(layer))


def test_a_part_of_a_model_is_not_initialized_or_moved_alone() -> None:
    model = bp.Sequential(bp.Dense(2, 2))
    with pytest.raises(bp.StateError, match="part of a Sequential; initialize the whole model"):
        model[0].initialize()
    with pytest.raises(bp.StateError, match="part of a Sequential; move the model"):
        model[0].to("strict")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.zeros((3, 4)), bp.ShapeError, r"'weight' has shape \(4, 3\), got a value of shape \(3, 4\)"),
        (1.0, bp.ShapeError, r"got a value of shape \(\)"),
        ([[1.0]], bp.ShapeError, r"got a value of shape \(1, 1\)"),
    ],
)
def test_a_parameter_takes_only_its_shape(value: Any, kind: type[Exception], message: str) -> None:
    layer = bp.Dense(4, 3).initialize()
    before = layer.weight.value.copy()
    with pytest.raises(kind, match=message):
        layer.weight.value = value
    with pytest.raises(kind, match="got a gradient of shape"):
        layer.weight.accumulate(np.asarray(value))
    assert np.array_equal(layer.weight.value, before)


def test_assigning_a_value_copies_in_from_any_library() -> None:
    layer = bp.Dense(2, 2).initialize()
    view = layer.weight.value
    source = np.array([[1.0, 2.0], [3.0, 4.0]])
    layer.weight.value = source
    source[...] = 0
    assert view.tolist() == [[1, 2], [3, 4]]
    assert view is layer.weight.value
    layer.weight.value = strict(np.eye(2))
    layer.bias.value = [5, 6]  # type: ignore[union-attr]
    assert view.tolist() == [[1, 0], [0, 1]]
    assert layer.store.values[layer.store.offsets["bias"]] == 5


def test_losses_refuse_arrays_of_another_library() -> None:
    loss = bp.SoftmaxCrossEntropy()
    for call in (loss, loss.forward):
        with pytest.raises(bp.DTypeError, match=r"a target of array_api_strict.Array; bring"):
            call(X, strict(LABELS))


def _nan(i: int, j: int, value: float = np.nan) -> Any:
    x = X.copy()
    x[i, j] = value
    x[7, 3] = np.inf
    return x


FIT_MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (
        (_nan(2, 1), LABELS), bp.DataError,
        r"x holds 1 NaN and 1 infinite values among 32; the first is nan at index \(2, 1\); remove or impute",
    ),
    "infinity": (
        (_nan(2, 1, -np.inf), LABELS), bp.DataError, r"0 NaN and 2 infinite .* first is -inf at index \(2, 1\)",
    ),
    "label -1": (
        (X, np.array([0, 1, 2, -1, 0, 0, -1, 0])), bp.DataError,
        "y holds 2 labels outside 0 ... 2, which is all that .* 3 outputs can name; the first is -1 at index 3",
    ),
    "label 3": ((X, np.array([0, 1, 2, 3, 0, 0, 0, 0])), bp.DataError, "the first is 3 at index 3"),
    "floating labels": ((X, LABELS.astype(float)), bp.DTypeError, "y must hold integer class labels, got float64"),
    "boolean labels": ((X, LABELS > 0), bp.DTypeError, "integer class labels, got bool"),
    "one-hot": ((X, np.eye(3, dtype=int)[LABELS]), bp.ShapeError, r"must have shape \(N,\), one label a sample"),
    "lengths": ((X, LABELS[:5]), bp.ShapeError, "x holds 8 samples and y 5; they must be as many"),
    "empty": ((X[:0], LABELS[:0]), bp.DataError, "x is empty; there is nothing to do with 0 samples"),
    "width": ((X[:, :3], LABELS), bp.ShapeError, r"Dense\(4, 5\) needs x of shape \(N, 4\), got \(1, 3\)"),
    "texts": ((X.astype(str), LABELS), bp.DTypeError, "x must hold numbers, got dtype <U"),
    "ragged": (([[1, 2], [3]], [0, 1]), bp.DTypeError, "x is no rectangular array"),
    "objects": ((np.array([object()] * 8), LABELS), bp.DTypeError, "x must hold numbers, got dtype object"),
    "complex": ((X.astype(complex), LABELS), bp.DTypeError, "x must hold numbers, got dtype complex128"),
    "a number": ((3.0, LABELS), bp.ShapeError, "x must have a first axis of samples"),
    "no y": ((X,), bp.ConfigError, "pass x and y, or a Dataset"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "message"), FIT_MISTAKES.values(), ids=FIT_MISTAKES)
def test_fit_and_evaluate_refuse_and_nothing_is_changed(data: Any, kind: type[Exception], message: str) -> None:
    each = trainer()
    before = {name: array.tobytes() for name, array in each.model.store.arrays().items()}
    for call in (each.fit, each.evaluate):
        with pytest.raises(kind, match=message):
            call(*data)
    if len(data) == 2:
        with pytest.raises(kind):
            each.fit(X, LABELS, validation_data=data)
    assert {name: array.tobytes() for name, array in each.model.store.arrays().items()} == before
    assert each.epoch == 0
    assert len(each.fit(X, LABELS, epochs=1, progress=False)) == 1


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "batch 0": ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    "batch 2.5": ({"batch_size": 2.5}, "batch_size must be an integer"),
    "batch True": ({"batch_size": True}, "batch_size must be an integer"),
    "epochs -1": ({"epochs": -1}, "epochs must be an integer of at least 0, got -1"),
    "epochs 1.5": ({"epochs": 1.5}, "epochs must be an integer"),
    "validation": ({"validation_data": X}, r"validation_data must be a Dataset, a pair \(x, y\), or"),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_fit_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        trainer().fit(X, LABELS, progress=False, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((bp.Dense, bp.MeanSquaredError(), bp.SGD()), "model must be a Layer.*write its instance"),
        ((bp.Dense(1, 1), bp.MeanSquaredError, bp.SGD()), "loss must be a Loss.*write its instance"),
        ((bp.Dense(1, 1), bp.MeanSquaredError(), "adam"), "optimizer must be an Optimizer, got 'adam'"),
    ],
)
def test_the_trainer_refuses_what_is_no_model_loss_or_optimizer(arguments: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        bp.Trainer(*arguments)


def test_a_metric_that_does_not_fit_the_model_is_found_before_training() -> None:
    each = bp.Trainer(bp.Dense(4, 1), bp.MeanSquaredError(), bp.SGD(), metrics=[bp.Accuracy()], seed=0)
    before = each.model.store.values.tobytes()
    with pytest.raises(bp.ShapeError, match=r"Accuracy needs predictions \(N, C\) and labels \(N,\)"):
        each.fit(X, X[:, :1], progress=False)
    assert each.model.store.values.tobytes() == before


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (X[:0], bp.DataError, "x is empty"),
        (X[:, :2], bp.ShapeError, r"needs x of shape \(N, 4\)"),
        ("abc", bp.DTypeError, "x must hold numbers"),
    ],
)
def test_predict_refuses(x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        trainer().predict(x)


def test_a_nan_in_a_memory_map_is_found_when_its_batch_enters(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", _nan(2, 1))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    each = trainer()
    before = each.model.store.values.tobytes()
    with pytest.raises(bp.DataError, match="x holds 1 NaN and 1 infinite"):
        each.evaluate(mapped, LABELS)
    with pytest.raises(bp.DataError, match="x holds 1 NaN and 1 infinite"):
        each.fit(mapped, LABELS, batch_size=8, progress=False)
    assert each.model.store.values.tobytes() == before


class Named(bp.Accuracy):
    name = "loss"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([bp.Accuracy(), bp.Accuracy()], "two results would be called 'accuracy'"),
        ([Named()], "two results would be called 'loss'"),
        (bp.Accuracy(), r"must be a list of Metrics, as in \[Accuracy\(\)\]"),
        ([bp.Accuracy], "must be a list of Metrics"),
    ],
)
def test_metrics_need_names_of_their_own(metrics: Any, message: str) -> None:
    with pytest.raises(bp.ConfigError, match=message):
        bp.Trainer(bp.Dense(4, 3), bp.SoftmaxCrossEntropy(), bp.SGD(), metrics=metrics)


def test_binary_targets_must_lie_between_0_and_1() -> None:
    each = bp.Trainer(bp.Dense(4, 1), bp.BinaryCrossEntropy(), bp.SGD(), seed=0)
    with pytest.raises(
        bp.DataError, match=r"y must lie in \[0, 1\] for BinaryCrossEntropy; map classes such as -1 and 1"
    ):
        each.fit(X, np.sign(X[:, :1]), progress=False)


def test_values_beyond_the_models_dtype_are_found_before_they_become_infinite() -> None:
    each = bp.Trainer(bp.Dense(4, 1), bp.MeanSquaredError(), bp.SGD(), seed=0)
    large = X.astype(np.float64)
    large[1, 1] = 1e39
    with pytest.raises(bp.DataError, match=r"x holds values beyond 3.403e\+38, the largest float32"):
        each.fit(large, X[:, :1], progress=False)
    with pytest.raises(bp.DataError, match="y holds values beyond"):
        each.evaluate(X, large[:, 1:2])


def test_masked_arrays_are_refused() -> None:
    masked = np.ma.masked_greater(X, 0)
    with pytest.raises(bp.DTypeError, match=r"x is a masked array; fill its gaps first, as with x.filled"):
        trainer().fit(masked, LABELS, progress=False)


def test_predict_shows_the_whole_shape_of_one_sample() -> None:
    wide = bp.Trainer(bp.Dense(784, 2), bp.SoftmaxCrossEntropy(), bp.SGD(), seed=0)
    with pytest.raises(bp.ShapeError, match=r"got \(784,\); for one sample use x\[None, :\]"):
        wide.predict(np.zeros(784))
    with pytest.raises(bp.ShapeError, match="must have a first axis of samples, got a 0-d array"):
        wide.predict(3.0)


def test_predict_returns_memory_of_its_own() -> None:
    x = np.ones((3, 2, 2), np.float32)
    found = bp.predict(bp.Sequential(bp.Flatten()), x)
    found[...] = 7
    assert x.max() == 1


@pytest.mark.parametrize(("name", "says"), [("lr", "learning_rate"), ("betas", "beta1 and beta2"), ("eps", "epsilon")])
def test_other_libraries_names_of_settings_are_refused_with_ours(name: str, says: str) -> None:
    optimizer = bp.Adam()
    with pytest.raises(AttributeError, match=f"Adam has no {name}; here it is called {says}"):
        setattr(optimizer, name, 0.5)
    with pytest.raises(TypeError, match=f"^Adam has no {name}; here it is called {says}$"):
        bp.Adam(**{name: 0.5})


def test_the_alpha_of_an_optimizer_that_has_one_is_its_own() -> None:
    class Scaled(bp.SGD):
        def __init__(self, learning_rate: float, *, alpha: float) -> None:
            super().__init__(learning_rate * alpha)

    assert Scaled(0.5, alpha=0.5).learning_rate == 0.25


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Linear", "; it is called Dense here"),
        ("CrossEntropyLoss", "; it is called SoftmaxCrossEntropy here"),
        ("BatchNorm2d", "; it is called BatchNorm here"),
        ("Activation_ReLU", "; the classes of NNFS are in bpnet.nnfs"),
        ("Conv2D", "; did you mean 'Conv2d'?"),
        ("Gelu", "; did you mean 'GELU'?"),
        ("zzz", ""),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_one_that_is(name: str, says: str) -> None:
    expected = f"module 'bpnet' has no attribute {name!r}{says}"
    with pytest.raises(AttributeError, match=f"^{re.escape(expected)}$"):
        getattr(bp, name)


def test_what_other_libraries_call_it_leads_to_names_that_are_there() -> None:
    assert set(bp.errors.ELSEWHERE.values()) <= set(bp.__all__)
    assert not set(bp.errors.ELSEWHERE) & set(bp.__all__)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_interop_brings_its_modules(name: str) -> None:
    code = f"import bpnet as bp; print(bp.interop.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"bpnet.interop.{name}\n", done.stderr


def test_sizes_may_be_numpys_integers_but_not_truth_values() -> None:
    assert bp.Dense(np.int64(4), np.int32(3)).initialize()(X).shape == (8, 3)  # type: ignore[arg-type]
    assert len(trainer().fit(X, LABELS, epochs=np.int64(1), batch_size=np.int64(4), progress=False)) == 1  # type: ignore[arg-type]


def test_a_wrong_dy_at_concatenate_is_refused() -> None:
    model = bp.Concatenate(bp.Dense(4, 2), bp.Dense(4, 2)).initialize()
    model.forward(X)
    with pytest.raises(bp.ShapeError, match=r"needs dy of the output's shape \(8, 4\), got \(8, 7\)"):
        model.backward(np.zeros((8, 7), np.float32))


def test_the_form_of_binary_cross_entropy_is_said_at_construction() -> None:
    loss = bp.BinaryCrossEntropy()
    with pytest.raises(AttributeError):
        loss.from_logits = False  # type: ignore[misc]


PAIRINGS: dict[str, tuple[Callable[[], bp.Layer], bp.Loss, list[bp.Metric], str]] = {
    "softmax twice": (
        lambda: bp.Sequential(bp.Dense(4, 3), bp.Sequential(bp.Softmax())),
        bp.SoftmaxCrossEntropy(),
        [],
        "applies the softmax itself, and the model ends in a Softmax: leave that out, or use CategoricalCrossEntropy",
    ),
    "sigmoid twice": (
        lambda: bp.Sequential(bp.Dense(4, 3), bp.Sigmoid()),
        bp.BinaryCrossEntropy(),
        [],
        r"applies the sigmoid itself.*use BinaryCrossEntropy\(from_logits=False\)",
    ),
    "a metric of logits": (
        lambda: bp.Sequential(bp.Dense(4, 3), bp.Sigmoid()),
        bp.BinaryCrossEntropy(from_logits=False),
        [bp.BinaryAccuracy()],
        r"takes probabilities, the metric does not: use BinaryAccuracy\(from_logits=False\)",
    ),
    "a metric of probabilities": (
        lambda: bp.Dense(4, 3),
        bp.BinaryCrossEntropy(),
        [bp.BinaryAccuracy(from_logits=False)],
        r"takes logits, the metric does not: use BinaryAccuracy\(from_logits=True\)",
    ),
    "no probabilities": (
        lambda: bp.Dense(4, 3),
        bp.BinaryCrossEntropy(from_logits=False),
        [],
        r"wants probabilities, and the model's outputs lie between -.*: end the model in Sigmoid\(\)",
    ),
}


@pytest.mark.parametrize(("make", "loss", "metrics", "message"), PAIRINGS.values(), ids=PAIRINGS)
def test_a_loss_that_does_not_fit_the_models_outputs_is_found_before_training(
    make: Callable[[], bp.Layer], loss: bp.Loss, metrics: list[bp.Metric], message: str
) -> None:
    each = bp.Trainer(make(), loss, bp.SGD(), metrics=metrics, seed=0)
    y: Any = LABELS if loss.targets == "labels" else (X[:, :3] > 0).astype(float)
    with pytest.raises(bp.ConfigError, match=message):
        each.fit(X, y, progress=False)


def test_a_sum_of_outputs_other_than_1_is_no_distribution() -> None:
    each = bp.Trainer(bp.Sequential(bp.Dense(4, 3), bp.Sigmoid()), bp.CategoricalCrossEntropy(), bp.SGD(), seed=0)
    with pytest.raises(bp.ConfigError, match=r"wants probabilities.*end the model in Softmax\(\), or use SoftmaxCross"):
        each.fit(X, LABELS, progress=False)
    right = bp.Trainer(bp.Sequential(bp.Dense(4, 3), bp.Softmax()), bp.CategoricalCrossEntropy(), bp.SGD(), seed=0)
    assert len(right.fit(X, LABELS, epochs=1, progress=False)) == 1


def test_a_step_without_a_backward_is_refused() -> None:
    model = bp.Dense(4, 3).initialize()
    before = model.store.values.tobytes()
    message = r"no gradient since the last step; call model.backward\(loss.backward\(\)\) first"
    with pytest.raises(bp.StateError, match="AdamW.step: " + message):
        bp.AdamW().step(model)
    assert model.store.values.tobytes() == before
    model.forward(X)
    model.backward(np.ones((8, 3), np.float32))
    bp.SGD(0.1).step(model)
    with pytest.raises(bp.StateError, match="SGD.step: " + message):
        bp.SGD(0.1).step(model)


@pytest.mark.parametrize("value", [-1, float("nan"), "a", None, True])
def test_settings_are_checked_when_they_are_changed(value: Any) -> None:
    for layer, name in ((bp.Dropout(0.1), "rate"), (bp.LeakyReLU(0.1), "slope"), (bp.ELU(0.5), "alpha")):
        before = getattr(layer, name)
        with pytest.raises(bp.ConfigError, match="needs"):
            setattr(layer, name, value)
        assert getattr(layer, name) == before
    gelu = bp.GELU("tanh")
    with pytest.raises(bp.ConfigError, match="approximate must be 'none' or 'tanh'"):
        gelu.approximate = value
    assert gelu.approximate == "tanh"


def test_a_parameter_is_not_replaced_by_an_array() -> None:
    layer = bp.Dense(2, 2).initialize()
    with pytest.raises(
        bp.ConfigError, match=r"Dense\(2, 2\).weight is a Parameter; to set its values, assign to .weight"
    ):
        layer.weight = np.eye(2)  # type: ignore[assignment]
    assert isinstance(layer.weight, bp.Parameter)


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: bp.Dense(2, 2).summary((None, 3)), bp.ConfigError, "that of one sample"),  # type: ignore[arg-type]
        (lambda: bp.ReLU().save(""), bp.CheckpointError, "cannot write to '': name a file"),
    ],
)
def test_small_mistakes_get_an_answer_too(mistake: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mistake()


def test_errors_at_the_door_name_the_users_arrays() -> None:
    each = bp.Trainer(bp.Dense(4, 1), bp.MeanSquaredError(), bp.SGD(), seed=0)
    with pytest.raises(bp.ShapeError, match=r"\(found with the first sample of x \(8, 4\) and y \(8,\)\)"):
        each.fit(X, X[:, 0], progress=False)
    validation = (X[:, :2], X[:, :1])
    with pytest.raises(bp.ShapeError, match=r"of validation x \(8, 2\) and validation y \(8, 1\)"):
        each.fit(X, X[:, :1], validation_data=validation, progress=False)
    with pytest.raises(bp.ShapeError, match="validation_data: x holds 8 samples and y 3"):
        each.fit(X, X[:, :1], validation_data=(X, X[:3, :1]), progress=False)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3, dtype=int)[LABELS], r"for one-hot rows pass y.argmax\(axis=1\)"),
        (LABELS[:, None], r"got \(8, 1\); use y\[:, 0\]"),
        (LABELS.astype(str), r"np.unique\(y, return_inverse=True\)\[1\] numbers them"),
    ],
)
def test_labels_in_other_forms_get_the_way_to_ours(y: Any, message: str) -> None:
    with pytest.raises((bp.ShapeError, bp.DTypeError), match=message):
        trainer().fit(X, y, progress=False)


FLAGS: dict[str, Any] = {
    "Dense: bias": lambda value: bp.Dense(2, 3, bias=value),
    "amsgrad": lambda value: bp.AdamW(amsgrad=value),
    "centered": lambda value: bp.RMSprop(centered=value),
    "nesterov": lambda value: bp.SGD(0.1, momentum=0.9, nesterov=value),
    "digits: flat": lambda value: bp.data.load("digits", flat=value),
    "mnist: download": lambda value: bp.data.load("mnist", path="nowhere", download=value),
    "stratify": lambda value: bp.data.split(bp.Dataset(X, LABELS), 0.5, stratify=value),
    "shuffle": lambda value: trainer().fit(X, LABELS, shuffle=value),
    "progress": lambda value: trainer().fit(X, LABELS, progress=value),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["no", "false", 2, None])
def test_a_truth_value_in_quotes_is_refused_not_taken_for_true(name: str, value: Any) -> None:
    with pytest.raises(bp.ConfigError, match=f"^{name} must be True or False, got {value!r}$"):
        FLAGS[name](value)


def test_truth_values_of_numpy_are_taken() -> None:
    assert bp.Dense(2, 3, bias=np.bool_(False)).bias is None
    assert bp.AdamW(amsgrad=np.bool_(True)).amsgrad is True
