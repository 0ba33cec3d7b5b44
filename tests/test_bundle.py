"""A step that failed as a file: all of it is there, it is made again without the data, and damage is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_forensics
from checkpoint_mutations import mutations
from test_forensics import Grow, Root
from typer.testing import CliRunner

import bpnet as bp
from bpnet.commands import app

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))
LABELS = RNG.integers(0, 4, size=50)


class Steep(bp.MeanSquaredError):
    """A loss of one's own."""


def failed(model: bp.Layer, x: Any, y: Any, loss: Any = None, optimizer: Any = None, **settings: Any) -> Any:
    """The error of a fit, with its `trainer`; settings are those of the Trainer and of the fit."""
    own = {name: settings.pop(name) for name in ("bundle", "check_gradients", "backend", "plan") if name in settings}
    trainer = bp.Trainer(model, loss or bp.MeanSquaredError(), optimizer or bp.SGD(1e-3), seed=5, **own)
    with pytest.raises(bp.NonFiniteError) as caught:
        trainer.fit(x, y, **({"epochs": 2, "batch_size": 8, "progress": False} | settings))
    caught.value.trainer = trainer  # type: ignore[attr-defined]
    return caught.value


def overflowing(rate: float = 0.0) -> tuple[bp.Layer, Any]:
    x = X.copy()
    x[37] = 60.0  # exp(100) and its like overflow float32
    x[37, 1] = 200.0
    return bp.Sequential(bp.Dropout(rate), Grow(), bp.Dense(3, 2)), x


# --- what it holds ---


def test_it_holds_the_step_and_the_model_before_it(backend: bp.Backend, tmp_path: Path) -> None:
    model, x = overflowing()
    path = tmp_path / "failed.safetensors"
    error = failed(model, x, Y, bundle=path, backend=backend, optimizer=bp.Adam(bp.Cosine(1e-3, 50), clip_norm=1.0))
    assert error.bundle_path == str(path)
    assert str(error).endswith(f". That step is in {str(path)!r}: `bpnet explain --bundle {path}`")
    bundle = bp.load_bundle(path, custom=Grow)
    row = list(bundle.rows).index(37)
    np.testing.assert_array_equal(bundle.x, x[bundle.rows].astype(np.float32))
    np.testing.assert_array_equal(bundle.y, Y[bundle.rows].astype(np.float32))
    assert bundle.sample_weight is None
    assert len(bundle.rows) == len(set(bundle.rows)) == 8
    finding = bundle.finding
    assert (finding.sample, finding.row, finding.path, finding.index) == (37, row, "1", (row, 1))
    assert bundle.step == int(bp.to_numpy(model.store.counters)[0]) + 1
    assert bundle.epoch == 1
    assert bundle.training["optimizer"]["clip_norm"] == 1.0
    assert bundle.training["optimizer"]["learning_rate"]["name"] == "Cosine"
    assert bundle.training["seed"] == 5
    assert bundle.environment["backend"] == backend.name
    for path_of, parameter in model.parameters().items():
        np.testing.assert_array_equal(bundle.model.parameters()[path_of].value, bp.to_numpy(parameter.value))
    assert bundle.model.backend.name == "numpy"
    assert bundle.message in str(error)
    assert bundle.message in str(bundle)
    assert "optimizer Adam(" in str(bundle)


def test_what_is_in_the_error_does_not_change_with_the_training() -> None:
    model, x = overflowing()
    error = failed(model, x, Y)
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.1)).fit(X, Y, epochs=1, progress=False)
    for name, parameter in error.bundle.model.parameters().items():
        np.testing.assert_array_equal(parameter.value, before[name])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.bundle.finding == error.bundle.finding


