"""`bpnet train --checkpoint-every` and `--resume`: the same model as without a kill, and what is said and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bpnet as bp
from bpnet import checkpoint
from bpnet.commands import app
from bpnet.commands.settings import every

RECIPE = """
[data]
csv = "points.csv"
target = "kind"
validation_fraction = 0.25

[model]
layers = ["Dense(2, 8)", "ReLU()", "Dropout(0.2)", "Dense(8, 3)"]

[loss]
name = "SoftmaxCrossEntropy"

[optimizer]
name = "AdamW"
average = 0.9

[schedule]
name = "Cosine"
epochs = 6

[training]
epochs = 6
batch_size = 7
patience = 50
"""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def in_a_folder_with_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BPNET_BACKEND", raising=False)
    rng = np.random.default_rng(0)
    rows = [f"{x:.6f},{y:.6f},{int(x > 0) + int(y > 0)}" for x, y in rng.normal(size=(60, 2))]
    Path("points.csv").write_text("\n".join(["a,b,kind", *rows, ""]))
    Path("mine.toml").write_text(RECIPE)


def killed(monkeypatch: pytest.MonkeyPatch, after: int, *arguments: str) -> None:
    """Run `bpnet train mine.toml` with checkpoints every two steps, and let it die behind the one of that number."""
    count = 0
    write = checkpoint.Writer._write_index

    def dying(self: Any, fit: Any) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise RuntimeError("killed")
        write(self, fit)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Writer, "_write_index", dying)
        done = invoke("train", "mine.toml", "--checkpoint-every", "2steps", *arguments)
    assert isinstance(done.exception, RuntimeError), done.output


@pytest.mark.parametrize("after", [1, 5, 9, 14])
def test_a_resumed_training_saves_the_same_model(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("train", "mine.toml", "--out", "whole", "--log", "whole.csv").exit_code == 0
    killed(monkeypatch, after, "--out", "run", "--log", "parts.csv")
    done = invoke("train", "--resume", "run")
    assert done.exit_code == 0, done.output
    assert Path("run/model.safetensors").read_bytes() == Path("whole").read_bytes()
    parts, whole = (Path(f"{name}.csv").read_text().splitlines() for name in ("parts", "whole"))
    assert [line.rpartition(",")[0] for line in parts] == [line.rpartition(",")[0] for line in whole]
    assert f"resumed   after {2 * after // 5} epochs and {2 * after % 5} steps, from run/step-" in done.stdout


def test_the_folder_is_named_after_the_recipe_and_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("train", "mine.toml", "--checkpoint-every", "2", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["model"] == os.path.join("mine", "model.safetensors")
    assert sorted(os.listdir("mine")) == [
        "best.safetensors",
        "index.json",
        "model.safetensors",
        "step-0000000020.safetensors",
        "step-0000000030.safetensors",
    ]
    again = invoke("train", "--resume", "mine", "--json")
    assert again.exit_code == 0, again.output
    results, before = (json.loads(each.stdout.splitlines()[-1]) for each in (again, done))
    assert results["test_loss"] == before["test_loss"]
    assert "replaced mine/model.safetensors" in again.stdout


def test_a_training_may_be_made_longer_where_nothing_else_depends_on_its_length() -> None:
    Path("mine.toml").write_text(RECIPE.replace('[schedule]\nname = "Cosine"\nepochs = 6\n', ""))
    assert invoke("train", "mine.toml", "--epochs", "9", "--out", "whole").exit_code == 0
    assert invoke("train", "mine.toml", "--epochs", "4", "--out", "run", "--checkpoint-every", "1").exit_code == 0
    assert invoke("train", "--resume", "run", "--epochs", "9").exit_code == 0
    assert Path("run/model.safetensors").read_bytes() == Path("whole").read_bytes()


def test_another_backend_goes_on_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, 4, "--out", "run")
    done = invoke("train", "--resume", "run", "--backend", "strict")
    assert done.exit_code == 0, done.output
    assert "bpnet: note: resumed elsewhere than where 'run/step-" in done.stderr
    assert "backend: numpy in the checkpoint, strict now" in done.stderr
    assert "Warning" not in done.stderr


def test_data_that_have_changed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, 4, "--out", "run")
    rows = Path("points.csv").read_text().splitlines()
    Path("points.csv").write_text("\n".join([rows[0], "0.1,0.2,2", *rows[2:], ""]))
    done = invoke("train", "--resume", "run")
    assert done.exit_code == 2
    assert "is of another training: " in done.stderr
    assert "data.x.SHA-256: " in done.stderr


def test_a_damaged_newest_checkpoint_is_noted_and_the_one_before_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("train", "mine.toml", "--out", "whole").exit_code == 0
    killed(monkeypatch, 8, "--out", "run")
    *_, last = sorted(Path("run").glob("step-*"))
    last.write_bytes(last.read_bytes()[:-100])
    done = invoke("train", "--resume", "run")
    assert done.exit_code == 0, done.output
    assert f"bpnet: note: going on from 'run/step-0000000014.safetensors': {str(last)!r} is no whole" in done.stderr
    assert Path("run/model.safetensors").read_bytes() == Path("whole").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "bpnet: name a recipe, as in `bpnet train digits`, or go on with --resume FOLDER\n"),
        (
            ("--resume", "none"),
            "bpnet: --resume: the folder 'none' is not there; `bpnet train RECIPE --checkpoint-every 1` writes one\n",
        ),
        (
            ("--resume", "."),
            "bpnet: --resume: the folder '.' has no checkpoint; `bpnet train RECIPE --checkpoint-every 1` writes one\n",
        ),
        (
            ("mine.toml", "--resume", "none", "--seed", "3", "--checkpoint-every", "2"),
            "bpnet: 4 settings cannot be used:\n"
            "  RECIPE and --resume: the checkpoint has its recipe; leave 'mine.toml' out\n"
            "  --seed cannot be changed in the middle of a training; leave it out\n"
            "  --checkpoint-every cannot be changed in the middle of a training; leave it out\n"
            "  --resume: the folder 'none' is not there; `bpnet train RECIPE --checkpoint-every 1` writes one\n",
        ),
        (
            ("--resume", "none", "--precision", "bf16"),
            "bpnet: 2 settings cannot be used:\n"
            "  --precision cannot be changed in the middle of a training; leave it out\n"
            "  --resume: the folder 'none' is not there; `bpnet train RECIPE --checkpoint-every 1` writes one\n",
        ),
        (
            ("mine.toml", "--checkpoint-every", "0steps"),
            "bpnet: --checkpoint-every: a number of epochs, as 1, or of steps, as 500steps, at least 1; got '0steps'\n",
        ),
        (
            ("mine.toml", "--checkpoint-every", "1", "--out", "points.csv"),
            "bpnet: --out: cannot make the folder 'points.csv': ",
        ),
        (
            ("mine.toml", "--checkpoint-every", "1", "--out", "a.csv", "--log", "a.csv"),
            "bpnet: --out and --log name the same file, ",
        ),
    ],
)
def test_wrong_use_is_reported_and_nothing_is_made(arguments: tuple[str, ...], message: str) -> None:
    before = sorted(os.listdir())
    done = invoke("train", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(message)
    assert sorted(os.listdir()) == before


def test_a_folder_with_checkpoints_is_not_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, 2, "--out", "run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    done = invoke("train", "mine.toml", "--out", "run", "--checkpoint-every", "1")
    assert done.exit_code == 2
    assert done.stderr == (
        "bpnet: --out: the folder 'run' has checkpoints already; go on with `bpnet train --resume run`, or name "
        "another one\n"
    )
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_checkpoints_of_a_program_go_on_in_a_program() -> None:
    trainer = bp.Trainer(bp.Sequential(bp.Dense(2, 3)), bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    trainer.fit(np.zeros((4, 2)), [0, 1, 2, 0], epochs=1, progress=False, checkpoint="theirs")
    done = invoke("train", "--resume", "theirs")
    assert done.exit_code == 2
    assert done.stderr == (
        "bpnet: --resume: the checkpoints in 'theirs' were not written by `bpnet train`; go on in Python, with "
        "trainer.fit(..., resume=...)\n"
    )


def test_how_often_is_read() -> None:
    texts = ("3", "1epoch", "2 epochs", "500steps", "1 step")
    assert [every(text) for text in texts] == [
        (3, "epochs"), (1, "epochs"), (2, "epochs"), (500, "steps"), (1, "steps")
    ]  # fmt: skip
    for text in ("0", "-1", "1.5", "", "steps", "5 minutes", "1e3"):
        with pytest.raises(ValueError, match="a number of epochs, as 1, or of steps, as 500steps"):
            every(text)
