"""Text as ids, sequences that a model makes, and the recipe and the command for them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet.command_line import main
from bpnet.data.text import CHARACTERS, topics_text, windows
from bpnet.generation import _choose
from bpnet.random import HostStream

RNG = np.random.default_rng(4)


def raises(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=re.escape(text))


def run(*arguments: str) -> int:
    """The exit code of `bpnet` with these arguments."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def model(positions: int = 6, **options: Any) -> bp.Sequential:
    return bp.Sequential(
        bp.Embedding(5, 8),
        bp.LearnedPositions(positions, 8),
        bp.TransformerBlock(8, 2, causal=True, activation="gelu_tanh", **options),
        bp.Unembedding(5, 8),
    ).initialize(seed=2, dtype="float64")


# --- text ---


@given(st.text(alphabet=CHARACTERS))
def test_decoding_undoes_encoding(text: str) -> None:
    ids = bp.data.encode(text, CHARACTERS)
    assert ids.dtype == np.int64
    assert bp.data.decode(ids, CHARACTERS) == text


def test_what_encoding_and_decoding_refuse() -> None:
    with raises(bp.DataError, "the vocabulary of 2 characters lacks 'c', 'd'; leave them out of the text"):
        bp.data.encode("abcd", "ab")
    with raises(bp.ConfigError, "a vocabulary must be a text in which every character stands once, got 'aa'"):
        bp.data.encode("a", "aa")
    with raises(bp.DataError, "ids must be integers in 0 ... 1, got int64 [0, 2]"):
        bp.data.decode([0, 2], "ab")
    with raises(bp.DataError, "ids must be integers in 0 ... 1, got float64 [0.5]"):
        bp.data.decode([0.5], "ab")