def test_a_notebook_writes_it_later_with_what_it_wants_to_say(tmp_path: Path) -> None:
    model, x = overflowing()
    error = failed(model, x, Y, sample_weight=np.linspace(0.5, 1, 50))
    assert error.bundle_path is None
    assert "bpnet explain --bundle" not in str(error)
    error.save_bundle(tmp_path / "late", data="of mine", fold=3)
    bundle = bp.load_bundle(tmp_path / "late", custom=(Grow,))
    assert bundle.info == {"data": "of mine", "fold": 3}
    np.testing.assert_array_equal(bundle.sample_weight, np.linspace(0.5, 1, 50)[bundle.rows].astype(np.float32))
    assert bundle.explain().loss == np.inf
    with pytest.raises(bp.ConfigError, match="the info of a bundle must be JSON values"):
        error.save_bundle(tmp_path / "other", what=object())
    with pytest.raises(bp.CheckpointError, match="cannot write"):
        error.save_bundle(tmp_path)


def test_an_error_of_something_else_has_none() -> None:
    with pytest.raises(bp.StateError, match="this error has no bundle"):
        bp.NonFiniteError("somewhere").save_bundle("nowhere")
    assert not os.path.exists("nowhere")


# --- where it goes ---


def test_a_checkpoint_folder_gets_it_beside_the_checkpoints(tmp_path: Path) -> None:
    x, y = X.copy(), Y.copy()
    y[11] = 1e30
    checkpoint = bp.Checkpoint(tmp_path / "run", every_steps=1, info={"recipe": {"a": 1}})
    error = failed(bp.Dense(3, 2), x, y, checkpoint=checkpoint, shuffle=False)
    bundle = bp.load_bundle(tmp_path / "run" / "bundle.safetensors")
    assert error.bundle_path == str(tmp_path / "run" / "bundle.safetensors")
    assert bundle.info == {"recipe": {"a": 1}}
    assert bundle.finding.sample == 11
    trainer = bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(1e-3), seed=5)
    with pytest.raises(bp.NonFiniteError):  # the checkpoints before it are whole, and the step fails again
        trainer.fit(x, y, epochs=2, batch_size=8, progress=False, shuffle=False, resume=tmp_path / "run")


def test_nothing_is_written_where_nobody_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = overflowing()
    failed(model, x, Y)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    trainer = bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(1e-3), bundle=tmp_path / "no" / "where")
    with pytest.raises(bp.CheckpointError, match="there is no folder"):
        trainer.fit(X, Y, progress=False)
    assert trainer.model.store.steps_taken == 0
    for wrong in ("", 3, True):
        with pytest.raises(bp.ConfigError, match="bundle must be the path of a file, or None"):
            trainer.bundle = wrong  # type: ignore[assignment]


def test_a_bundle_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    model, x = overflowing()

    class Remove(bp.Callback):
        def on_step_end(self, trainer: bp.Trainer) -> None:
            if folder.exists():
                folder.rmdir()

    error = failed(model, x, Y, bundle=folder / "file", callbacks=[Remove()])
    assert "made by Grow() at '1', forward" in str(error)
    assert ". No bundle was written: cannot write" in str(error)
    assert error.bundle_path is None
    error.save_bundle(tmp_path / "elsewhere")


def test_a_model_that_no_file_can_hold_still_says_what_failed() -> None:
    class Odd(Grow):
        def __init__(self, what: Any) -> None:
            self.what = what

        def __deepcopy__(self, memo: Any) -> Any:
            return Odd(self.what)

    _, x = overflowing()
    error = failed(bp.Sequential(Odd(object()), bp.Dense(3, 2)), x, Y)
    assert "forward: grow gives inf" in str(error)
    assert error.bundle is None
    error = failed(bp.Sequential(Odd(object()), bp.Dense(3, 2)), x, Y, bundle="some.safetensors")
    assert "No bundle was written: Odd(" in str(error)
    assert "which JSON cannot hold" in str(error)
    assert not os.path.exists("some.safetensors")

    class Stubborn(Grow):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not to be copied")

    error = failed(bp.Sequential(Stubborn(), bp.Dense(3, 2)), x, Y, bundle="some.safetensors")
    assert "or look at the data of that step. No bundle was written: the model cannot be copied" in str(error)
    assert error.bundle is None


