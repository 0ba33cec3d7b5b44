"""The command line: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import why_no_gpu
from typer.testing import CliRunner

import bpnet as bp
from bpnet import recipes
from bpnet.commands import app
from bpnet.commands.train import curve
from bpnet.data.rows import read_rows
from bpnet.files import read

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("BPNET_")}


def invoke(*arguments: str) -> Any:
    """Run the command in this process; `output` has both streams."""
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "bpnet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=CLEAN | environment, timeout=60)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BPNET_BACKEND", raising=False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The model that `bpnet train digits` saves, and its results."""
    out = str(tmp_path_factory.mktemp("trained") / "digits.safetensors")
    done = invoke("train", "digits", "--out", out, "--backend", "numpy", "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout.splitlines()[-1])


# --- train ---


def test_the_digits_recipe_reaches_97_percent_on_the_held_out_fifth(trained: tuple[str, dict[str, Any]]) -> None:
    _, results = trained
    assert results["test_accuracy"] >= 0.97
    assert (results["n_train"], results["n_test"]) == (1438, 359)


def test_the_results_say_what_was_run_and_where(trained: tuple[str, dict[str, Any]]) -> None:
    out, results = trained
    recipe = recipes.find("digits")
    model = bp.load(out)
    assert results["model"] == out
    assert results["n_parameters"] == model.n_parameters == 9610
    assert (results["data"], results["split_seed"], results["seed"]) == ("digits", 0, 0)
    assert (results["backend"], results["device"]) == ("numpy", "cpu")
    assert (results["epochs"], results["batch_size"]) == (recipe["training.epochs"], recipe["training.batch_size"])
    assert results["learning_rate"] == recipe["optimizer.learning_rate"] == 3e-3
    assert (results["recipe"], results["n_validation"], results["stopped"]) == ("digits", 0, "")
    assert results["seconds_per_epoch"] * recipe["training.epochs"] <= results["seconds"]
    assert results["seconds"] > 0
    assert results["interrupted"] is False
    assert results["versions"]["numpy"] == np.__version__
    assert model.info["data"] == "digits"
    assert (model.info["split_seed"], model.info["loss"]) == (0, "SoftmaxCrossEntropy")


def test_train_in_its_own_process_prints_a_summary_an_epoch_a_line_and_json_last(tmp_path: Path) -> None:
    done = run("train", "digits", "--epochs", "2", "--batch-size", "100", "--seed", "7", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("data      digits: 1438 samples to train on, 359 to test on")
    assert lines[1].startswith(f"backend   numpy {np.__version__} on cpu")
    assert "2 epochs of 15 steps" in lines[2]
    assert sum(line.startswith("epoch ") for line in lines) == 2
    results = json.loads(lines[-1])
    assert (results["seed"], results["epochs"], results["batch_size"]) == (7, 2, 100)
    assert (tmp_path / "digits.safetensors").is_file()


def test_the_same_seed_gives_the_same_model_and_another_one_another() -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert invoke("train", "digits", "--epochs", "1", "--seed", seed, "-o", name).exit_code == 0
    a, b, c = (read(name)[0]["0.weight"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_zero_epochs_save_the_model_as_it_was_initialized() -> None:
    assert invoke("train", "digits", "--epochs", "0", "--out", "m", "--seed", "5").exit_code == 0
    expected = recipes.find("digits", {"training.seed": 5}).prepare().model
    assert np.array_equal(read("m")[0]["0.weight"], bp.to_numpy(expected.parameters()["0.weight"].value))


def test_all_mistakes_are_reported_at_once_and_nothing_is_trained() -> None:
    done = invoke(
        "train", "digit", "--backend", "numpyy", "--seed", "-1", "--epochs", "-3", "--batch-size", "many",
        "--learning-rate", "nan", "--split-seed", "0.5", "--out", str(Path("nowhere") / "m"),
    )  # fmt: skip
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0] == "bpnet: 8 settings cannot be used:"
    assert [line.split()[0].rstrip(":") for line in lines[1:]] == [
        "--backend", "RECIPE", "--epochs", "--batch-size", "--learning-rate", "--seed", "--split-seed", "--out"
    ]  # fmt: skip
    assert "did you mean 'numpy'?" in lines[1]
    assert "did you mean 'digits'?" in lines[2]
    assert lines[3] == "  --epochs must be an integer of at least 0, got '-3'"
    assert lines[4] == "  --batch-size must be an integer of at least 1, got 'many'"
    assert lines[5] == "  --learning-rate must be a finite number above 0, got 'nan'"
    assert "there is no folder 'nowhere'" in lines[8]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "1.5"), ("--epochs", ""), ("--batch-size", "0"), ("--learning-rate", "0"),
        ("--learning-rate", "inf"), ("--learning-rate", "-1e-3"), ("--seed", "18446744073709551616"),
        ("--precision", "bf61"), ("--precision", "tf32"), ("--matmul-precision", "fp32"), ("--capture", "yes"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line_with_the_option_what_is_allowed_and_what_was_given(option: str, value: str) -> None:
    done = invoke("train", "digits", option, value)
    assert done.exit_code == 2
    assert done.output.startswith(f"bpnet: {option} must be ")
    assert done.output.endswith(f"got {value!r}\n")


def test_a_precision_is_trained_in_said_and_kept_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--epochs", "1", "--backend", "numpy", "--capture", "off")
    done = invoke("train", "digits", *options, "--precision", "bf16", "--out", "rounded", "--json")
    assert done.exit_code == 0, done.output
    assert ", seed 0, precision bf16, emulated\n" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["precision"] == "bf16"
    recipe = bp.load("rounded").info["recipe"]["training"]
    assert (recipe["precision"], recipe["capture"], recipe["matmul_precision"]) == ("bf16", "off", "float32")
    assert invoke("train", "digits", *options, "--out", "plain").exit_code == 0
    weights = [bp.load(name).layers[0].weight.value for name in ("rounded", "plain")]  # type: ignore[attr-defined]
    assert 0 < np.max(np.abs(weights[0] - weights[1])) < 0.1


def test_what_a_backend_cannot_do_is_named_with_all_other_mistakes() -> None:
    done = invoke(
        "train", "digits", "--backend", "numpy", "--capture", "on", "--matmul-precision", "tf32", "--epochs", "x"
    )
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0] == "bpnet: 3 settings cannot be used:"
    assert lines[1] == "  --epochs must be an integer of at least 0, got 'x'"
    assert lines[2].startswith("  --capture: capture='on' needs a backend that can record a step as one graph")
    assert lines[3].startswith("  --matmul-precision: matmul_precision='tf32' is for backends whose hardware has it")


@pytest.mark.parametrize(
    ("out", "reason"),
    [(".", "it is a folder"), ("nowhere/m", "there is no folder 'nowhere'"), (os.devnull, "no regular file")],
)
def test_an_output_that_cannot_be_written_is_refused_before_training(out: str, reason: str) -> None:
    done = invoke("train", "digits", "--out", out)
    assert done.exit_code == 2
    assert f"--out: cannot write {out!r}" in done.output
    assert reason in done.output
    assert "epoch" not in done.output


def test_a_loss_that_is_not_finite_exits_with_1_and_leaves_the_file_there_was() -> None:
    Path("m").write_bytes(b"an older model")
    done = invoke("train", "digits", "--learning-rate", "1e30", "--epochs", "2", "--out", "m")
    assert done.exit_code == 1
    last = done.output.splitlines()[-1]
    assert last.startswith("bpnet: the loss was NaN or infinite in step ")
    assert "No model was saved; --learning-rate" in last
    assert Path("m").read_bytes() == b"an older model"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_saves_the_whole_model_says_so_and_exits_with_1(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bpnet.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", "digits", "--epochs", "1000000", "--out", "m.safetensors", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=CLEAN
    )
    try:
        assert process.stdout is not None
        head = []
        for line in process.stdout:
            head.append(line)
            if line.startswith("epoch ") and line.split()[1].startswith("3/"):
                break
        assert head[-1].startswith("epoch "), head
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "bpnet: interrupted after " in stderr
    assert "is whole, in m.safetensors" in stderr
    assert "Traceback" not in stderr
    results = json.loads(stdout.splitlines()[-1])
    assert results["interrupted"] is True
    assert 3 <= results["epochs"] < 1000000
    model = bp.load(tmp_path / "m.safetensors")
    assert model.info["complete"] is False
    test = bp.data.load("digits")[1]
    accuracy = float(np.mean(np.argmax(bp.predict(model, test.x), axis=1) == test.y))
    assert accuracy == pytest.approx(results["test_accuracy"])


def test_the_curve_of_a_terminal_goes_down_where_the_loss_does() -> None:
    line = curve([math.exp(-i) for i in range(8)])
    assert line == "█▇▆▅▄▃▂▁  1.0000 ... 0.0009"
    assert len(curve([1.0] * 500).split()[0]) == 60


# --- recipes ---

TINY = """
[data]
name = "spiral"
samples = 12
validation_fraction = 0.25

[model]
layers = ["Dense(2, 4)", "Tanh()", "Dense(4, 3)"]

[loss]
name = "SoftmaxCrossEntropy"

[training]
epochs = 2
batch_size = 9
"""


@pytest.fixture
def tiny() -> str:
    """A recipe of one's own, in the folder of the test."""
    Path("mine.toml").write_text(TINY)
    return "mine.toml"


def test_a_recipe_of_ones_own_is_trained_and_kept_in_the_model(tiny: str) -> None:
    done = invoke("train", tiny, "--epochs", "3", "--seed", "7", "--json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "data      spiral: 27 samples to train on, 9 to validate with, 36 to test on, shape (2,)"
    assert "3 epochs of 3 steps, batch size 9, Adam, learning rate 0.001, seed 7" in lines[2]
    assert sum(line.startswith("epoch ") and "val_accuracy" in line for line in lines) == 3
    assert lines[-2].startswith("saved mine.safetensors (")
    results = json.loads(lines[-1])
    assert (results["recipe"], results["data"], results["n_validation"]) == ("mine", "spiral", 9)
    assert {"test_accuracy", "val_accuracy", "train_loss", "seconds_per_epoch"} <= set(results)
    model = bp.load("mine.safetensors")
    assert model.info["recipe"]["training"]["epochs"] == 3
    assert model.info["recipe"]["optimizer"] == {"name": "Adam"} | {
        k: v for k, v in bp.Adam().config.items() if v not in (None, [])
    }
    shown = invoke("recipes", "--of", "mine.safetensors").stdout
    Path("again.toml").write_text(shown)
    assert recipes.read("again.toml").settings == model.info["recipe"]
    assert invoke("train", "again.toml", "--out", "again").exit_code == 0
    assert np.array_equal(read("again")[0]["0.weight"], read("mine.safetensors")[0]["0.weight"])


def test_a_saved_models_recipe_says_what_evaluate_and_predict_need(tiny: str) -> None:
    results = json.loads(invoke("train", tiny, "--json").stdout.splitlines()[-1])
    for part, n in (("test", 36), ("train", 27), ("validation", 9)):
        done = invoke("evaluate", "mine.safetensors", "--part", part, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["n_samples"] == n
        key = {"test": "test", "train": "train", "validation": "val"}[part]
        if part != "train":  # the training's own figure is of the parameters while they changed
            assert found[f"{part}_loss"] == pytest.approx(results[f"{key}_loss"], rel=1e-5)
    done = invoke("predict", "mine.safetensors", "--sample", "35")
    assert done.stdout.startswith("sample 35  class ")
    done = invoke("predict", "mine.safetensors", "--sample", "36")
    assert "--sample must be in 0 ... 35, the test part of spiral; got 36" in done.output


def test_regression_prints_its_errors_and_values() -> None:
    done = invoke("train", "diabetes", "--epochs", "2", "--json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("test rmse ") and ", test r2 " in line and "test loss" in line for line in lines)
    results = json.loads(lines[-1])
    done = invoke("evaluate", "diabetes.safetensors", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["test_rmse"] == pytest.approx(results["test_rmse"], rel=1e-6)
    assert "rmse " in done.stdout
    done = invoke("predict", "diabetes.safetensors", "--sample", "0", "--json")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout.splitlines()[-1])["predictions"][0]
    target = bp.data.load("diabetes")[1].y[0]
    assert row["target"] == target.tolist()
    assert done.stdout.startswith(f"sample 0  output {row['output'][0]:.6g}  target {target[0]:.6g}")


def test_a_binary_classifier_of_a_csv_file_gives_probabilities() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    rows = [f"{a},{b},{int(a > 0)}" for a, b in x]
    Path("points.csv").write_text("\n".join(["a,b,right", *rows]))
    recipe = TINY.replace('name = "spiral"\nsamples = 12', 'csv = "points.csv"\ntarget = "right"')
    recipe = recipe.replace("SoftmaxCross", "BinaryCross").replace("Dense(4, 3)", "Dense(4, 1)")
    Path("points.toml").write_text(recipe)
    done = invoke("train", "points.toml", "--epochs", "60", "--learning-rate", "0.1")
    assert done.exit_code == 0, done.output
    done = invoke("predict", "points.safetensors", "--sample", "0", "--sample", "1", "--json")
    predictions = json.loads(done.stdout.splitlines()[-1])["predictions"]
    assert [row["class"] for row in predictions] == [row["label"] for row in predictions]
    assert all(0.5 <= row["probability"] <= 1 for row in predictions)
    Path("new.csv").write_text("a,b\n3,0\n-3,0\n")
    done = invoke("predict", "points.safetensors", "--input", "new.csv", "--json")
    assert [row["class"] for row in json.loads(done.stdout.splitlines()[-1])["predictions"]] == [1, 0]
    Path("points.csv").unlink()
    done = invoke("evaluate", "points.safetensors")
    assert done.exit_code == 2
    assert "the recipe in 'points.safetensors': data.csv: cannot read" in done.output


def test_mistakes_of_options_and_of_the_recipe_are_reported_together(tiny: str) -> None:
    Path(tiny).write_text(TINY.replace("Dense(4, 3)", "Dense(4, 2)").replace("[loss]", "[loss]\nsmoothing = 1"))
    done = invoke("train", tiny, "--epochs", "-1", "--batch-size", "x", "--log", "log.txt", "--plot", "nowhere/p.png")
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0] == "bpnet: mine.toml: 6 settings cannot be used:"
    assert [line.split()[0].rstrip(":") for line in lines[1:]] == [
        "--epochs", "--batch-size", "--plot", "--log", "loss.smoothing", "model.layers[2]"
    ]  # fmt: skip
    assert lines[4] == "  --log: its name must end in one of .csv, .jsonl, got 'log.txt'"
    assert not Path("mine.safetensors").exists()


def test_a_mistake_that_an_option_makes_in_the_recipe_has_the_options_name(tiny: str) -> None:
    done = invoke("train", tiny, "--patience", "3", "--validation-fraction", "0")
    assert done.exit_code == 2
    assert "--patience: early stopping watches val_loss, and there are no validation data" in done.output
    done = invoke("train", tiny, "--validation-fraction", "0.001")
    assert "--validation-fraction: fraction 0.001 of 36 samples leaves a part empty" in done.output


def test_fewer_epochs_than_the_recipes_warm_up_are_the_options_mistake() -> None:
    done = invoke("train", "cnn-digits", "--epochs", "1")
    message = "bpnet: --epochs must be above 1, warmup_epochs of the recipe's schedule, got 1\n"
    assert (done.exit_code, done.output) == (2, message)


def test_a_saved_model_is_no_recipe(trained: tuple[str, dict[str, Any]]) -> None:
    done = invoke("train", trained[0])
    assert done.exit_code == 2
    assert f"RECIPE: {trained[0]!r} is a saved model, not a recipe; `bpnet recipes --of" in done.output


def test_toml_that_is_none_is_refused_with_line_and_column() -> None:
    Path("bad.toml").write_text("[data]\nname = \n")
    done = invoke("train", "bad.toml")
    assert done.exit_code == 2
    assert "RECIPE: bad.toml is no TOML: Invalid value (at line 2, column 8)" in done.output
    done = invoke("train", "none.toml")
    assert "RECIPE: cannot read the recipe 'none.toml': No such file or directory" in done.output


def test_check_shows_the_model_and_trains_nothing(tiny: str) -> None:
    done = invoke("train", tiny, "--check")
    assert done.exit_code == 0
    assert "Dense(2, 4)" in done.stdout
    assert done.stdout.endswith("mine.toml can be trained; nothing was trained, since --check was given\n")
    assert sorted(path.name for path in Path().iterdir()) == ["mine.toml"]
    done = invoke("train", tiny, "--check", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["checked"], found["recipe"], found["n_parameters"]) == (True, "mine", 12 + 15)
    assert "test_loss" not in found


def test_a_file_that_is_replaced_is_named(tiny: str) -> None:
    assert "saved m (" in invoke("train", tiny, "--out", "m").stdout
    assert "replaced m (" in invoke("train", tiny, "--out", "m").stdout


def test_the_course_is_drawn_and_logged(tiny: str) -> None:
    pytest.importorskip("matplotlib")
    done = invoke("train", tiny, "--plot", "course.png", "--log", "log.jsonl", "--tensorboard", "runs")
    assert done.exit_code == 0, done.output
    assert "drew course.png" in done.stdout
    assert Path("course.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(Path("runs").rglob("events.out.tfevents*"))
    assert invoke("train", tiny, "--log", "log.csv").exit_code == 0
    assert len(Path("log.csv").read_text().splitlines()) == 3


def test_without_matplotlib_the_extra_is_named_before_training(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet.commands import settings

    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    done = invoke("train", tiny, "--plot", "course.png")
    assert done.exit_code == 2
    assert '--plot: matplotlib draws it, which is missing: pip install "bpnet-xp[plot]"' in done.output
    assert "epoch" not in done.output


def test_outputs_that_cannot_be_written_are_refused_before_training(tiny: str) -> None:
    done = invoke(
        "train", tiny, "--log", "nowhere/log.csv", "--tensorboard", "mine.toml", "--out", "a", "--plot", "p.txt"
    )
    assert done.exit_code == 2
    assert "--log: cannot write 'nowhere/log.csv': there is no folder 'nowhere'" in done.output
    assert "--tensorboard: cannot make the folder 'mine.toml'" in done.output
    assert "--plot: its name must end in one of .png, .svg, .pdf, got 'p.txt'" in done.output
    done = invoke("train", tiny, "--log", "x.csv", "--out", "./x.csv")
    assert done.exit_code == 2
    assert "--out and --log name the same file" in done.output
    assert sorted(path.name for path in Path().iterdir()) == ["mine.toml"]


@pytest.mark.parametrize(
    ("option", "file", "what"), [("--out", "own.toml", "the recipe"), ("--log", "own.csv", "its data")]
)
def test_the_recipe_and_its_data_are_never_written_over(option: str, file: str, what: str) -> None:
    Path("own.csv").write_text("size,kind\n" + "1,a\n2,b\n" * 10)
    Path("own.toml").write_text(
        '[data]\ncsv = "own.csv"\ntarget = "kind"\n[model]\nlayers = ["Dense(1, 2)"]\n'
        '[loss]\nname = "SoftmaxCrossEntropy"\n[training]\nepochs = 1\n'
    )
    before = {path.name: path.read_text() for path in Path().iterdir()}
    Path("other.csv").symlink_to("own.csv")
    names = [file] if file == "own.toml" else [file, "other.csv"]
    for name in names:
        done = invoke("train", "own.toml", option, name)
        assert done.exit_code == 2
        assert (
            f"{option} names the file of {what}, {str(Path(file).resolve())!r}, which it would replace" in done.output
        )
    Path("other.csv").unlink()
    assert {path.name: path.read_text() for path in Path().iterdir()} == before
    assert invoke("train", "own.toml").exit_code == 0


@pytest.mark.parametrize("option", ["--out", "--plot", "--log", "--tensorboard"])
def test_an_output_without_a_name_is_refused_before_training(tiny: str, option: str) -> None:
    done = invoke("train", tiny, option, "")
    assert done.exit_code == 2
    assert f"bpnet: {option}: " in done.output
    assert "epoch" not in done.output
    assert sorted(path.name for path in Path().iterdir()) == ["mine.toml"]


def test_early_stopping_says_why_and_keeps_the_best(tiny: str) -> None:
    done = invoke("train", tiny, "--epochs", "500", "--learning-rate", "1", "--patience", "2", "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["epochs"] < 500
    assert results["stopped"].startswith("val_loss has not become better for 2 epochs; the best was")
    assert f"stopped after {results['epochs']} epochs: val_loss" in done.stdout
    best = float(results["stopped"].split("the best was ")[1].split()[0])
    found = invoke("evaluate", "mine.safetensors", "--part", "validation", "--json")
    assert json.loads(found.stdout.splitlines()[-1])["validation_loss"] == pytest.approx(best, rel=1e-4)


def test_averaged_parameters_are_what_is_tested_and_saved(tiny: str) -> None:
    Path(tiny).write_text(TINY + '\n[optimizer]\nname = "SGD"\nlearning_rate = 0.5\naverage = 0.9\n')
    results = json.loads(invoke("train", tiny, "--json").stdout.splitlines()[-1])
    found = json.loads(invoke("evaluate", "mine.safetensors", "--json").stdout.splitlines()[-1])
    assert found["test_loss"] == pytest.approx(results["test_loss"], rel=1e-5)


def test_the_recipes_are_listed_and_printed() -> None:
    done = invoke("recipes")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipes.available()
    shown = invoke("recipes", "digits").stdout
    assert shown == recipes.source("digits")
    Path("mine.toml").write_text(shown)
    assert invoke("train", "mine.toml", "--epochs", "0").exit_code == 0
    done = invoke("recipes", "digts")
    assert done.exit_code == 2
    assert "did you mean 'digits'?" in done.output
    done = invoke("recipes", "digits", "--of", "m")
    assert done.exit_code == 2
    bp.Sequential(bp.Dense(2, 2)).initialize().save("plain")
    done = invoke("recipes", "--of", "plain")
    assert done.exit_code == 2
    assert "'plain' has no recipe" in done.output


def test_a_confusion_matrix_is_printed_row_by_row(tiny: str) -> None:
    Path(tiny).write_text(TINY + 'metrics = ["Accuracy()", "ConfusionMatrix()"]\n')
    done = invoke("train", tiny, "--json")
    assert done.exit_code == 0, done.output
    matrix = json.loads(done.stdout.splitlines()[-1])["test_confusion_matrix"]
    assert np.sum(matrix) == 36
    rows = invoke("evaluate", "mine.safetensors").stdout.splitlines()
    assert rows[-4] == "confusion_matrix, a row for each label:"
    assert [[int(each) for each in row.split()] for row in rows[-3:]] == matrix


def test_a_recipe_in_a_file_that_is_none_is_a_mistake_of_the_file() -> None:
    bp.Sequential(bp.Dense(2, 2)).initialize().save("odd", data="digits", recipe={"data": {"name": "digits"}})
    done = invoke("evaluate", "odd")
    assert done.exit_code == 2
    assert "the recipe in 'odd': 2 settings cannot be used:" in done.output


def test_the_recipes_backend_is_used_unless_an_option_says_another(tiny: str) -> None:
    Path(tiny).write_text(TINY + 'backend = "strict:device1"\n')
    found = json.loads(invoke("train", tiny, "--json").stdout.splitlines()[-1])
    assert found["backend"] == "strict:device1"
    found = json.loads(invoke("train", tiny, "--backend", "numpy", "--json").stdout.splitlines()[-1])
    assert found["backend"] == "numpy"
    Path(tiny).write_text(TINY + 'backend = "nowhere"\n')
    done = invoke("train", tiny)
    assert done.exit_code == 2
    assert "training.backend: unknown backend 'nowhere'" in done.output


# --- the backend ---


def test_a_backend_that_cannot_be_used_exits_with_2_what_was_tried_why_and_the_remedy(tmp_path: Path) -> None:
    if not why_no_gpu():
        pytest.skip("there is a usable GPU here, so CuPy cannot fail")
    done = run("train", "digits", cwd=tmp_path, BPNET_BACKEND="cupy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bpnet: the backend 'cupy' (from BPNET_BACKEND) cannot be used: CuPy ")
    assert "BPNET_BACKEND=numpy" in done.stderr or "pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPNET_BACKEND", "nonsense")
    assert invoke("train", "digits", "--epochs", "0").exit_code == 2
    assert invoke("train", "digits", "--epochs", "0", "--backend", "numpy").exit_code == 0


def test_a_registered_backend_trains_the_same_network() -> None:
    done = invoke("train", "digits", "--epochs", "1", "--backend", "strict:device1", "--json", "--out", "strict")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["backend"] == "strict:device1"
    assert "strict" in results["versions"]
    reference = invoke("train", "digits", "--epochs", "1", "--json", "--out", "numpy")
    expected = json.loads(reference.stdout.splitlines()[-1])
    assert results["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)


# --- evaluate ---


def test_evaluate_gives_what_train_measured(trained: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    out, results = trained
    done = run("evaluate", out, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["test_accuracy"] == results["test_accuracy"]
    assert found["test_loss"] == pytest.approx(results["test_loss"], rel=1e-6)
    assert (found["n_samples"], found["split"]) == (359, results["split"])


def test_evaluate_takes_the_training_part_and_warns_of_another_split(trained: tuple[str, dict[str, Any]]) -> None:
    out, _ = trained
    found = json.loads(invoke("evaluate", out, "--part", "train", "--json").stdout.splitlines()[-1])
    assert (found["n_samples"], found["train_accuracy"] > 0.99) == (1438, True)
    other = invoke("evaluate", out, "--split-seed", "1")
    assert other.exit_code == 0
    assert "it has seen most test samples of the split with seed 1" in other.output


def test_a_model_that_does_not_name_its_data_is_evaluated_on_what_is_named() -> None:
    model = bp.Sequential(bp.Dense(64, 10), bp.Softmax()).initialize()
    model.save("plain")
    refused = invoke("evaluate", "plain")
    assert refused.exit_code == 2
    assert "takes --data digits" in refused.output
    done = invoke("evaluate", "plain", "--data", "digits", "--json")
    test = bp.data.load("digits")[1]
    loss = bp.CategoricalCrossEntropy()(model(test.x), test.y)
    assert json.loads(done.stdout.splitlines()[-1])["test_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_evaluate_refuses_what_is_no_classifier_of_that_data() -> None:
    bp.Sequential(bp.Dense(64, 1)).initialize().save("regression", data="digits", loss="MeanSquaredError")
    done = invoke("evaluate", "regression")
    assert done.exit_code == 2
    assert "only classifiers" in done.output
    bp.Sequential(bp.Dense(20, 10)).initialize().save("narrow", data="digits")
    done = invoke("evaluate", "narrow")
    assert done.exit_code == 2
    assert "narrow cannot be evaluated on digits: Dense(20, 10) needs x of shape (N, 20)" in done.output


def test_wrong_settings_of_evaluate_are_reported_together(trained: tuple[str, dict[str, Any]]) -> None:
    done = invoke("evaluate", trained[0], "--data", "digts", "--part", "all", "--batch-size", "0")
    assert done.exit_code == 2
    assert "3 settings" in done.output
    assert "did you mean 'digits'?" in done.output
    assert "--part must be test, train or validation, got 'all'" in done.output


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_missing_model_is_wrong_use_and_a_damaged_one_a_failure(
    command: str, trained: tuple[str, dict[str, Any]]
) -> None:
    more = ["--sample", "0"] if command == "predict" else []
    missing = invoke(command, "nowhere.safetensors", *more)
    assert missing.exit_code == 2
    assert "MODEL: there is no file 'nowhere.safetensors'" in missing.output
    Path("cut").write_bytes(Path(trained[0]).read_bytes()[:-1000])
    Path("foreign").write_text("weights: none\n" * 100)
    for damaged in ("cut", "foreign"):
        done = invoke(command, damaged, *more)
        assert done.exit_code == 1, done.output
        assert f"bpnet: '{damaged}' is no whole safetensors file" in done.output
        assert "Give a model that `bpnet train` or model.save wrote" in done.output


@pytest.mark.parametrize(
    "command", [["evaluate"], ["predict", "--sample", "0"], ["generate"], ["export"], ["recipes", "--of"]], ids="-".join
)
def test_a_model_that_is_named_without_its_ending_or_by_its_folder_is_found(command: list[str]) -> None:
    label = "--of" if "--of" in command else "MODEL"
    Path("digits.safetensors").write_bytes(b"")
    Path("run").mkdir()
    Path("run", "model.safetensors").write_bytes(b"")
    Path("empty").mkdir()
    for name, message in {
        "digits": "there is no file 'digits'; did you mean 'digits.safetensors'?",
        "run": f"there is no file 'run'; did you mean {os.path.join('run', 'model.safetensors')!r}?",
        "empty": "'empty' is a folder, and no model is in it; `bpnet train digits --out digits.safetensors` makes one",
        "none": "there is no file 'none'; `bpnet train digits --out none` would make one",
    }.items():
        done = invoke(*command, name)
        assert (done.exit_code, done.output) == (2, f"bpnet: {label}: {message}\n")


# --- predict ---


def test_predict_names_class_probability_and_label_of_test_samples(trained: tuple[str, dict[str, Any]]) -> None:
    done = invoke("predict", trained[0], "--sample", "0", "--sample", "358", "--json")
    assert done.exit_code == 0, done.output
    test = bp.data.load("digits")[1]
    logits = bp.predict(bp.load(trained[0]), test.x[[0, 358]]).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = json.loads(done.stdout.splitlines()[-1])["predictions"]
    assert [row["sample"] for row in rows] == [0, 358]
    assert [row["class"] for row in rows] == p.argmax(axis=1).tolist()
    assert [row["probability"] for row in rows] == pytest.approx(p.max(axis=1))
    assert [row["label"] for row in rows] == test.y[[0, 358]].tolist()
    line = done.stdout.splitlines()[0]
    assert line.startswith(f"sample 0  class {rows[0]['class']}  probability {rows[0]['probability']:.4f}  label ")


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_predict_reads_rows_of_a_file(kind: str, trained: tuple[str, dict[str, Any]]) -> None:
    test = bp.data.load("digits")[1]
    x, y = test.x[:4], test.y[:4]
    if kind == "npy":
        np.save("in.npy", x)
    elif kind == "npz":
        np.savez("in.npz", x=x, y=y)
    else:
        np.savetxt("in.csv", x, delimiter=",", header=",".join(f"pixel{i}" for i in range(64)), comments="")
    done = invoke("predict", trained[0], "--input", f"in.{kind}", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout.splitlines()[-1])["predictions"]
    assert [row["class"] for row in rows] == bp.predict(bp.load(trained[0]), x).argmax(axis=1).tolist()
    assert [row.get("label") for row in rows] == (y.tolist() if kind == "npz" else [None] * 4)
    assert ("of 4 right" in done.stdout) == (kind == "npz")


def test_one_sample_may_come_without_the_axis_of_samples(trained: tuple[str, dict[str, Any]]) -> None:
    np.save("one.npy", bp.data.load("digits")[1].x[3])
    one = invoke("predict", trained[0], "--input", "one.npy").stdout
    three = invoke("predict", trained[0], "--sample", "3").stdout
    assert one.split()[2:6] == three.split()[2:6] != []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("no.csv", None, "--input: there is no file 'no.csv'"),
        ("x.txt", b"1,2", "its name must end in one of .npy, .npz, .csv"),
        ("x.npy", b"nonsense", "it is no file that numpy.save or numpy.savez wrote"),
        ("x.npz", b"PK nonsense", "cannot read 'x.npz' as npz"),
        ("x.csv", b"", "holds no samples"),
        ("x.csv", b"1,2\n3,\n", "line 2, column 2 holds '', which is no number"),
        ("x.csv", b"1,2\n3,4,5\n", "line 2 has 3 columns, the first sample 2"),
        ("x.csv", b"1,nan\n", "line 1, column 2 holds 'nan', which is no number but a missing value"),
        ("x.csv", b"\xff\xfe1", "cannot read 'x.csv' as csv"),
        ("x.csv", b"1,2\n", "this model cannot take samples of shape (2,): Dense(64, 128) needs x of shape (N, 64)"),
    ],
)
def test_an_input_that_cannot_be_used_exits_with_2_and_says_where(
    name: str, content: bytes | None, reason: str, trained: tuple[str, dict[str, Any]]
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    done = invoke("predict", trained[0], "--input", name)
    assert done.exit_code == 2
    assert reason in done.output


def test_objects_labels_out_of_range_and_images_are_refused(trained: tuple[str, dict[str, Any]]) -> None:
    x = bp.data.load("digits")[1].x[:2]
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("labels.npz", x=x, y=np.array([3, 10]))
    np.savez("lengths.npz", x=x, y=np.array([3]))
    np.savez("names.npz", x=x, y=np.array(["three", "four"]))
    np.save("images.npy", x.reshape(2, 8, 8))
    for name, reason in (
        ("objects.npy", "cannot read 'objects.npy'"),
        ("labels.npz", "1 labels outside 0 ... 9"),
        ("names.npz", "got <U5; np.unique(y, return_inverse=True)[1] numbers them"),
        ("lengths.npz", "holds 2 samples and y 1"),
        ("images.npy", "x.reshape(len(x), -1)"),
    ):
        done = invoke("predict", trained[0], "--input", name)
        assert done.exit_code == 2
        assert reason in done.output


def test_the_first_array_of_several_is_not_guessed() -> None:
    np.savez("two.npz", a=np.ones((1, 2)), b=np.ones((1, 2)))
    with pytest.raises(bp.DataError, match="it holds a, b"):
        read_rows("two.npz")
    np.savez("one.npz", a=np.ones((1, 2)))
    assert read_rows("one.npz")[0].shape == (1, 2)


def test_samples_on_another_scale_than_the_training_data_are_noted(trained: tuple[str, dict[str, Any]]) -> None:
    np.save("raw.npy", bp.data.load("digits")[1].x[:2] * 255)
    done = invoke("predict", trained[0], "--input", "raw.npy")
    assert done.exit_code == 0
    assert "trained on values in 0 ... 1, these samples have 0 ... 255; scale them alike" in done.output


def test_predict_needs_exactly_one_source_and_samples_that_exist(trained: tuple[str, dict[str, Any]]) -> None:
    np.save("x.npy", np.zeros((1, 64)))
    for arguments in ([], ["--input", "x.npy", "--sample", "0"]):
        done = invoke("predict", trained[0], *arguments)
        assert done.exit_code == 2
        assert "give either --input FILE" in done.output
    done = invoke("predict", trained[0], "--sample", "359")
    assert done.exit_code == 2
    assert "--sample must be in 0 ... 358" in done.output
    done = invoke("predict", trained[0], "--sample", "-1")
    assert done.exit_code == 2
    assert "--sample must be an integer of at least 0, got '-1'" in done.output


def test_a_model_that_is_no_classifier_gives_its_outputs() -> None:
    model = bp.Sequential(bp.Dense(3, 2)).initialize()
    model.save("regression", loss="MeanSquaredError")
    np.save("x.npy", np.ones((2, 3), dtype=np.float32))
    done = invoke("predict", "regression", "--input", "x.npy", "--json")
    rows = json.loads(done.stdout.splitlines()[-1])["predictions"]
    expected = model(np.ones((2, 3), dtype=np.float32))
    assert np.allclose([row["output"] for row in rows], expected)
    assert "class" not in rows[0]


def test_outputs_that_are_not_finite_are_a_failure() -> None:
    model = bp.Sequential(bp.Dense(3, 2)).initialize()
    model.parameters()["0.bias"].value = np.array([np.nan, 0], dtype=np.float32)
    model.save("broken", loss="SoftmaxCrossEntropy")
    np.save("x.npy", np.ones((2, 3), dtype=np.float32))
    done = invoke("predict", "broken", "--input", "x.npy")
    assert done.exit_code == 1
    assert "outputs are NaN or infinite" in done.output


# --- the command itself ---


# --- explain ---


def test_explain_tells_the_walk_of_a_recipe_of_a_saved_model_and_of_a_file(tiny: str) -> None:
    done = invoke("explain", "digits", "--sample", "3", "--neuron", "1")
    assert done.exit_code == 0, done.output
    assert "Sample 0, backward" in done.output
    assert "SoftmaxCrossEntropy" in done.output
    assert done.output.endswith("Of digits, test of stratified-fifth, seed 0: sample 0 is 3.\n")
    assert invoke("train", tiny, "--out", "tiny.safetensors").exit_code == 0
    for model in (tiny, "tiny.safetensors"):
        done = invoke("explain", model, "--json", "--sample", "0", "--sample", "2")
        assert done.exit_code == 0, done.output
        results = json.loads(done.stdout.splitlines()[-1])
        assert (results["rows"], results["disagreements"]) == ([0, 2], [])
        assert {scene["sample"] for scene in results["scenes"]} == {0, 1}


def test_explain_writes_a_page() -> None:
    done = invoke("explain", "digits", "--html", "digits.html")
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "digits.html: a page to step through")
    assert Path("digits.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.safetensors",), "there is no file 'nowhere.safetensors'; `bpnet train` writes one"),
        (("digit",), "no recipe is called 'digit'"),
        (("digits", "--sample", "100000"), "--sample must be in 0 ... 358, the test part of digits; got 100000"),
        (("digits", "--sample", "x"), "--sample must be an integer of at least 0, got 'x'"),
        (("digits", "--neuron", "-1"), "--neuron must be an integer of at least 0, got '-1'"),
        (("digits", "--html", "no/where.html"), "--html: cannot write"),
    ],
)
def test_explain_refuses_with_2_what_it_cannot_show(arguments: tuple[str, ...], message: str) -> None:
    done = invoke("explain", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_version_and_help_exit_with_0() -> None:
    version = invoke("--version")
    assert version.exit_code == 0
    assert version.stdout.startswith(f"bpnet {bp.__version__} (Python ")
    for command in ([], ["train"], ["evaluate"], ["predict"], ["recipes"], ["doctor"]):
        assert invoke(*command, "--help").exit_code == 0
        assert invoke(*command, "-h").exit_code == 0


def test_no_arguments_print_the_help() -> None:
    output = invoke().output
    assert all(command in output for command in ("train", "evaluate", "predict", "recipes", "doctor"))


def test_the_help_of_a_narrow_terminal_names_every_option_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = invoke("train", "--help").output.split()
    assert {"--validation-fraction", "--checkpoint-every", "--matmul-precision", "--check-gradients"} <= set(words)
    assert words[words.index("--check") + 1] == "Check"  # a flag takes no value


def test_the_list_of_commands_cuts_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ((), ("data",)):
        output = invoke(*arguments, "--help").output
        assert "..." not in output.partition("Commands:")[2]


def test_every_command_ends_with_json_where_it_is_asked_to() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    plain = {name: command for name, command in commands.items() if name != "data"} | commands["data"].commands
    assert len(plain) == 12
    for name, command in plain.items():
        assert any("--json" in option.opts for option in command.params), name


def test_the_list_of_recipes_a_recipe_and_what_there_is_to_get_as_json(tiny: str) -> None:
    rows = json.loads(invoke("recipes", "--json").stdout.splitlines()[-1])["recipes"]
    assert [row["name"] for row in rows] == recipes.available()
    assert all(row["description"] for row in rows)
    one = json.loads(invoke("recipes", "digits", "--json").stdout.splitlines()[-1])
    assert one == {"recipe": "digits", "settings": recipes.find("digits").settings}
    invoke("train", tiny, "--epochs", "1")
    own = json.loads(invoke("recipes", "--of", "mine.safetensors", "--json").stdout.splitlines()[-1])
    assert (own["model"], own["recipe"], own["settings"]["training"]["epochs"]) == ("mine.safetensors", "mine", 1)
    got = json.loads(invoke("data", "get", "digits", "--json").stdout.splitlines()[-1])
    assert got == {"name": "digits", "where": "bpnet", "fetched": False}


@pytest.mark.parametrize("arguments", [["trian", "digits"], ["train"], ["train", "digits", "--epoch-count", "3"]])
def test_wrong_use_exits_with_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("missing", ["typer", "pydantic"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str, tmp_path: Path) -> None:
    stub = tmp_path / "stubs"
    stub.mkdir()
    (stub / f"{missing}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')")
    path = os.pathsep.join([str(stub), *filter(None, [CLEAN.get("PYTHONPATH", "")])])
    done = run("train", "digits", cwd=tmp_path, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"No module named '{missing}'" in done.stderr
    assert 'pip install "bpnet-xp[cli]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_while_the_command_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *filter(None, [CLEAN.get("PYTHONPATH", "")])])
    done = run("doctor", cwd=tmp_path, PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "bpnet: interrupted\n")


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    from importlib.metadata import entry_points

    found = [entry.value for entry in entry_points(group="console_scripts") if entry.name == "bpnet"]
    if not found:
        pytest.skip("bpnet is not installed, only on the path")
    assert found == ["bpnet.command_line:main"]


def test_the_genomics_packages_folder_does_not_hide_our_command(tmp_path: Path) -> None:
    """That package of the same import name has a folder bpnet/cli; with a module of that name ours would be lost."""
    site = tmp_path / "site"
    shutil.copytree(Path(bp.__file__).parent, site / "bpnet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli", "generators", "model", "train", "utils"):
        (site / "bpnet" / name).mkdir()
        (site / "bpnet" / name / "__init__.py").write_text("raise ImportError('not ours')")
    done = subprocess.run(
        [sys.executable, "-m", "bpnet", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=site,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bp.__version__ in done.stdout


# --- data with an official split ---


@pytest.fixture
def clothes(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of Fashion-MNIST's shape that knows what it was trained on, and small files in the place of the set."""
    from bpnet.data import mnist

    rng = np.random.default_rng(0)
    parts = [
        bp.Dataset(rng.uniform(size=(n, 784)).astype(np.float32), rng.integers(0, 10, n), split=f"{part} of official")
        for n, part in ((30, "train"), (20, "test"))
    ]
    monkeypatch.setattr(mnist, "load_images", lambda *_, **__: tuple(parts))
    model = bp.Sequential(bp.Dense(784, 10)).initialize()
    model.save("clothes.safetensors", data="fashion-mnist", loss="SoftmaxCrossEntropy", split_seed=0)
    return "clothes.safetensors"


def test_an_official_split_knows_no_seed_and_says_so(clothes: str) -> None:
    plain = invoke("evaluate", clothes, "--json")
    assert plain.exit_code == 0, plain.output
    assert "fashion-mnist, test of official: 20 samples" in plain.output
    assert json.loads(plain.stdout.splitlines()[-1])["split_seed"] is None
    seeded = invoke("evaluate", clothes, "--split-seed", "3")
    assert "note: fashion-mnist has an official split, which --split-seed 3 does not change" in seeded.output
    assert "has seen most test samples" not in seeded.output
    shown = invoke("predict", clothes, "--sample", "0")
    assert any(name in shown.output for name in bp.data.named.find("fashion-mnist").classes)


def test_where_the_data_are_missing_predict_still_takes_samples_of_ones_own(
    clothes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpnet.data import mnist

    def missing(*_: Any, **__: Any) -> Any:
        raise bp.DataError("fashion-mnist was not found. Looked at: nothing")

    monkeypatch.setattr(mnist, "load_images", missing)
    np.save("own.npy", np.zeros((2, 784)))
    done = invoke("predict", clothes, "--input", "own.npy")
    assert done.exit_code == 0, done.output
    assert "class " in done.output
    done = invoke("evaluate", clothes)
    assert done.exit_code == 2
    assert "fashion-mnist was not found" in done.output


def test_another_seed_of_generated_data_is_data_never_seen() -> None:
    bp.Sequential(bp.Dense(2, 3)).initialize().save(
        "spiral.safetensors", data="spiral", loss="SoftmaxCrossEntropy", split_seed=0
    )
    done = invoke("evaluate", "spiral.safetensors", "--split-seed", "4")
    assert done.exit_code == 0, done.output
    assert "spiral, test, generated by seed 4: 300 samples" in done.output
    assert "has seen" not in done.output
