"""Recipes: what is read, what is refused and with which words, and what is trained."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet import recipes
from bpnet.recipes import schema, toml
from bpnet.recipes.calls import parse_call
from bpnet.recipes.components import classes
from bpnet.recipes.mistakes import path_of
from bpnet.recipes.recipe import default_metrics
from bpnet.recipes.run import examine
from bpnet.recipes.schedule import ARGUMENTS
from bpnet.schedules import SCHEDULES

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
SMALL: dict[str, Any] = {
    "data": {"name": "spiral", "samples": 10, "classes": 3},
    "model": {"layers": ["Dense(2, 8)", "ReLU()", "Dense(8, 3)"]},
    "loss": {"name": "SoftmaxCrossEntropy"},
    "optimizer": {"name": "SGD", "learning_rate": 0.1},
    "training": {"epochs": 2, "batch_size": 8},
}
REGRESSION: dict[str, Any] = {
    "data": {"name": "diabetes", "normalize": True},
    "model": {"layers": ["Dense(10, 1)"]},
    "loss": {"name": "MeanSquaredError"},
    "training": {"epochs": 1},
}


def changed(base: dict[str, Any] = SMALL, /, **tables: Any) -> dict[str, Any]:
    """`base` with other values in its tables; None takes a key or a table out."""
    made: dict[str, Any] = {name: dict(table) for name, table in base.items()}
    for name, table in tables.items():
        if isinstance(table, dict) and isinstance(made.get(name, {}), dict):
            table = {k: v for k, v in (made.get(name, {}) | table).items() if v is not None}
        made[name] = table
    return {name: table for name, table in made.items() if table is not None}


def mistakes(settings: dict[str, Any], folder: Path | None = None) -> list[str]:
    """Every mistake of a recipe and of it with its data."""
    draft = recipes.make_draft(settings, name="mine", folder=folder)
    examine(draft)
    return draft.mistakes.lines


def run(settings: dict[str, Any], folder: Path | None = None) -> Any:
    return recipes.make_draft(settings, name="mine", folder=folder).recipe().prepare()


# --- the calls in texts ---

LAYERS = classes("layer")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Dense(3, 4)", "Dense(3, 4)"),
        (" Dense( n_in=3 , n_out = 4, bias=False ) ", "Dense(3, 4, bias=False)"),
        ("ReLU()", "ReLU()"),
        ("LeakyReLU(0.2)", "LeakyReLU(0.2)"),
        ("ELU(alpha=-1.5e0) if False else 0", None),
        ("Residual(Dense(4, 4), ReLU())", "Residual(Dense(4, 4), ReLU())"),
        ("Concatenate(Dense(2, 3), Sequential(Dense(2, 4), Tanh()), axis=-1)", None),
    ],
)
def test_a_text_is_the_layer_that_it_says(text: str, shown: str | None) -> None:
    if " if " in text:
        with pytest.raises(bp.ConfigError, match="is no layer"):
            parse_call(text, LAYERS, "layer")
        return
    layer = parse_call(text, LAYERS, "layer")
    if shown is not None:
        assert repr(layer) == repr(eval(shown, LAYERS))
    assert type(layer).__name__ == text.strip().partition("(")[0]


def test_an_initializer_of_a_constant_and_those_with_names_can_be_given() -> None:
    inner = {"constant": bp.initializers.constant}
    layer = parse_call("Dense(2, 3, weight_initializer=constant(0.5))", LAYERS, "layer", inner)
    assert np.all(layer.initialize().weight.value == 0.5)
    assert (
        parse_call("Dense(2, 3, weight_initializer='zeros')", LAYERS, "layer").config["weight_initializer"] == "zeros"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Dens(3, 4)", "there is no layer 'Dens'; there are "),
        ("Dens(3, 4)", "did you mean 'Dense'?"),
        ("ReLU", "write ReLU(), with parentheses"),
        ("Residual(ReLU)", "write ReLU(), with parentheses"),
        ("relu", "there is no layer 'relu'"),
        ("Dense(3)", "Dense needs n_out; it takes n_in, n_out, bias=True"),
        ("Dropout(p=0.5)", "Dropout has no argument 'p'; it takes rate; did you mean 'rate'?"),
        ("Dense(3, 4, bais=True)", "did you mean 'bias'?"),
        ("ReLU(1)", "ReLU takes no arguments by place, got 1; ReLU() takes no arguments"),
        ("Dense(3, 4, n_in=3)", "Dense got 'n_in' twice"),
        ("Dense(0, 4)", "Dense"),
        ("Dropout(1.5)", "Dropout needs a rate in [0, 1), got 1.5"),
        ("Dense(3, 4", "'Dense(3, 4' is no layer as Python writes it: '(' was never closed"),
        ("Dense(3, n)", "'n' is neither a number nor a text in quotes"),
        ("Dense(3, 2 * 2)", "'2 * 2' is neither a number"),
        ("Dense(*[3, 4])", "'*[3, 4]' is neither a number"),
        ("Dense(**{'n_in': 3})", "** cannot be used here"),
        ("Dense(3, open('x'))", "there is no thing 'open'"),
        ("__import__('os').system('true')", "is no layer; write one as in"),
        ("Dense(3, (lambda: 4)())", "cannot be called here"),
        ("Dense.load('x')", "is no layer"),
        ("[Dense(3, 4)]", "is no layer"),
        ("", "is no layer as Python writes it"),
        ("Dense(3, 4)\x00", "layer"),
        ("Residual(" * 2000 + ")" * 2000, "layer"),
        ("a" * 30_000, "may have 20,000 characters, got 30,000"),
        (7, 'must be a layer as text, such as "AvgPool1d(...)", got 7'),
    ],
)
def test_a_text_that_is_no_layer_is_refused_with_the_part_that_is_wrong(text: Any, says: str) -> None:
    with pytest.raises(bp.ConfigError) as caught:
        parse_call(text, LAYERS, "layer")
    assert says in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"(Dense|ReLU|Residual)\([\w\s\(\),.='\[\]\*-]{0,30}\)", fullmatch=True))
def test_any_text_is_a_layer_or_a_mistake(text: str) -> None:
    try:
        layer = parse_call(text, LAYERS, "layer")
    except bp.ConfigError:
        return
    assert isinstance(layer, bp.Layer)


def test_every_class_of_every_kind_can_be_named() -> None:
    assert {"Dense", "Sequential", "PReLU", "Normalize"} <= set(classes("layer"))
    assert {"BinaryCrossEntropy", "Huber", "FocalLoss"} <= set(classes("loss"))
    assert {"Accuracy", "RMSE", "ConfusionMatrix"} <= set(classes("metric"))
    assert {"SGD", "AdamW", "Lion"} <= set(classes("optimizer"))
    for kind in ("layer", "loss", "metric", "optimizer"):
        assert not {"Layer", "Loss", "ClassLoss", "Metric", "MeanMetric", "Optimizer"} & set(classes(kind))


# --- TOML, written ---

PLAIN = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab é"', max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b-c", "d_e"]),
        PLAIN | st.lists(VALUES, max_size=3) | st.dictionaries(st.text("xy .", max_size=3), VALUES, max_size=3),
        max_size=3,
    )
)
def test_what_is_written_as_toml_is_read_back(settings: dict[str, Any]) -> None:
    assert tomllib.loads(toml.write(settings)) == settings


def test_toml_leaves_out_none_breaks_long_lists_and_knows_the_numbers_that_are_none() -> None:
    text = toml.write({"t": {"a": None, "b": ["x" * 60, "y" * 60]}, "n": None})
    assert text == f'[t]\nb = [\n    "{"x" * 60}",\n    "{"y" * 60}",\n]\n'
    assert [toml.value_of(x) for x in (math.inf, -math.inf, math.nan)] == ["inf", "-inf", "nan"]
    with pytest.raises(TypeError, match="TOML has no complex"):
        toml.value_of(1j)


def test_keys_are_written_as_people_write_them() -> None:
    assert path_of(("model", "layers", 2)) == "model.layers[2]"
    assert path_of(("optimizer", "groups", 0, "pattern")) == "optimizer.groups[0].pattern"


# --- the bundled recipes ---


def test_the_bundled_recipes_have_a_line_each_and_no_mistakes() -> None:
    plain, images = ["diabetes", "digits", "fashion-mnist", "mnist", "spiral"], ["cnn-digits", "cnn-fashion-mnist"]
    assert recipes.available() == ["autoencoder", "char-gpt", "char-lstm", *images, *plain]
    for name in recipes.available():
        recipe = recipes.find(name)
        assert recipe.name == name
        data = {"autoencoder": "digits", "char-gpt": "topics", "char-lstm": "topics"}
        assert recipe["data.name"] == data.get(name, name.removeprefix("cnn-"))
        assert 20 < len(recipes.describe(name)) < 100
        again = recipes.parse(recipe.toml(), name=name)
        assert again == recipe


def test_the_digits_recipe_is_what_the_documented_accuracies_were_measured_with() -> None:
    recipe = recipes.find("digits")
    assert recipe["model.layers"] == ["Dense(64, 128)", "ReLU()", "Dropout(0.3)", "Dense(128, 10)"]
    assert (recipe["training.epochs"], recipe["training.batch_size"], recipe["training.seed"]) == (50, 32, 0)
    assert (recipe["optimizer.name"], recipe["optimizer.learning_rate"]) == ("Adam", 3e-3)
    ready = recipes.find("digits", {"training.epochs": 2}).prepare()
    train, test = bp.data.load("digits")
    model = bp.Sequential(bp.Dense(64, 128), bp.ReLU(), bp.Dropout(0.3), bp.Dense(128, 10))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(learning_rate=3e-3), metrics=[bp.Accuracy()], seed=0)
    trainer.fit(train, epochs=2, batch_size=32, progress=False)
    ready.fit(progress=False)
    assert ready.trainer.evaluate(ready.test) == trainer.evaluate(test)


def test_the_fashion_mnist_recipe_is_the_network_that_was_asked_for() -> None:
    recipe = recipes.find("fashion-mnist")
    sizes = [text for text in recipe["model.layers"] if text.startswith("Dense")]
    assert sizes == ["Dense(784, 256)", "Dense(256, 128)", "Dense(128, 10)"]
    assert recipe["training.epochs"] == 10


def test_the_convolutional_digits_learn_and_the_clothes_take_their_images() -> None:
    ready = recipes.find("cnn-digits", {"training.epochs": 4}).prepare()
    ready.fit(progress=False)
    assert ready.trainer.evaluate(ready.test)["accuracy"] > 0.93
    layers = recipes.find("cnn-fashion-mnist")["model.layers"]
    made = bp.Sequential(*(parse_call(text, classes("layer"), "layer") for text in layers))
    assert made.output_shape((784,)) == (10,)


# --- targets that are the inputs ---


def test_the_autoencoder_gives_its_inputs_back_better_than_the_best_linear_code() -> None:
    ready = recipes.find("autoencoder", {"training.epochs": 15}).prepare()
    for part, whole in zip((ready.training, ready.test), bp.data.load("digits"), strict=True):
        assert part.y is part.x
        np.testing.assert_array_equal(part.x, whole.x)
        assert part.classes == ()
    ready.fit(progress=False)
    found = ready.trainer.evaluate(ready.test)
    outputs = ready.trainer.predict(ready.test.x)
    assert found["loss"] == pytest.approx(np.mean((outputs - ready.test.x) ** 2), rel=1e-4)
    mean = ready.training.x.mean(axis=0)
    axes = np.linalg.svd(ready.training.x - mean, full_matrices=False)[2][:8]  # 8 numbers an image here too
    linear = (ready.test.x - mean) @ axes.T @ axes + mean
    assert found["rmse"] < 0.9 * np.sqrt(np.mean((linear - ready.test.x) ** 2))


RECONSTRUCTION: dict[str, Any] = {
    "data": {"reconstruct": True},
    "model": {"layers": ["Dense(3, 2)", "Dense(2, 3)"]},
    "loss": {"name": "MeanSquaredError"},
    "training": {"epochs": 1},
}


def test_files_without_targets_can_be_given_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    rows = np.column_stack([np.arange(20), x])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=";", header="id;a;b;c", comments="")
    np.savez(tmp_path / "t.npz", x=np.arange(60).reshape(20, 3))
    np.savez(tmp_path / "both.npz", x=x, y=np.arange(20))
    for data in ({"csv": "t.csv", "drop": ["id"], "delimiter": ";"}, {"npz": "t.npz"}, {"npz": "both.npz"}):
        ready = run(changed(RECONSTRUCTION, data=data | {"validation_fraction": 0.25, "normalize": True}), tmp_path)
        assert (len(ready.training), len(ready.validation), len(ready.test)) == (12, 4, 4)
        for part in (ready.training, ready.validation, ready.test):
            assert part.y is part.x
            assert part.x.dtype.kind == "f"
        assert np.isfinite(ready.fit(progress=False)["val_rmse"][0])


def test_ids_are_given_back_by_their_classes() -> None:
    settings = changed(
        RECONSTRUCTION,
        data={"name": "topics", "length": 8},
        model={"layers": ["Embedding(96, 4)", "Dense(4, 96)"]},
        loss={"name": "SoftmaxCrossEntropy"},
    )
    ready = run(settings)
    assert ready.training.y is ready.training.x
    assert len(ready.training.classes) == 96


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            {"data": {"csv": "t.csv", "target": "a"}},
            "data.target: with reconstruct the targets are the inputs: leave it out; to keep a column out, name it in",
        ),
        (
            {"data": {"csv": "t.csv", "class_names": ["a", "b"]}},
            "data.class_names: with reconstruct the targets are the inputs: leave it out",
        ),
        ({"data": {"name": "digits", "reconstruct": 1}}, "data.reconstruct must be true or false, got 1"),
        (
            {"data": {"name": "digits"}, "model": {"layers": ["Dense(64, 32)"]}},
            "the model's outputs must have shape (64,), since the targets of digits have (64,); they have (32,)",
        ),
        (
            {"data": {"name": "spiral"}, "loss": {"name": "SoftmaxCrossEntropy"}, "model": {"layers": ["Dense(2, 2)"]}},
            "loss.name: SoftmaxCrossEntropy takes labels, and spiral has values; take MeanSquaredError",
        ),
    ],
)
def test_what_cannot_be_given_back(tables: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c,d\n1,2,3,4\n1,2,3,5\n")
    lines = mistakes(changed(RECONSTRUCTION, **tables), tmp_path)
    assert any(says in line for line in lines), lines


@pytest.mark.parametrize("name", ["spiral", "diabetes"])
def test_the_small_recipes_learn(name: str) -> None:
    ready = recipes.find(name, {"training.epochs": 30}).prepare()
    before = ready.trainer.evaluate(ready.test)["loss"]
    history = ready.fit(progress=False)
    assert len(history) == 30
    assert ready.trainer.evaluate(ready.test)["loss"] < before
    assert history["loss"][-1] < history["loss"][0]


def test_an_unknown_recipe_or_file_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        bp.ConfigError, match=r"no recipe is called 'digts'; there are autoencoder, .*digits.*did you mean"
    ):
        recipes.find("digts")
    with pytest.raises(bp.ConfigError, match=r"cannot read the recipe .*none\.toml.*No such file"):
        recipes.read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(bp.ConfigError, match="no text in UTF-8"):
        recipes.read(tmp_path / "latin.toml")
    (tmp_path / "bad.toml").write_text("[data]\nname = digits\n")
    with pytest.raises(bp.ConfigError, match=r"bad\.toml is no TOML: .*line 2, column 8"):
        recipes.read(tmp_path / "bad.toml")
    with pytest.raises(bp.ConfigError, match="nested too deeply"):
        recipes.load_toml("a = " + "[" * 100_000, "deep")


def test_the_classes_are_public_and_imported_when_asked_for() -> None:
    recipe = recipes.find("spiral")
    assert isinstance(recipe, recipes.Recipe)
    assert isinstance(recipe.prepare(), recipes.Run)
    with pytest.raises(AttributeError, match="has no attribute 'Reciep'"):
        recipes.Reciep  # noqa: B018


def test_without_pydantic_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import bpnet as bp; from bpnet import recipes\n"
        "assert recipes.available() and recipes.describe('digits')\n"
        "try: recipes.find('digits')\n"
        "except bp.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == 'recipes need pydantic, which is missing: pip install "bpnet-xp[cli]"\n', done.stderr


# --- defaults ---


def test_what_a_recipe_leaves_out_is_written_into_it() -> None:
    recipe = recipes.make_draft(changed(optimizer=None, training=None), name="mine").recipe()
    assert recipe["optimizer.name"] == "Adam"
    assert recipe["optimizer.learning_rate"] == bp.Adam().learning_rate
    assert (recipe["training.epochs"], recipe["training.batch_size"], recipe["training.seed"]) == (10, 32, 0)
    assert recipe["training.metrics"] == ["Accuracy()"]
    assert recipe["loss.label_smoothing"] == 0.0
    assert (recipe["data.validation_fraction"], recipe["data.normalize"]) == (0.0, False)
    json.dumps(recipe.settings)
    with pytest.raises(KeyError, match="training.nothing"):
        recipe["training.nothing"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (bp.SoftmaxCrossEntropy(), ["Accuracy()"]),
        (bp.MulticlassHinge(), ["Accuracy()"]),
        (bp.BinaryCrossEntropy(), ["BinaryAccuracy()"]),
        (bp.BinaryCrossEntropy(from_logits=False), ["BinaryAccuracy(from_logits=False)"]),
        (bp.Huber(), ["RMSE()", "R2()"]),
        (bp.PoissonNLL(), []),
        (None, []),
    ],
)
def test_the_metrics_by_default_are_those_of_the_loss(loss: Any, expected: list[str]) -> None:
    assert default_metrics(loss) == expected


# --- mistakes ---

TOP = "a recipe has description, data, model, loss, optimizer, schedule, training"
TRAINING = (
    "[training] takes seed, epochs, batch_size, micro_batch_size, metrics, patience, monitor, backend, "
    "check_gradients, dtype, precision, matmul_precision, capture"
)
UNVALIDATED = "and there are no validation data: set data.validation_fraction, to 0.1 for instance, or"

MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    # tables and keys
    ({"data": None}, ["data is missing; a recipe needs a table [data]"]),
    ({"model": None}, ["model is missing; a recipe needs a table [model]"]),
    ({"loss": None}, ["loss is missing; a recipe needs a table [loss]"]),
    ({"loss": "SoftmaxCrossEntropy"}, ["loss must be a table, [loss], got 'SoftmaxCrossEntropy'"]),
    ({"epochs": 3}, ["epochs: unknown key; " + TOP + "; it belongs into [training]"]),
    ({"modle": {}}, ["modle: unknown key; " + TOP + "; did you mean 'model'?"]),
    ({"description": 3}, ["description must be a text, got 3"]),
    ({"training": {"epoch": 3}}, ["training.epoch: unknown key; " + TRAINING + "; did you mean 'epochs'?"]),
    ({"training": {"learning_rate": 3}}, ["training.learning_rate: unknown key; " + TRAINING]),
    ({"model": {"layer": []}}, ["model.layer: unknown key; [model] takes layers; did you mean 'layers'?"]),
    # numbers
    ({"training": {"epochs": -1}}, ["training.epochs must be an integer of at least 0, got -1"]),
    ({"training": {"epochs": 1.5}}, ["training.epochs must be an integer of at least 0, got 1.5"]),
    ({"training": {"epochs": True}}, ["training.epochs must be an integer of at least 0, got True"]),
    ({"training": {"batch_size": "32"}}, ["training.batch_size must be an integer of at least 1, got '32'"]),
    ({"training": {"micro_batch_size": 0}}, ["training.micro_batch_size must be an integer of at least 1, got 0"]),
    (
        {"training": {"seed": 2**64}},
        ["training.seed must be an integer in 0 ... 2^64 - 1 (18446744073709551615), got 18446744073709551616"],
    ),
    ({"training": {"dtype": "float16"}}, ['training.dtype must be "float32" or "float64", got \'float16\'']),
    ({"training": {"precision": "fp16"}}, ['training.precision must be "float32" or "bf16", got \'fp16\'']),
    (
        {"training": {"matmul_precision": "tf23", "capture": "of"}},
        [
            'training.matmul_precision must be "float32", "tf32" or "bf16", got \'tf23\'',
            'training.capture must be "auto", "on" or "off", got \'of\'',
        ],
    ),
    (
        {"training": {"precision": "bf16", "dtype": "float64"}},
        ['training.precision: is for dtype = "float32", and training.dtype is "float64"'],
    ),
    (
        {"training": {"precision": "bf16"}, "model": {"layers": ["Embedding(3, 3)"]}},
        [
            "training.precision: changes nothing here: no layer multiplies in bfloat16, as Dense does",
            "model.layers[0]: the model's outputs must have shape (3,)",
        ],
    ),
    (
        {"training": {"capture": "on", "matmul_precision": "tf32"}},
        [
            "training.capture: capture='on' needs a backend that can record a step as one graph, as 'cupy' can",
            "training.matmul_precision: matmul_precision='tf32' is for backends whose hardware has it, as 'cupy'",
        ],
    ),
    (
        {"training": {"backend": "nmupy"}},
        ["training.backend: unknown backend 'nmupy' (from the argument); known are", "did you mean 'numpy'?"],
    ),
    (
        {"training": {"metrics": "Accuracy()"}},
        ["training.metrics must be a list of metrics such as [\"Accuracy()\"], got 'Accuracy()'"],
    ),
    (
        {"data": {"validation_fraction": 1.0}},
        ["data.validation_fraction must be a number of at least 0 and below 1, got 1.0"],
    ),
    (
        {"data": {"validation_fraction": 0.01}},
        ["data.validation_fraction: fraction 0.01 of 30 samples leaves a part empty"],
    ),
    ({"data": {"split_seed": -1}}, ["data.split_seed must be an integer in 0 ... 2^64 - 1"]),
    ({"data": {"normalize": "yes"}}, ["data.normalize must be true or false, got 'yes'"]),
    # the data
    ({"data": {"name": "spirale"}}, ["data.name: unknown data 'spirale'; known are", "did you mean 'spiral'?"]),
    ({"data": {"name": None}}, ["data must have exactly one of name, csv and npz; got none of them"]),
    ({"data": {"csv": "x.csv"}}, ["data must have exactly one of name, csv and npz; got name and csv"]),
    ({"data": {"sampels": 3}}, ["data.sampels: unknown key; [data] takes", "did you mean 'samples'?"]),
    ({"data": {"samples": 0}}, ["data.name: spiral: samples must be an integer of at least 1, got 0"]),
    ({"data": {"test_fraction": 0.3}}, ["data.test_fraction: spiral has a test part of its own; leave it out"]),
    ({"data": {"test_fraction": 1.3}}, ["data.test_fraction must be a number above 0 and below 1, got 1.3"]),
    ({"data": {"target": "price"}}, ["data.target: is about a csv file; with name leave it out"]),
    # the model
    ({"model": {"layers": []}}, ['model.layers must be a list of layers such as ["Dense(64, 10)"], got []']),
    (
        {"model": {"layers": "Dense(2, 3)"}},
        ["model.layers must be a list of layers such as [\"Dense(64, 10)\"], got 'Dense(2, 3)'"],
    ),
    ({"model": {"layers": [3]}}, ["model.layers[0] must be a layer as text"]),
    (
        {"model": {"layers": ["Dense(3, 3)"]}},
        ["model.layers[0]: Dense(3, 3) needs x of shape (N, 3), got (1, 2) (a sample of spiral gives (2,))"],
    ),
    (
        {"model": {"layers": ["Dense(2, 4)", "Dense(5, 3)"]}},
        ["model.layers[1]: Dense(5, 3) needs x of shape (N, 5), got (1, 4) (the layer before gives (4,))"],
    ),
    (
        {"model": {"layers": ["Dense(2, 4)"]}},
        ["model.layers[0]: the model's outputs must have shape (3,), since spiral has 3 classes; they have (4,)"],
    ),
    ({"model": {"layers": ["Normalize(2)", "Dense(2, 3)"]}}, ["model.layers[0]: set data.normalize = true"]),
    # the loss
    ({"loss": {"name": "CrossEntropy"}}, ["loss.name: there is no loss 'CrossEntropy'; there are BinaryCrossEntropy"]),
    ({"loss": {"name": None}}, ["loss.name is missing; it must be the name of a class"]),
    ({"loss": {"smoothing": 0.1}}, ["loss.smoothing: unknown key; it takes", "did you mean 'label_smoothing'?"]),
    ({"loss": {"label_smoothing": 1.5}}, ["loss.label_smoothing must be a number in [0, 1), got 1.5"]),
    ({"loss": {"class_weight": [1, 2]}}, ["loss.class_weight: has 2 weights, and spiral has 3 classes"]),
    ({"loss": {"class_weight": {"3": 2.0}}}, ["loss.class_weight: names class 3, and spiral has 3 classes"]),
    ({"loss": {"class_weight": {"x": 2.0}}}, ["loss.class_weight must be a sequence of numbers"]),
    (
        {"loss": {"name": "MeanSquaredError"}},
        ["loss.name: MeanSquaredError takes values, and spiral has labels of 3 classes; take SoftmaxCrossEntropy"],
    ),
    (
        {"loss": {"name": "CategoricalCrossEntropy"}},
        ["data: the training part: CategoricalCrossEntropy() wants probabilities, and the model's outputs lie between"],
    ),
    ({"loss": {"reduction": "none"}}, ['loss.reduction must be "mean" or "sum": there must be one number to train on']),
    (
        {"model": {"layers": ["Dense(2, 3)", "Softmax()"]}},
        ["loss.name: SoftmaxCrossEntropy applies the softmax itself, and the model ends in a Softmax: leave that out"],
    ),
    # the optimizer
    (
        {"optimizer": {"name": "adam"}},
        ["optimizer.name: there is no optimizer 'adam'; there are Adagrad, Adam, AdamW", "did you mean 'Adam'?"],
    ),
    ({"optimizer": {"learning_rate": 0}}, ["optimizer.learning_rate must be above 0 and finite, got 0"]),
    ({"optimizer": {"learning_rate": "0.1"}}, ["optimizer.learning_rate must be a number, got '0.1'"]),
    (
        {"optimizer": {"lr": 0.1}},
        ["optimizer.lr: unknown key; it takes learning_rate=0.01", "did you mean 'learning_rate'?"],
    ),
    (
        {"optimizer": {"nesterov": True}},
        ["optimizer.nesterov: nesterov=True looks ahead along the momentum; give a momentum above 0"],
    ),
    ({"optimizer": {"nesterov": True, "momentum": 1.5}}, ["optimizer.momentum must lie in [0, 1), got 1.5"]),
    ({"optimizer": {"groups": ["0.*"]}}, ["optimizer.groups must be a list of tables such as"]),
    (
        {"optimizer": {"groups": [{"pattern": "0.*", "scale": 2}]}},
        ["optimizer.groups[0].scale: unknown key; it takes pattern"],
    ),
    ({"optimizer": {"groups": [{"weight_decay": 0.1}]}}, ["optimizer.groups[0].pattern is missing; Group needs it"]),
    ({"optimizer": {"groups": [{"pattern": "9.*"}]}}, ["optimizer.groups: no parameter matches Group(pattern='9.*'"]),
    # the schedule
    (
        {"schedule": {"name": "Cosin"}},
        ["schedule.name: there is no schedule 'Cosin'; there are Constant, Cosine", "did you mean 'Cosine'?"],
    ),
    (
        {"schedule": {"name": "Cosine", "warmup_epochs": 2}},
        ["schedule.warmup_epochs must be below the 2 epochs of the training, got 2"],
    ),
    (
        {"schedule": {"name": "Cosine", "warmup_epochs": -1}},
        ["schedule.warmup_epochs must be a number of at least 0, got -1"],
    ),
    (
        {"schedule": {"name": "Cosine", "warmup": 5}},
        ["schedule.warmup: unknown key; recipes count epochs: did you mean 'warmup_epochs'?"],
    ),
    (
        {"schedule": {"name": "Cosine", "learning_rate": 0.1}},
        ["schedule.learning_rate: unknown key; it belongs into [optimizer]"],
    ),
    ({"schedule": {"name": "Cosine", "final": -1}}, ["schedule.final must lie in [0, inf), got -1"]),
    (
        {"schedule": {"name": "Cosine", "finl": 0.1}},
        ["schedule.finl: unknown key; it takes epochs, warmup_epochs=0, final=0.0; did you mean 'final'?"],
    ),
    ({"schedule": {"name": "StepDecay"}}, ["schedule.every_epochs is missing; StepDecay needs it"]),
    ({"schedule": {"name": "StepDecay", "every_epochs": 0}}, ["schedule.every_epochs must be a number above 0, got 0"]),
    ({"schedule": {"name": "OneCycle", "rise": 2}}, ["schedule.rise must lie between 0 and 1"]),
    (
        {"schedule": {"name": "OneCycle", "warmup_epochs": 1.5}},
        ["schedule.warmup_epochs: leaves too little of OneCycle in 2 epochs; make it shorter"],
    ),
    (
        {"schedule": {"name": "ReduceOnPlateau"}},
        ["schedule.name: ReduceOnPlateau watches val_loss, " + UNVALIDATED + " schedule.monitor"],
    ),
    (
        {"schedule": {"name": "ReduceOnPlateau", "monitor": "val_accuracy"}},
        ["schedule.monitor: ReduceOnPlateau watches val_accuracy, and there are no validation data"],
    ),
    (
        {"schedule": {"name": "ReduceOnPlateau", "monitor": "loss", "factor": 2}},
        ["schedule.factor must be a number between 0 and 1, got 2"],
    ),
    # early stopping and metrics
    (
        {"training": {"patience": 3}},
        [
            "training.patience: early stopping watches val_loss, "
            + UNVALIDATED
            + " training.monitor to a number of the training data, such as loss"
        ],
    ),
    (
        {"training": {"patience": 3, "monitor": "val_accuracy"}},
        ["training.monitor: early stopping watches val_accuracy, and there are no validation data"],
    ),
    (
        {"training": {"patience": 3, "monitor": "acuracy"}},
        ["training.monitor: there is no 'acuracy'; there are loss, accuracy; did you mean 'accuracy'?"],
    ),
    (
        {"training": {"monitor": "loss"}},
        ["training.monitor: is what early stopping watches; set training.patience too"],
    ),
    (
        {"training": {"metrics": ["Acc()", "TopKAccuracy(0)"]}},
        [
            "training.metrics[0]: there is no metric 'Acc'",
            "training.metrics[1]: TopKAccuracy: k must be an integer of at least 1, got 0",
        ],
    ),
    (
        {"training": {"metrics": ["RMSE()", "TopKAccuracy(9)"]}},
        ["training.metrics[0]: RMSE needs", "training.metrics[1]: TopKAccuracy"],
    ),
    (
        {"training": {"metrics": ["Accuracy()", "Accuracy()"]}},
        ["training.metrics: two results would be called 'accuracy'"],
    ),
]


@pytest.mark.parametrize(("tables", "expected"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_a_mistake_is_reported_under_its_key_with_what_is_allowed(tables: dict[str, Any], expected: list[str]) -> None:
    lines = mistakes(changed(SMALL, **tables))
    for text in expected:
        assert any(text in line for line in lines), lines
    for line in lines:
        assert any(text in line for text in expected), f"not expected: {line}"


def test_all_mistakes_are_reported_at_once_and_only_those() -> None:
    lines = mistakes(
        {
            "data": {"name": "digits", "csv": "x.csv", "sapmles": 3, "validation_fraction": 2},
            "model": {"layers": ["Dense(64, 10", "Relu()", "Dropout(2)"]},
            "loss": {"name": "SoftmaxCrossEntropy", "label_smoothing": 3, "wieght": 1},
            "optimizer": {"name": "AdamW", "learning_rate": -1, "beta1": 2, "weight_decay": "a"},
            "schedule": {"name": "Cosine", "warmup_epochs": 12, "final": -1},
            "training": {"epochs": 3, "batch_size": 0, "metrics": ["Accuracy(k=1)"], "patience": 0},
            "seed": 3,
        }
    )
    assert [line.split()[0].rstrip(":") for line in lines] == [
        "seed", "data.validation_fraction", "data.sapmles", "data", "training.patience", "training.batch_size",
        "model.layers[0]", "model.layers[1]", "model.layers[2]", "loss.wieght", "loss.label_smoothing",
        "optimizer.learning_rate", "optimizer.beta1", "optimizer.weight_decay", "schedule.warmup_epochs",
        "schedule.final", "training.metrics[0]",
    ]  # fmt: skip


def test_contradictions_are_found_beside_other_mistakes() -> None:
    lines = mistakes(
        {
            "data": {"name": "digits"},
            "model": {"layers": ["Dense(64, 9)", "Softmax()"]},
            "loss": {"name": "SoftmaxCrossEntropy", "class_weight": [1.0] * 9, "label_smoothing": -1},
            "schedule": {"name": "StepDecay", "every_epochs": 3, "warmup_epochs": 10},
            "training": {"patience": 3},
        }
    )
    assert [line.split()[0].rstrip(":") for line in lines] == [
        "loss.label_smoothing", "schedule.warmup_epochs", "loss.name", "training.patience", "loss.class_weight",
        "model.layers[1]",
    ]  # fmt: skip
    assert lines[4] == "loss.class_weight: has 9 weights, and digits has 10 classes"


def test_one_error_carries_all_mistakes_and_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(toml.write(changed(SMALL, training={"epochs": -1}, loss={"name": "x"})))
    with pytest.raises(bp.ConfigError) as caught:
        recipes.read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 2 settings cannot be used:"
    assert [line.split()[0] for line in lines[1:]] == ["training.epochs", "loss.name:"]
    path.write_text(toml.write(changed(SMALL, training={"epochs": -1})))
    with pytest.raises(bp.ConfigError, match=r"mine\.toml: training\.epochs must be an integer of at least 0, got -1$"):
        recipes.read(path)


def test_an_override_stands_in_the_place_of_a_key() -> None:
    recipe = recipes.find("digits", {"training.epochs": 3, "data.validation_fraction": 0.25, "description": "mine"})
    assert (recipe["training.epochs"], recipe["data.validation_fraction"]) == (3, 0.25)
    assert recipe["description"] == "mine"
    assert recipe["training.batch_size"] == 32
    with pytest.raises(bp.ConfigError, match=r"digits|training\.epoch: unknown key"):
        recipes.find("digits", {"training.epoch": 3})


# --- data from files ---


def table(path: Path, rows: int = 40) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    kinds = np.where(x[:, 0] > 0, "yes", "no")
    lines = [
        f"{a},{b},{c},{2 * a - b},{kind},{number}"
        for number, ((a, b, c), kind) in enumerate(zip(x, kinds, strict=True))
    ]
    path.write_text("\n".join(["a,b,c,price,kind,id", *lines]))
    return path


def test_a_csv_file_gives_values_to_a_regression(tmp_path: Path) -> None:
    table(tmp_path / "t.csv")
    settings = changed(
        REGRESSION,
        data={
            "name": None,
            "csv": "t.csv",
            "target": "price",
            "drop": ["kind", "id"],
            "test_fraction": 0.25,
            "validation_fraction": 0.1,
        },
        model={"layers": ["Dense(3, 1)"]},
    )
    ready = run(settings, tmp_path)
    assert ready.training.x.shape == (27, 3)
    assert ready.training.y.shape == (27, 1)
    assert (len(ready.validation), len(ready.test)) == (3, 10)
    assert ready.recipe["data.csv"] == str(tmp_path / "t.csv")
    assert set(ready.fit(progress=False).rows[0]) >= {"rmse", "r2", "val_rmse", "val_r2"}
    scaled = ready.model[0](ready.model.asarray(ready.training.x))
    assert np.allclose(np.mean(scaled, axis=0), 0, atol=1e-5)
    assert np.allclose(np.std(scaled, axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("target", ["kind", -2])
def test_a_csv_file_gives_names_of_classes_to_a_classifier(target: Any, tmp_path: Path) -> None:
    table(tmp_path / "t.csv")
    data = {"name": None, "csv": "t.csv", "target": target, "drop": ["price", "id"], "samples": None, "classes": None}
    ready = run(changed(SMALL, data=data, model={"layers": ["Dense(3, 2)"]}), tmp_path)
    assert ready.training.classes == ("no", "yes")
    assert (len(ready.training), len(ready.test)) == (32, 8)
    ready.fit(progress=False)


def test_a_binary_classifier_reads_zeros_and_ones_as_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(20, 3)), y=rng.integers(0, 2, 20))
    settings = {
        "data": {"npz": "d.npz"},
        "model": {"layers": ["Dense(3, 1)"]},
        "loss": {"name": "BinaryCrossEntropy"},
        "training": {"epochs": 1},
    }
    ready = run(settings, tmp_path)
    assert ready.training.y.shape == (16, 1)
    assert "accuracy" in ready.fit(progress=False).rows[0]


def test_an_npz_file_has_labels_or_soft_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2))
    np.savez(tmp_path / "hard.npz", x=x, y=np.arange(20) % 3)
    np.savez(tmp_path / "soft.npz", x=x, y=np.full((20, 3), 1 / 3))
    for name, metrics in (("hard", ["Accuracy()"]), ("soft", [])):
        settings = changed(
            SMALL,
            data={"name": None, "samples": None, "classes": None, "npz": f"{name}.npz"},
            training={"metrics": metrics},
        )
        assert len(run(settings, tmp_path).fit(progress=False)) == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"csv": "none.csv", "target": "price"}, "data.csv: cannot read"),
        ({"csv": "t.csv"}, "data.target is missing; it must be the column to predict, by name or number"),
        ({"csv": "t.csv", "target": "prize"}, "data.target: "),
        ({"csv": "t.csv", "target": 9}, "data.target must be in 0 ... 5, got 9"),
        ({"csv": "t.csv", "target": "price", "drop": ["kinds"]}, "data.drop: "),
        (
            {"csv": "t.csv", "target": "price", "drop": "kind"},
            "data.drop must be a list of columns, by name or number, got 'kind'",
        ),
        ({"csv": "t.csv", "target": "price"}, "line 2, column 5 ('kind') holds 'yes', which is no number"),
        ({"csv": "t.csv", "target": "kind", "drop": ["price"]}, "line 2, column 5 ('kind') holds 'yes'"),
        ({"csv": "t.csv", "target": "price", "delimiter": ";;"}, "data.delimiter must be one character"),
        (
            {"csv": "t.csv", "target": "price", "class_names": ["no", "yes"]},
            "data.class_names: names classes, and MeanSquaredError takes values; leave it out",
        ),
        ({"csv": "t.csv", "target": "price", "samples": 3}, "data.samples: unknown key; [data] takes name, csv"),
        ({"npz": "none.npz"}, "data.npz: cannot read"),
        ({"npz": "x.npz"}, "must hold the arrays 'x' and 'y'"),
        ({"npz": "text.npz"}, "data.npz: cannot read"),
    ],
)
def test_files_that_cannot_be_used_are_reported_under_their_key(
    data: dict[str, Any], says: str, tmp_path: Path
) -> None:
    table(tmp_path / "t.csv")
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)))
    (tmp_path / "text.npz").write_text("nonsense")
    lines = mistakes(changed(REGRESSION, data={"name": None, **data}), tmp_path)
    assert any(says in line for line in lines), lines


def test_values_that_cannot_be_trained_on_are_found_before_training(tmp_path: Path) -> None:
    x = np.ones((20, 10))
    x[3, 4] = np.nan
    np.savez(tmp_path / "d.npz", x=np.ones((20, 10)), y=np.append(np.ones(19), np.inf))
    settings = changed(REGRESSION, data={"name": None, "npz": "d.npz"})
    (line,) = mistakes(settings, tmp_path)
    assert line.startswith(("data: the training part: y holds 0 NaN and 1 inf", "data: the test part: y holds 0 NaN"))
    np.savez(tmp_path / "d.npz", x=x, y=np.ones(20))
    (line,) = mistakes(settings, tmp_path)
    assert "holds 1 NaN" in line


def test_labels_below_zero_are_no_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((8, 2)), y=np.array([-1, 1] * 4))
    settings = changed(SMALL, data={"name": None, "samples": None, "classes": None, "npz": "d.npz"})
    assert mistakes(settings, tmp_path) == ["data.npz: labels must be 0 ... C - 1, found -1 ... 1; number them anew"]


def test_labels_far_beyond_the_number_of_samples_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("size,phone\n" + "".join(f"{i},{i * 10**9}\n" for i in range(20)))
    settings = changed(SMALL, data={"name": None, "samples": None, "classes": None, "csv": "d.csv", "target": "phone"})
    assert mistakes(settings, tmp_path) == [
        "data.csv: labels must be 0 ... C - 1, found 0 ... 19000000000 for 20 samples; number the classes anew"
    ]


@pytest.mark.parametrize(
    ("y", "what"),
    [
        (np.array([True, False] * 10), "truth values; write them as the integers 0 and 1"),
        (
            np.array([0.0, 1.0] * 10),
            "whole numbers that are written with a point; write labels as integers, or take MeanSquaredError",
        ),
        (np.array([0.0, 0.5] * 10), "values; take MeanSquaredError"),
    ],
)
def test_targets_that_only_look_like_labels_are_refused_with_what_to_do(tmp_path: Path, y: Any, what: str) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((20, 2)), y=y)
    settings = changed(SMALL, data={"name": None, "samples": None, "classes": None, "npz": "d.npz"})
    assert mistakes(settings, tmp_path) == [f"loss.name: SoftmaxCrossEntropy takes labels, and d has {what}"]


def test_a_split_that_leaves_nothing_names_no_argument_that_a_recipe_lacks(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 2)), y=np.arange(4))
    settings = changed(SMALL, data={"name": None, "samples": None, "classes": None, "npz": "d.npz"})
    assert mistakes(settings, tmp_path) == [
        "data.test_fraction: fraction 0.2 of 4 samples leaves a part empty; take another fraction"
    ]


def test_a_key_of_the_optimizer_is_sent_there() -> None:
    (line,) = mistakes(changed(SMALL, training={"learning_rate": 0.1}))
    assert line.startswith("training.learning_rate: unknown key; ")
    assert line.endswith("; it belongs into [optimizer]")


def test_a_truth_value_in_quotes_is_no_option_of_the_data() -> None:
    settings = changed(SMALL, data={"name": "digits", "samples": None, "classes": None, "flat": "no"})
    assert "data.name: digits: flat must be True or False, got 'no'" in mistakes(settings)


def test_a_loss_of_labels_does_not_take_values(tmp_path: Path) -> None:
    lines = mistakes(changed(REGRESSION, loss={"name": "SoftmaxCrossEntropy"}))
    assert lines == ["loss.name: SoftmaxCrossEntropy takes labels, and diabetes has values; take MeanSquaredError"]
    lines = mistakes(changed(REGRESSION, model={"layers": ["Dense(10, 2)"]}))
    assert lines == [
        "model.layers[0]: the model's outputs must have shape (1,), since the targets of diabetes have (1,); "
        "they have (2,)"
    ]


# --- what is made of a recipe ---


def test_schedules_count_epochs_and_the_optimizer_steps() -> None:
    settings = changed(
        SMALL,
        optimizer={"groups": [{"pattern": "0.*", "learning_rate_scale": 0.5}], "clip_norm": 1.0, "average": 0.9},
        schedule={"name": "Cosine", "warmup_epochs": 0.5},
        training={"epochs": 4, "micro_batch_size": 3, "dtype": "float64"},
    )
    ready = run(settings)
    assert ready.steps_per_epoch == 4
    optimizer = ready.trainer.optimizer
    assert optimizer.schedule == bp.Cosine(0.1, steps=16, warmup=2)
    assert optimizer.groups == (bp.Group("0.*", learning_rate_scale=0.5),)
    assert (optimizer.clip_norm, optimizer.average, ready.model.store.dtype) == (1.0, 0.9, "float64")
    assert ready.fit(progress=False)["learning_rate"][-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "Constant", "warmup_epochs": 1}, bp.WarmUp(bp.Constant(0.1), 4)),
        ({"name": "StepDecay", "every_epochs": 2}, bp.StepDecay(0.1, every=8)),
        ({"name": "StepDecay", "every_epochs": 0.01, "factor": 0.5}, bp.StepDecay(0.1, every=1, factor=0.5)),
        ({"name": "Exponential", "factor": 0.9}, bp.Exponential(0.1, factor=0.9, every=4)),
        ({"name": "InverseTime", "decay_per_epoch": 1}, bp.InverseTime(0.1, decay=0.25)),
        ({"name": "OneCycle"}, bp.OneCycle(0.1, steps=32)),
        ({"name": "Cosine", "epochs": 3, "final": 0.01}, bp.Cosine(0.1, steps=12, final=0.01)),
        ({"name": "OneCycle", "warmup_epochs": 2}, bp.WarmUp(bp.OneCycle(0.1, steps=24), 8)),
    ],
)
def test_every_schedule_can_be_asked_for_in_epochs(table: dict[str, Any], expected: Any) -> None:
    settings = changed(SMALL, schedule=table, training={"epochs": 8})
    ready = run(settings)
    assert ready.trainer.optimizer.schedule == expected
    assert run(dict(ready.recipe.settings)).trainer.optimizer.schedule == expected
    assert recipes.parse(ready.recipe.toml(), name="mine") == ready.recipe


def test_without_epochs_a_schedule_is_held_to_nothing() -> None:
    settings = changed(SMALL, schedule={"name": "Cosine", "warmup_epochs": 5}, training={"epochs": 0})
    assert mistakes(settings) == []
    assert len(run(settings).fit(progress=False)) == 0


def test_the_plateau_and_early_stopping_are_callbacks() -> None:
    settings = changed(
        SMALL,
        data={"validation_fraction": 0.2},
        schedule={"name": "ReduceOnPlateau", "patience": 0, "threshold": 0.9, "factor": 0.5},
        training={"epochs": 50, "patience": 2, "monitor": "val_accuracy"},
    )
    ready = run(settings)
    assert [type(callback).__name__ for callback in ready.callbacks] == ["ReduceOnPlateau", "EarlyStopping"]
    history = ready.fit(progress=False)
    assert len(history) < 50
    assert history.stopped.startswith("val_accuracy has not become better for 2 epochs")
    assert history["learning_rate"][-1] < 0.1


def test_class_weights_can_be_given_to_some_classes() -> None:
    ready = run(changed(SMALL, loss={"class_weight": {"2": 4.0}}))
    assert ready.trainer.loss.class_weight == {2: 4.0}
    assert recipes.parse(ready.recipe.toml(), name="mine") == ready.recipe


def test_two_runs_of_a_recipe_are_the_same_and_share_nothing() -> None:
    recipe = recipes.make_draft(SMALL, name="mine").recipe()
    first, second = recipe.prepare(), recipe.prepare()
    assert first.model is not second.model
    assert first.fit(progress=False)["loss"] == second.fit(progress=False)["loss"]


def test_a_callback_of_ones_own_stands_beside_the_recipes() -> None:
    seen: list[float] = []
    run(SMALL).fit(progress=False, callbacks=[bp.callbacks.EveryEpoch(lambda trainer, row: seen.append(row["loss"]))])
    assert len(seen) == 2


def test_the_recipe_says_the_backend_and_the_argument_wins() -> None:
    recipe = recipes.make_draft(changed(SMALL, training={"backend": "strict:device1"}), name="mine").recipe()
    assert recipe.prepare().model.backend.name == "strict:device1"
    assert recipe.prepare(backend="numpy").model.backend.name == "numpy"
    with pytest.raises(bp.BackendError, match="unknown backend 'nowhere'"):
        recipe.prepare(backend="nowhere")


def test_one_arm_of_samples_in_two_shapes_is_flattened() -> None:
    settings = {
        "data": {"name": "digits", "flat": False, "normalize": True},
        "model": {"layers": ["Flatten()", "Dense(64, 10)"]},
        "loss": {"name": "SoftmaxCrossEntropy"},
        "training": {"epochs": 1},
    }
    ready = run(settings)
    assert ready.training.x.shape[1:] == (8, 8)
    ready.fit(progress=False)
    lines = mistakes(settings | {"model": {"layers": ["Dense(64, 10)"]}})
    assert lines[0].startswith(
        "model.layers[0]: Dense(64, 10) needs x of shape (N, 64), got (1, 8, 8); put a Flatten()"
    )


# --- the page ---


def test_the_recipes_on_the_page_can_be_used() -> None:
    found = re.findall(r"^(?:<!-- file: (\S+) -->\n)?```toml\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.M | re.S)
    assert [name for name, _ in found] == ["houses.toml", "wrong.toml", ""]
    for name, text in found:
        tables = tomllib.loads(text)
        if name == "wrong.toml":
            assert len(mistakes(tables)) == 5
        elif name == "houses.toml":
            recipes.parse(text, name=name)
        else:
            assert mistakes({**SMALL, **tables}) == []


def test_every_key_stands_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for name, kind in schema.SECTIONS.items():
        assert f"`[{name}]`" in text
        for key in kind.model_fields:
            assert f"`{key}`" in text, key
    for key in ARGUMENTS:
        assert f"`{key}`" in text
    for cls in SCHEDULES:
        assert cls == "WarmUp" or f"`{cls}`" in text


def test_check_gives_every_mistake_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(toml.write(changed(SMALL, model={"layers": ["Dense(2, 2)"]}, training={"seed": -1})))
    assert [line.split()[0].rstrip(":") for line in recipes.check(str(path))] == ["training.seed", "model.layers[0]"]
    assert recipes.check("digits") == []