# --- the step again ---


@pytest.mark.parametrize("size", [None, 3])
def test_the_explanation_begins_with_the_failing_sample_and_neuron(size: int | None, tmp_path: Path) -> None:
    model, x = overflowing()
    failed(model, x, Y, bundle=tmp_path / "failed", micro_batch_size=size)
    bundle = bp.load_bundle(tmp_path / "failed", custom=Grow)
    explanation = bundle.explain()
    scene = next(each for each in explanation.scenes if each.path.startswith("1"))
    assert (scene.neuron, scene.value) == (1, np.inf)
    assert "sample 37 of the data" in explanation.heading()
    assert "grow gives inf" in explanation.heading()
    assert explanation.loss == np.inf
    np.testing.assert_allclose(explanation._record.x[scene.sample], [60, 200, 60])
    assert "inf" in str(explanation)
    json.dumps(explanation.json(), allow_nan=False)
    explanation.page(tmp_path / "page.html")
    assert "inf" in (tmp_path / "page.html").read_text("utf-8")


def test_with_dropout_and_micro_batches_the_numbers_are_those_of_the_training(tmp_path: Path) -> None:
    """What the failing micro-batch computes in the bundle is what it computed in the fit, masks included."""
    seen: list[Any] = []

    class See(Grow):
        def forward(self, x: Any) -> Any:
            seen.append(np.array(x))
            return super().forward(x)

    x = X.copy()
    x[5] = 200.0
    model = bp.Sequential(bp.Dense(3, 3), bp.Dropout(0.4), See(), bp.Dropout(0.3), bp.Dense(3, 2))
    model.initialize(1)
    model[0].weight.value = np.eye(3)
    error = failed(model, x, Y, shuffle=False, micro_batch_size=3, plan=False)
    assert error.bundle.finding.part == 1
    assert error.bundle.finding.sample == 5
    in_the_fit = seen[1]  # of the first step
    first = [call for call in error.bundle.explain()._record.calls if call.path == "2"]
    np.testing.assert_array_equal(first[0].x, in_the_fit)


def test_the_loss_of_a_part_is_divided_by_the_whole_batch(tmp_path: Path) -> None:
    y = Y.copy()
    y[4] = 3e19  # its square overflows
    error = failed(bp.Dense(3, 2), X, y, shuffle=False, micro_batch_size=3)
    record = error.bundle.explain()._record
    assert record.normalizer == 16  # 8 samples of 2 values
    finite = record.dy[0]
    np.testing.assert_allclose(finite, 2 * (record.y[0] - y[3]) / 16, rtol=1e-6)


def test_a_backward_is_aimed_at_the_layer_before(tmp_path: Path) -> None:
    x = X.copy()
    x[20, 1] = 0.0
    model = bp.Sequential(bp.Dense(3, 3), Root(), bp.Dense(3, 2)).initialize(0, dtype="float64")
    model[0].weight.value, model[0].bias.value = np.eye(3), np.zeros(3)
    settings = {"check_gradients": True, "epochs": 1, "batch_size": 50, "optimizer": bp.SGD(1e-9)}
    error = failed(model, x, Y, bundle=tmp_path / "failed", **settings)
    assert "the loss or the norm of the gradients was NaN or infinite in step 1" in str(error)
    bundle = bp.load_bundle(tmp_path / "failed", custom=Root)
    assert (bundle.finding.sample, bundle.finding.index[1]) == (20, 1)
    scene = next(each for each in bundle.explain().scenes if each.path == "0")
    assert scene.neuron == 1
    assert not np.isfinite(scene.gradient)
    assert np.isfinite(bundle.explain().loss)