def test_rows_of_a_text_are_followed_by_what_follows() -> None:
    x, y = windows(np.arange(10), 3)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert y.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert windows(np.arange(9), 3)[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    with raises(bp.DataError, "a text of 3 ids is too short for one row of 3"):
        windows(np.arange(3), 3)


def test_the_topics_are_python_s_help_in_two_parts() -> None:
    text = topics_text()
    assert len(text) > 300_000
    assert "assert" in text
    assert set(text) <= set(CHARACTERS)
    train, test = bp.data.load("topics", length=50)
    assert train.x.shape[1:] == train.y.shape[1:] == (50,)
    assert train.x.dtype == np.int64
    assert "".join(train.classes) == CHARACTERS
    assert bp.data.decode(train.x.reshape(-1), CHARACTERS) == text[: train.x.size]
    assert bp.data.decode(train.y.reshape(-1), CHARACTERS) == text[1 : train.x.size + 1]
    start = len(text) - len(text) // 10
    assert bp.data.decode(test.x[0], CHARACTERS) == text[start : start + 50]
    with raises(bp.ConfigError, "topics: length must be an integer of at least 1, got 0"):
        bp.data.load("topics", length=0)
    with raises(bp.ConfigError, "topics: length must be below"):
        bp.data.load("topics", length=10**6)


# --- generation ---


@pytest.mark.parametrize("options", [{}, {"rotary": 1e4, "norm": "rms"}], ids=str)
def test_generation_from_a_cache_is_that_from_the_whole_sequence(options: dict[str, Any]) -> None:
    cached = model(**options)
    whole = model(**options)
    whole.layers = (*whole.layers, _NoStep())
    assert cached.can_step
    assert not whole.can_step
    for settings in ({"temperature": 0}, {"seed": 5}, {"temperature": 0.5, "top_k": 3, "seed": 1}):
        prompt = RNG.integers(0, 5, size=(3, 2))
        found = bp.generate(cached, prompt, length=12, **settings)
        assert found.shape == (3, 14)
        assert np.array_equal(found[:, :2], prompt)
        assert np.array_equal(found, bp.generate(whole, prompt, length=12, **settings))


class _NoStep(bp.Layer):
    """The identity, of which nobody knows that it is one."""

    def __call__(self, x: Any) -> Any:
        return x


def test_the_largest_score_is_taken_at_temperature_0() -> None:
    made = model()
    ids = [1, 2]
    for _ in range(7):
        ids.append(int(np.argmax(made(np.array([ids[-6:]]))[0, -1])))
    assert bp.generate(made, np.array([1, 2]), length=7, temperature=0, seed=9).tolist() == ids


def test_one_seed_stands_for_one_text() -> None:
    made = model()
    made.info["vocabulary"] = "abcde"
    first = bp.generate(made, "ab", length=40, seed=3)
    assert first[:2] == "ab"
    assert len(first) == 42
    assert bp.generate(made, "ab", length=40, seed=3) == first
    assert bp.generate(made, "ab", length=40, seed=4) != first
    assert bp.generate(made, "ab", length=0) == "ab"
    assert bp.generate(made, "ab", length=40, seed=3, top_k=1) == bp.generate(made, "ab", length=40, temperature=0)


def test_draws_follow_the_softmax_of_the_scores_over_the_temperature() -> None:
    scores = np.tile(np.log([[0.1, 0.2, 0.3, 0.4]]), (20_000, 1))
    for temperature, top_k, expected in (
        (1.0, None, [0.1, 0.2, 0.3, 0.4]),
        (0.5, None, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (1.0, 2, [0, 0, 3 / 7, 4 / 7]),
        (1e-9, None, [0, 0, 0, 1]),
    ):
        drawn = _choose(scores, temperature, top_k, HostStream(1, "test"))
        shares = np.bincount(drawn, minlength=4) / len(drawn)
        np.testing.assert_allclose(shares, expected, atol=0.02)
        assert all(share == 0 for share, right in zip(shares, expected, strict=True) if right == 0)


def test_generation_runs_on_every_backend(backend: bp.Backend) -> None:
    made = model().to(backend)
    found = bp.generate(made, made.asarray(np.array([[1, 2]])), length=5, temperature=0)
    assert np.array_equal(found, bp.generate(model(), np.array([[1, 2]]), length=5, temperature=0))


def test_what_generation_refuses() -> None:
    made = model()
    with raises(bp.ConfigError, 'the model does not know its characters: set model.info["vocabulary"]'):
        bp.generate(made, "a")
    made.info["vocabulary"] = "abcde"
    with raises(bp.DataError, "the vocabulary of 5 characters lacks 'x'"):
        bp.generate(made, "axe")
    with raises(bp.DataError, "generate: the prompt is empty"):
        bp.generate(made, "")
    with raises(bp.DataError, "the prompt holds 1 ids outside 0 ... 4"):
        bp.generate(made, [1, 5])
    with raises(
        bp.DTypeError, "the prompt must hold ids, integers in 0 ... 4, which the model begins with; got float64"
    ):
        bp.generate(made, [0.5])
    with raises(bp.ShapeError, "generate: a prompt of ids must have shape (T,) or (N, T), got (1, 1, 1)"):
        bp.generate(made, [[[1]]])
    with raises(bp.ConfigError, "generate: length must be an integer of at least 0, got -1"):
        bp.generate(made, [1], length=-1)
    with raises(bp.ConfigError, "generate: temperature must be a number of at least 0, got nan"):
        bp.generate(made, [1], temperature=math.nan)
    with raises(bp.ConfigError, "generate: top_k must be None or an integer of at least 1, got 0"):
        bp.generate(made, [1], top_k=0)
    with raises(bp.ConfigError, "generate: the model must take ids, so begin with an Embedding; it is Dense(2, 3)"):
        bp.generate(bp.Dense(2, 3), [1])
    flat = bp.Sequential(bp.Embedding(5, 3), bp.Flatten(), bp.Dense(6, 5)).initialize()
    with raises(bp.ShapeError, "the model must give scores (N, T, V) for ids (N, T), got (1, 5) for (1, 2)"):
        bp.generate(flat, [1, 2])
    made[3].weight.value = np.full((5, 8), np.nan)  # type: ignore[attr-defined]
    with raises(bp.NonFiniteError, "the model's scores are NaN or infinite"):
        bp.generate(made, [1])


# --- recipe and command ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for a few steps by the recipe, made small."""
    from bpnet import recipes

    path = tmp_path_factory.mktemp("text") / "small.safetensors"
    small = [
        "Embedding(96, 16)",
        "LearnedPositions(16, 16)",
        "TransformerBlock(16, 2, causal=True, activation='gelu_tanh')",
        "Unembedding(96, 16)",
    ]
    recipe = recipes.find("char-gpt", {"model.layers": small, "data.length": 16, "training.epochs": 0})
    run = recipe.prepare()
    losses = [float(run.trainer.step(*batch)) for batch in bp.data.batches(run.training[:2560], 16)]
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.5
    run.model.save(path, recipe=recipe.settings, recipe_name="char-gpt", data="topics", loss="SoftmaxCrossEntropy")
    return path


def test_the_recipe_can_be_trained() -> None:
    from bpnet import recipes

    assert recipes.check("char-gpt") == []
    wrong = recipes.source("char-gpt").replace("Unembedding(96, 128)", "Dense(128, 95)")
    with raises(bp.ConfigError, "the model's outputs must have shape (64, 96), since topics has 96 classes"):
        recipes.parse(wrong).prepare()
    wrong = recipes.source("char-gpt").replace("LearnedPositions(64, 128)", "LearnedPositions(60, 128)")
    with raises(bp.ConfigError, "LearnedPositions(60, 128) has vectors for 60 positions, got sequences of 64"):
        recipes.parse(wrong).prepare()


def test_the_file_of_a_trained_model_has_all_that_writing_needs(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = bp.load(trained)
    assert loaded.info["vocabulary"] == CHARACTERS
    expected = bp.generate(loaded, "The ", length=30, temperature=0.7, top_k=20, seed=5)
    arguments = ["generate", str(trained), "--prompt", "The ", "--length", "30", "--temperature", "0.7"]
    assert run(*arguments, "--top-k", "20", "--seed", "5", "--json") == 0
    text, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert text == expected
    said = json.loads(last)
    assert said["prompt"] + said["text"] == expected
    assert (said["length"], said["temperature"], said["top_k"], said["seed"]) == (30, 0.7, 20, 5)
    assert run("generate", str(trained), "--length", "10") == 0
    assert capsys.readouterr().out == bp.generate(loaded, "\n", length=10)[1:] + "\n"


def test_trained_text_models_are_evaluated_and_not_predicted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", str(trained)) == 0
    assert "perplexity" in capsys.readouterr().out
    assert run("predict", str(trained), "--sample", "0") == 2
    assert f"is a model of text: `bpnet generate {trained}` shows what it writes" in capsys.readouterr().err


def test_what_the_command_refuses(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", str(trained), "--length", "-3", "--temperature", "x", "--top-k", "0") == 2
    said = capsys.readouterr().err
    for line in (
        "--length must be an integer of at least 0, got '-3'",
        "--temperature must be a finite number of at least 0, got 'x'",
        "--top-k must be an integer of at least 1, got '0'",
    ):
        assert line in said
    assert run("generate", str(trained), "--prompt", "ß") == 2
    assert "the vocabulary of 96 characters lacks 'ß'" in capsys.readouterr().err
    bp.Sequential(bp.Dense(2, 3)).initialize().save(tmp_path / "other.safetensors")
    assert run("generate", str(tmp_path / "other.safetensors")) == 2
    assert "is no model of characters; `bpnet train char-gpt` makes one" in capsys.readouterr().err