def test_a_parameters_gradient_is_aimed_at_its_neuron_and_its_largest_sample() -> None:
    """dW[1, 0] overflows in the sum over the samples, of products that are finite."""
    x = np.ones((4, 3))
    x[:, 1] = [1e38, 3e38, 2e38, 1e38]
    model = bp.Dense(3, 2).initialize(0)
    model.weight.value = np.zeros((3, 2))
    loss = bp.Huber(reduction="sum")  # its derivative is 1 far away
    error = failed(model, x, np.full((4, 2), 1e18), loss=loss, batch_size=4, check_gradients=True, shuffle=False)
    finding = error.bundle.finding
    assert (finding.kernel, finding.index, finding.sample) == ("linear_backward", (1, 0), None)
    explanation = error.bundle.explain()
    (scene,) = explanation.scenes
    assert (scene.sample, scene.neuron) == (1, 0)
    assert [factor.label for factor in scene.terms[0].factors] == ["x[1]", "weight[1, 0]"]
    assert np.isinf(explanation.gradients["weight"][1, 0])
    assert np.isfinite(explanation.loss)


def test_other_samples_and_neurons_can_be_asked_for(tmp_path: Path) -> None:
    model, x = overflowing()
    error = failed(model, x, Y)
    bundle = error.bundle
    other = next(int(row) for row in bundle.rows if row != 37)
    explanation = bundle.explain(samples=[other, 37], neurons={"2": [1]})
    assert f"is sample {other} of the data" in explanation.heading()
    assert {scene.neuron for scene in explanation.scenes if scene.path == "2"} == {1}
    absent = next(row for row in range(50) if row not in bundle.rows)
    with pytest.raises(bp.ConfigError, match=rf"those that were in the batch, .*; got {absent}"):
        bundle.explain(samples=absent)
    with pytest.raises(bp.ConfigError, match="samples must name at least one"):
        bundle.explain(samples=[])


def test_losses_and_layers_of_ones_own_are_named_when_it_is_read(tmp_path: Path) -> None:
    model, x = overflowing()
    failed(model, x, Y, loss=Steep(), bundle=tmp_path / "failed")
    whole = bp.load_bundle(tmp_path / "failed", custom=(Grow, Steep))
    assert type(whole.loss) is Steep
    assert whole.explain().loss == np.inf
    for custom, name in (((Grow,), "Steep"), ((Steep,), "Grow")):
        bundle = bp.load_bundle(tmp_path / "failed", custom=custom)
        assert bundle.finding.sample == 37
        with pytest.raises(bp.CheckpointError, match=rf"bpnet.load_bundle\(path, custom=\({name},\)\)"):
            bundle.explain()
    with pytest.raises(bp.ConfigError, match="custom must hold classes of layers and losses, got 3"):
        bp.load_bundle(tmp_path / "failed", custom=(3,))  # type: ignore[arg-type]


def test_labels_with_class_weights_come_back() -> None:
    loss = bp.SoftmaxCrossEntropy(class_weight={0: 2.0, 3: 0.5})
    x = X.copy()
    x[7] = 200.0
    error = failed(bp.Sequential(Grow(), bp.Dense(3, 4)), x, LABELS, loss=loss)
    assert error.bundle.loss.config == loss.config
    assert not np.isfinite(error.bundle.explain().loss)


def test_the_penalties_are_named() -> None:
    model = bp.Dense(3, 2, weight_l2=1.0).initialize(0)
    model.weight.value = np.full((3, 2), 1e20)
    error = failed(model, np.zeros((8, 3)), Y[:8])
    assert "made by the penalties, l1 and l2, of the parameters, forward: penalty gives inf" in str(error)
    error.bundle.explain()


def test_an_update_that_overflowed_is_told_from_a_step_that_did() -> None:
    """A learning rate of 1e30 makes infinite weights of finite gradients; the next batch is not to blame."""
    model = bp.Dense(3, 2).initialize(0)
    model.weight.value = np.zeros((3, 2))
    error = failed(model, np.ones((50, 3)), np.full((50, 2), 1e10), optimizer=bp.SGD(1e30))
    assert "in step 2 (epoch 1)" in str(error)
    assert str(error).endswith(
        "the parameter 'weight' is inf at index (0, 0) already before that step: the update before it made it so, by "
        "SGD, and not the batch. Clip gradients by clip_norm or clip_value, or take a smaller learning rate"
    )
    assert error.bundle.finding.direction == "update"
    assert "inf" in str(error.bundle.explain())


# --- gradients ---


def rooted(backend: bp.Backend) -> bp.Layer:
    """A model whose gradient, and not whose loss, is infinite for a sample of zeros."""
    model = bp.Sequential(bp.Dense(3, 3, bias=False), Root(), bp.Dense(3, 2))
    return model.initialize(0, dtype="float64", backend=backend)


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("size", [None, 5])
@np.errstate(all="ignore")
def test_gradients_that_are_not_finite_change_nothing(plan: bool, size: int | None, backend: bp.Backend) -> None:
    """Of three batches the second has an infinite gradient and a finite loss; the steps before and after it count."""
    x = np.abs(X[:30]) + 0.5
    x[14] = 0.0

    def trained(check: bool) -> bp.Trainer:
        return bp.Trainer(rooted(backend), bp.MeanSquaredError(), bp.Adam(1e-3), plan=plan, check_gradients=check)

    trainer = trained(True)
    losses, values = [], []
    for _ in range(2):  # so that plans are made and replayed
        for start in (0, 10, 20):
            batch = x[start : start + 10], Y[start : start + 10]
            losses.append(float(trainer.step(*batch, micro_batch_size=size)))
            values.append(bp.to_numpy(trainer.model.store.values).copy())
    assert np.all(np.isfinite(losses))
    np.testing.assert_array_equal(values[0], values[1])
    assert np.all(np.isfinite(values[-1]))
    np.testing.assert_array_equal(values[3], values[4])
    assert not np.array_equal(values[0], values[2])
    assert trainer.model.store.steps_taken == 4
    careless = trained(False)
    for start in (0, 10):
        careless.step(x[start : start + 10], Y[start : start + 10], micro_batch_size=size)
    assert not np.all(np.isfinite(bp.to_numpy(careless.model.store.values)))
    assert careless.model.store.steps_taken == 2


def test_a_fit_stops_at_such_a_gradient_and_freezes_step_and_parameters(backend: bp.Backend) -> None:
    x = np.abs(X) + 0.5
    x[33] = 0.0
    error = failed(rooted(backend), x, Y, backend=backend, check_gradients=True, batch_size=10, shuffle=False)
    assert "in step 4 (epoch 1)" in str(error)
    assert "made by Root() at '1', backward: root_backward gives" in str(error)
    assert "sample 33 of the data" in str(error)
    assert error.bundle.explain().loss < np.inf
    model = error.trainer.model
    assert model.store.steps_taken == 3
    assert bool(model.store.ok)
    assert np.all(np.isfinite(bp.to_numpy(model.store.values)))


def test_one_check_is_in_the_step_and_none_without_it() -> None:
    names: dict[bool, list[str]] = {}
    for check in (True, False):
        trainer = bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(0.1), check_gradients=check)
        for _ in range(3):
            trainer.step(X[:8], Y[:8])
        (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
        names[check] = [step.kernel.name for step in plan.steps]
    assert names[True].count("check_norm_") == 1
    assert [name for name in names[True] if name != "check_norm_"] == names[False]


def test_an_optimizers_own_loop_can_check_them_too() -> None:
    model = bp.Dense(2, 1).initialize(0, dtype="float64")
    loss, optimizer = bp.MeanSquaredError(), bp.SGD(0.1)
    before = model.weight.value.copy()
    loss.forward(model.forward(np.ones((1, 2))), np.ones((1, 1)))
    model.backward(loss.backward())
    model.weight.grad[0, 0] = np.nan
    optimizer.step(model, check_gradients=True)
    np.testing.assert_array_equal(model.weight.value, before)
    assert model.store.steps_taken == 0
    assert not bool(model.store.ok)


def test_gradients_are_looked_at_before_they_are_clipped_by_value() -> None:
    """Clipping by value would make a finite number of an infinite one."""
    model = bp.Dense(2, 1).initialize(0)
    loss, optimizer = bp.MeanSquaredError(), bp.SGD(0.1, clip_value=1.0)
    before = model.weight.value.copy()
    loss.forward(model.forward(np.ones((1, 2), "float32")), np.ones((1, 1), "float32"))
    model.backward(loss.backward())
    model.weight.grad[0, 0] = np.inf
    optimizer.step(model, check_gradients=True)
    np.testing.assert_array_equal(model.weight.value, before)


def test_a_checkpoint_knows_whether_gradients_were_checked(tmp_path: Path) -> None:
    def trainer(check: bool) -> bp.Trainer:
        return bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(0.1), check_gradients=check)

    trainer(True).fit(X, Y, epochs=1, progress=False, checkpoint=tmp_path / "run")
    with pytest.raises(bp.ConfigError, match="check_gradients: True in the checkpoint, nothing now"):
        trainer(False).fit(X, Y, epochs=2, progress=False, resume=tmp_path / "run")
    history = trainer(True).fit(X, Y, epochs=2, progress=False, resume=tmp_path / "run")
    assert len(history) == 2


def test_check_gradients_must_be_true_or_false() -> None:
    with pytest.raises(bp.ConfigError, match="Trainer: check_gradients must be True or False, got 'no'"):
        bp.Trainer(bp.Dense(3, 2), bp.MeanSquaredError(), bp.SGD(0.1), check_gradients="no")  # type: ignore[arg-type]


# --- damage ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("bundle") / "whole.safetensors"
    y = Y.copy()
    y[11] = 1e30
    model = bp.Sequential(bp.Dense(3, 4), bp.Dropout(0.2), bp.Tanh(), bp.Dense(4, 2))
    failed(model, X, y, bundle=path, sample_weight=np.ones(50), micro_batch_size=4)
    return path


def shown(path: str) -> bytes:
    bundle = bp.load_bundle(path)
    return (str(bundle) + str(bundle.explain())).replace(path, "").encode()


@pytest.mark.parametrize("seed", range(3))
def test_a_mutated_bundle_is_refused_or_correct(seed: int, whole: Path, tmp_path: Path) -> None:
    outcomes = mutations(str(whole), tmp_path, seed, 50, shown)
    assert sum(outcomes.values()) == 50
    assert outcomes["refused"] > 25


def test_other_files_are_no_bundles(whole: Path, tmp_path: Path) -> None:
    model = bp.Dense(3, 2).initialize()
    model.save(tmp_path / "model")
    with pytest.raises(bp.CheckpointError, match="is a safetensors file, but no bundle of a step that failed"):
        bp.load_bundle(tmp_path / "model")
    with pytest.raises(bp.CheckpointError, match="is a safetensors file, but not a model"):
        bp.load(whole)
    with pytest.raises(bp.CheckpointError, match="cannot read"):
        bp.load_bundle(tmp_path / "absent")


# --- the command line ---


RECIPE = """
[data]
csv = "data.csv"
target = "y"
test_fraction = 0.2

[model]
layers = ["Dense(2, 3)", "Tanh()", "Dense(3, 1)"]

[loss]
name = "MeanSquaredError"

[optimizer]
name = "SGD"
learning_rate = 0.01

[training]
epochs = 2
batch_size = 8
check_gradients = true
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose data have one value that is too large; the working directory."""
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{c:.3f}" for a, b, c in rng.normal(size=(40, 3))]
    rows[5] = "0.1,0.2,1e30"
    rows[6] = "0.1,0.2,1e30"
    rows[7] = "0.1,0.2,1e30"  # one of them at least is trained on
    (tmp_path / "data.csv").write_text("a,b,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "mine.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("every", [(), ("--checkpoint-every", "1")])
def test_train_leaves_the_step_and_explain_opens_it_without_the_data(recipe: Path, every: tuple[str, ...]) -> None:
    out = "run" if every else "mine.safetensors"
    done = CliRunner().invoke(app, ["train", "mine.toml", "--out", out, *every])
    assert done.exit_code == 1
    path = "run/bundle.safetensors" if every else "mine.bundle.safetensors"
    assert f"`bpnet explain --bundle {path}`. No model was saved" in done.output
    assert not (recipe / "mine.safetensors").exists()
    (recipe / "data.csv").unlink()
    (recipe / "mine.toml").unlink()
    bundle = bp.load_bundle(path)
    assert bundle.info["recipe"]["training"]["check_gradients"] is True
    assert bundle.info["recipe_name"] == "mine"
    sample = bundle.finding.sample
    done = CliRunner().invoke(app, ["explain", "--bundle", path])
    assert done.exit_code == 0, done.output
    for words in (
        bundle.message,
        f"is sample {sample} of the data",
        "Sample ",
        "backward",
        "the loss of the batch is inf",
    ):
        assert words in done.output
    done = CliRunner().invoke(app, ["explain", "--bundle", path, "--html", "step.html", "--sample", str(sample)])
    assert (done.exit_code, (recipe / "step.html").exists()) == (0, True)
    done = CliRunner().invoke(app, ["explain", "--bundle", path, "--json", "--neuron", "0"])
    found = json.loads(done.output.splitlines()[-1])
    assert found["bundle"]["finding"]["sample"] == sample
    assert found["bundle"]["finding"]["value"] == "inf"
    assert found["value"] == "inf"
    done = CliRunner().invoke(app, ["explain", "--bundle", path, "--sample", "999"])
    assert (done.exit_code, "samples must be of those that were in the batch" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a recipe or a model, as in `bpnet explain digits`, or a failed step with --bundle FILE"),
        (("digits", "--bundle", "some"), "--bundle: there is no file 'some'"),
        (("digits", "--bundle", __file__), "the bundle has its model; leave 'digits' out"),
        (("--bundle", __file__, "--backend", "numpy"), "--backend: a bundle is run on NumPy; leave it out"),
    ],
)
def test_explain_says_what_belongs_together(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["explain", *arguments])
    assert (done.exit_code, message in done.output) == (2, True), done.output


def test_explain_refuses_what_is_no_bundle() -> None:
    done = CliRunner().invoke(app, ["explain", "--bundle", __file__])
    assert (done.exit_code, "is no whole safetensors file" in done.output) == (1, True)


def test_gradients_are_checked_on_the_command_line(recipe: Path) -> None:
    text = (recipe / "mine.toml").read_text().replace("check_gradients = true", "")
    (recipe / "mine.toml").write_text(text)
    done = CliRunner().invoke(app, ["train", "mine.toml"])
    assert "the loss was NaN or infinite" in done.output
    done = CliRunner().invoke(app, ["train", "mine.toml", "--check-gradients"])
    assert "the loss or the norm of the gradients was NaN or infinite" in done.output
    done = CliRunner().invoke(app, ["train", "--resume", "run", "--check-gradients"])
    assert "--check-gradients cannot be changed in the middle of a training" in done.output


def test_a_fit_that_goes_well_loads_nothing_of_the_explanation() -> None:
    code = (
        "import sys, numpy as np, bpnet as bp\n"
        "trainer = bp.Trainer(bp.Dense(2, 1), bp.MeanSquaredError(), bp.SGD(0.1))\n"
        "trainer.fit(np.ones((4, 2)), np.ones((4, 1)), progress=False)\n"
        "print([name for name in sys.modules if name.startswith('bpnet.explain.')])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_bundles_can_be_copied() -> None:
    model, x = overflowing()
    bundle = failed(model, x, Y).bundle
    assert copy.deepcopy(bundle).finding == bundle.finding
    assert repr(bundle).startswith("<Bundle of step ")
    assert test_forensics.X.shape == (50, 3)
