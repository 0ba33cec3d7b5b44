"""A plan recorded as one graph by a backend that can: the same bits, once a shape, and where it fails it is said."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from able_backend import AbleBackend
from test_plan import MODELS, batches

import bpnet as bp
from bpnet.planner import Planner

OPTIMIZERS: dict[str, Callable[[], bp.Optimizer]] = {
    "SGD": lambda: bp.SGD(0.05, momentum=0.9),
    "Adam with a schedule": lambda: bp.Adam(bp.Cosine(0.01, 40, warmup=3), clip_norm=1.0, average=0.9),
}


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpnet import backend

    monkeypatch.setattr(backend, "_READY", dict(backend._READY))
    monkeypatch.setattr(backend, "_PROBED", list(backend._PROBED))


def made(backend: Any, make: Callable[[], bp.Layer] = MODELS["dropout"], **options: Any) -> bp.Trainer:
    optimizer = options.pop("optimizer", None) or bp.Adam(0.01)
    return bp.Trainer(make(), bp.SoftmaxCrossEntropy(), optimizer, seed=3, backend=backend, **options)


def steps(trainer: bp.Trainer, n: int = 12) -> list[bytes]:
    return [bp.to_numpy(trainer.step(x, y)).tobytes() for x, y in batches(n)]


def state(trainer: bp.Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in trainer.model.store.arrays().items()}


# --- the same bits ---


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_graphs_give_the_bits_of_eager_steps(
    make: Callable[[], bp.Layer], optimizer: Callable[[], bp.Optimizer]
) -> None:
    backend = AbleBackend()
    captured, eager = made(backend, make, optimizer=optimizer()), made("numpy", make, optimizer=optimizer(), plan=False)
    assert steps(captured) == steps(eager)
    assert state(captured) == state(eager)
    assert captured.plan_report().count("captured as one graph") == 2, captured.plan_report()


def test_each_shape_of_batches_is_recorded_once_and_proved_once() -> None:
    backend = AbleBackend()
    trainer = made(backend)
    steps(trainer, 12)  # of 8, 8, 5 samples
    assert len(backend.captures) == 2
    assert backend.replays.count(0) == 1 + 8 - 2
    assert backend.replays.count(1) == 1 + 4 - 2


def test_what_is_recorded_are_the_calls_of_the_plan_after_they_were_made() -> None:
    made_before: list[int] = []
    backend = AbleBackend(fails=lambda number: made_before.append(plans_made()) or None)

    def plans_made() -> int:
        return sum(kind.plan is not None for kind in trainer._planner._kinds.values())  # type: ignore[union-attr]

    trainer = made(backend)
    steps(trainer, 4)
    assert made_before == [1]  # the plan had proved itself
    (plan, *_) = trainer._planner.plans().values()  # type: ignore[union-attr]
    assert backend.captures[0] == plan._calls


def test_a_changed_learning_rate_needs_no_new_graph_and_a_changed_layer_does() -> None:
    backend = AbleBackend()

    def model() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 8), bp.LeakyReLU(0.1), bp.Dense(8, 3))

    both = [made(backend, model), made("numpy", model, plan=False)]
    x, y = batches(1)[0]
    for slope, rate in ((0.1, 0.01), (0.1, 0.001), (0.3, 0.001)):
        for trainer in both:
            trainer.optimizer.learning_rate = rate
            trainer.model[1].slope = slope  # type: ignore[index]
        for _ in range(4):
            assert both[0].step(x, y).tobytes() == both[1].step(x, y).tobytes()
    assert state(both[0]) == state(both[1])
    assert len(backend.captures) == 2
    assert backend.replays.count(1) > 1


def test_fits_with_metrics_accumulation_and_a_partial_batch_are_captured() -> None:
    train, test = bp.data.load("digits")
    backend = AbleBackend()

    def fit(where: Any, **options: Any) -> tuple[Any, dict[str, bytes]]:
        model = bp.Sequential(bp.Dense(64, 16), bp.ReLU(), bp.Dropout(0.2), bp.Dense(16, 10))
        trainer = bp.Trainer(
            model, bp.SoftmaxCrossEntropy(), bp.Adam(0.003), metrics=[bp.Accuracy()], backend=where, **options
        )
        history = trainer.fit(
            train[:200], validation_data=test[:50], epochs=3, batch_size=48, micro_batch_size=20, progress=False
        )
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows], state(trainer)

    assert fit(backend) == fit("numpy", plan=False)
    assert len(backend.captures) == 2
    assert backend.depth == 0


# --- where it fails ---


def test_a_failed_capture_is_said_once_and_steps_go_on_call_by_call() -> None:
    backend = AbleBackend(fails=lambda number: NotImplementedError("this library cannot be captured"))
    trainer, eager = made(backend), made("numpy", plan=False)
    with pytest.warns(
        RuntimeWarning,
        match="replayed call by call and not as one graph: capturing it failed with "
        "NotImplementedError: this library cannot be captured",
    ) as said:
        found = steps(trainer)
    assert len(said) == 1
    assert found == steps(eager)
    assert state(trainer) == state(eager)
    assert trainer.plan_report().count("call by call, because capturing it failed with NotImplementedError") == 2
    assert len(backend.captures) == 2  # tried once a shape
    assert backend.replays == []


def test_a_graph_that_gives_other_bits_is_not_used() -> None:
    backend = AbleBackend(spoil=lambda calls: calls[:-1])
    trainer, eager = made(backend), made("numpy", plan=False)
    with pytest.warns(RuntimeWarning, match="its graph gave other values in .*counters.* than its calls"):
        found = steps(trainer)
    assert found == steps(eager)
    assert state(trainer) == state(eager)
    assert backend.replays == [0, 1]  # the proofs alone


def test_an_interrupt_while_capturing_goes_through() -> None:
    backend = AbleBackend(fails=lambda number: KeyboardInterrupt())
    trainer = made(backend)
    x, y = batches(1)[0]
    trainer.step(x, y)
    with pytest.raises(KeyboardInterrupt):
        trainer.step(x, y)
    assert backend.depth == 0
    backend.fails = lambda number: None
    assert np.isfinite(trainer.step(x, y))


def test_asked_for_it_raises_before_the_next_step_and_changes_nothing() -> None:
    backend = AbleBackend(fails=lambda number: RuntimeError("no"))
    trainer = made(backend, capture="on")
    x, y = batches(1)[0]
    trainer.step(x, y)
    trainer.step(x, y)
    before = state(trainer)
    with pytest.raises(
        bp.StateError,
        match=r"Trainer\(capture='on'\): a step for x \(8, 6\) cannot be one graph, because capturing it failed with "
        r"RuntimeError: no\. With capture='auto' it is made call by call",
    ):
        trainer.step(x, y)
    assert state(trainer) == before
    trainer.capture = "off"
    assert np.isfinite(trainer.step(x, y))


def test_asked_for_it_a_step_that_cannot_be_planned_raises() -> None:
    class Odd(bp.Layer):
        def __call__(self, x: Any) -> Any:
            return x

        def forward(self, x: Any) -> Any:
            return x + 0  # by no kernel

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            return dy

    trainer = made(AbleBackend(), lambda: bp.Sequential(bp.Dense(6, 3), Odd()), capture="on")
    x, y = batches(1)[0]
    trainer.step(x, y)
    with pytest.raises(bp.StateError, match="cannot be one graph, because .* that no kernel made"):
        trainer.step(x, y)


def test_without_memory_for_a_proof_steps_are_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Planner) -> Any:
        raise MemoryError("5 GiB")

    monkeypatch.setattr(Planner, "_snapshot", no_memory)
    trainer, eager = made("numpy"), made("numpy", plan=False)
    assert steps(trainer) == steps(eager)
    assert "eager, because there is no memory to prove a plan with: 5 GiB" in trainer.plan_report()


# --- what is asked for ---


def test_off_records_nothing() -> None:
    backend = AbleBackend()
    trainer = made(backend, capture="off")
    steps(trainer)
    assert backend.captures == []
    assert "captured" not in trainer.plan_report()
    assert trainer.plan_report().count("planned, ") == 2


def test_on_needs_a_backend_that_can() -> None:
    with pytest.raises(
        bp.ConfigError,
        match="Trainer: capture='on' needs a backend that can record a step as one graph, as 'cupy' can; "
        "'numpy' cannot. Leave capture='auto'",
    ):
        made("numpy", capture="on")
    trainer = made("numpy")
    trainer.capture = "on"
    x, y = batches(1)[0]
    with pytest.raises(bp.ConfigError, match="'numpy' cannot"):
        trainer.evaluate(x, y)


def test_on_needs_plans() -> None:
    with pytest.raises(bp.StateError, match=r"Trainer\(capture='on'\): a graph is made of a plan, and with plan=False"):
        made(AbleBackend(), capture="on", plan=False)
    trainer = made(AbleBackend(), capture="on")
    trainer.plan = False
    x, y = batches(1)[0]
    before = state(trainer)
    with pytest.raises(bp.StateError, match="with plan=False there is none"):
        trainer.step(x, y)
    assert state(trainer) == before


@pytest.mark.parametrize("wrong", ["of", True, None])
def test_another_word_is_refused(wrong: Any) -> None:
    with pytest.raises(bp.ConfigError, match="Trainer: capture must be one of 'auto', 'on', 'off', got"):
        made("numpy", capture=wrong)
    trainer = made("numpy")
    with pytest.raises(bp.ConfigError, match="capture must be one of"):
        trainer.capture = wrong
    assert trainer.capture == "auto"


# --- copies, moves, tools ---


def test_copies_and_moved_models_have_graphs_of_their_own() -> None:
    backend, other = AbleBackend(), AbleBackend("able:1")
    trainer = made(backend)
    steps(trainer, 6)
    bp.get_backend(other)
    for twin in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert twin._planner is None
        assert twin.capture == "auto"
    trainer.model.to(other)
    steps(trainer, 6)
    assert (len(backend.captures), len(other.captures)) == (2, 2)


def test_the_audit_against_eager_covers_graphs() -> None:
    backend = AbleBackend()
    model = bp.Sequential(bp.Dense(6, 8), bp.Tanh(), bp.Dropout(0.3), bp.Dense(8, 3)).initialize(backend=backend)
    x, y = batches(1)[0]
    found = bp.audit(model, bp.SoftmaxCrossEntropy(), x, y, against="eager")
    assert found.passed, str(found)
    assert len(backend.captures) == 1
    assert backend.replays.count(0) == 4  # the proof, and three steps
    spoiled = AbleBackend("spoiled", spoil=lambda calls: [*calls[:-1], _once(calls[-1])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bp.audit(model, bp.SoftmaxCrossEntropy(), x, y, against="eager", backend=spoiled)
    assert not found.passed


def _once(call: Any) -> Any:
    """Made in the proof alone."""
    done: list[int] = []

    def run() -> None:
        if not done:
            call()
        done.append(1)

    return run


# --- the scope, and the precision in it ---


def test_all_work_of_a_trainer_is_done_in_the_backends_scope() -> None:
    backend = AbleBackend()
    trainer = made(backend)
    x, y = batches(1)[0]
    for work in (
        lambda: trainer.step(x, y),
        lambda: trainer.evaluate(x, y),
        lambda: trainer.predict(x),
        lambda: trainer.fit(x, y, epochs=2, batch_size=4, progress=False),
    ):
        before = len(backend.scopes)
        work()
        assert len(backend.scopes) == before + 1  # a fit enters it once
    with trainer.working():
        before = len(backend.scopes)
        trainer.step(x, y)
        assert len(backend.scopes) == before
    with pytest.raises(bp.ShapeError):
        trainer.step(x[:, :3], y)
    assert backend.depth == 0


def test_the_precision_of_products_is_the_trainers(tmp_path: Path) -> None:
    backend = AbleBackend()
    trainer = made(backend, matmul_precision="tf32")
    x, y = batches(1)[0]
    trainer.step(x, y)
    assert backend.scopes[-1] == "tf32"
    trainer.matmul_precision = "bf16"
    trainer.evaluate(x, y)
    assert backend.scopes[-1] == "bf16"
    trainer.matmul_precision = "tf32"
    trainer.save(tmp_path / "state")
    other = made(backend)
    with pytest.raises(bp.ConfigError, match="matmul_precision: tf32 in the checkpoint, nothing now"):
        other.restore(tmp_path / "state")
    other.matmul_precision = "tf32"
    other.restore(tmp_path / "state")
    assert other.model.store.values.tobytes() == trainer.model.store.values.tobytes()


def test_a_changed_precision_is_planned_and_captured_anew() -> None:
    backend = AbleBackend()
    trainer = made(backend)
    x, y = batches(1)[0]
    for _ in range(3):
        trainer.step(x, y)
    trainer.matmul_precision = "tf32"
    for _ in range(3):
        trainer.step(x, y)
    assert len(backend.captures) == 2


def test_a_precision_is_refused_where_it_is_unknown_or_cannot_be_had() -> None:
    with pytest.raises(bp.ConfigError, match="must be one of 'float32', 'tf32', 'bf16', got 'tf23'; did you"):
        made(AbleBackend(), matmul_precision="tf23")
    with pytest.raises(bp.ConfigError, match="precision='tf32' is for backends .*; 'numpy' computes products in"):
        made("numpy", matmul_precision="tf32")


# --- lack of memory ---


class Hungry(bp.Layer):
    """The identity, which finds no memory when it is told to."""

    def __init__(self) -> None:
        self.when = ""

    def __call__(self, x: Any) -> Any:
        return bp.ops.copy(x)

    def forward(self, x: Any) -> Any:
        y = self(x)
        self.keep(y)
        return self.ask("forward", y)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return self.ask("backward", bp.ops.copy(dy))

    def ask(self, direction: str, large: Any) -> Any:
        if self.when == direction:
            LARGE.append(__import__("weakref").ref(large))
            raise MemoryError("out of memory allocating 1,024 bytes")
        return large


LARGE: list[Any] = []


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("able", [True, False])
def test_lack_of_memory_names_the_layer_and_leaves_all_as_it_was(direction: str, able: bool) -> None:
    def model() -> bp.Layer:
        return bp.Sequential(bp.Dense(6, 8), bp.Residual(bp.Dense(8, 8), Hungry()), bp.Dense(8, 3))

    trainer, untouched = made(AbleBackend() if able else "numpy", model), made("numpy", model)
    x, y = batches(1)[0]
    trainer.step(x, y)
    untouched.step(x, y)
    hungry = trainer.model[1][1]  # type: ignore[index]
    hungry.when = direction
    what = (
        "the device has 5 bytes (out of memory allocating 1,024 bytes)"
        if able
        else "out of memory allocating 1,024 bytes"
    )
    with pytest.raises(bp.OutOfMemoryError) as raised:
        trainer.step(x, y)
    text = str(raised.value)
    assert text.startswith(f"out of memory in ask of Hungry(), layer '1.1' with a batch of 8: {what}. Take")
    assert "micro_batch_size=" in text
    assert isinstance(raised.value, MemoryError)
    assert LARGE.pop()() is None, "the step's arrays are still held"
    hungry.when = ""
    for _ in range(3):
        assert trainer.step(x, y).tobytes() == untouched.step(x, y).tobytes()
    assert state(trainer) == state(untouched)


def test_lack_of_memory_in_the_loss_and_in_a_fit_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = made("numpy")
    x, y = batches(1)[0]

    def none_left(*args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(trainer.loss, "backward", none_left)
    with pytest.raises(bp.OutOfMemoryError, match="out of memory in .* with a batch of 4: the host has no more. Take"):
        trainer.fit(x, y, epochs=1, batch_size=4, progress=False)
    monkeypatch.undo()
    assert np.isfinite(trainer.fit(x, y, epochs=1, batch_size=4, progress=False)["loss"][-1])


# --- batches on their way ---


def mapped(tmp_path: Path) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float64, shape=(50, 6))
    x[...] = rng.normal(size=(50, 6))
    x.flush()
    return np.load(tmp_path / "x.npy", mmap_mode="r"), rng.integers(0, 3, 50)


def test_batches_of_a_memory_map_are_uploaded_and_give_the_same_training(tmp_path: Path) -> None:
    x, y = mapped(tmp_path)
    backend = AbleBackend()

    def fit(where: Any, data: Any) -> tuple[list[float], dict[str, bytes]]:
        trainer = made(where, metrics=[bp.Accuracy()])
        history = trainer.fit(*data, epochs=3, batch_size=8, progress=False, validation_data=data[:2])
        return [*history["loss"], *history["accuracy"], *history["val_loss"]], state(trainer)

    weights = np.linspace(0.5, 1.5, 50)
    assert fit(backend, (x, y)) == fit("numpy", (np.asarray(x), y))
    assert len(backend.uploaders) == 6  # each epoch, and each evaluation
    assert all(each.closed for each in backend.uploaders)
    assert backend.uploaders[0].sent == 7
    trainer = made(backend)
    trainer.fit(x, y, sample_weight=weights, epochs=1, batch_size=8, progress=False)
    plain = made("numpy")
    plain.fit(np.asarray(x), y, sample_weight=weights, epochs=1, batch_size=8, progress=False)
    assert state(trainer) == state(plain)


def test_a_fit_that_ends_early_lets_the_sending_thread_go(tmp_path: Path) -> None:
    import threading

    x, y = mapped(tmp_path)
    backend = AbleBackend()
    trainer = made(backend)
    trainer.fit(
        x, y, epochs=1, batch_size=2, progress=False, callbacks=[bp.callbacks.EveryStep(lambda t: t.stop("enough"))]
    )
    assert backend.uploaders[0].closed
    assert not [each for each in threading.enumerate() if each.name == "bpnet prefetch"]


def test_what_the_sending_thread_finds_is_raised_in_the_fit(tmp_path: Path) -> None:
    x, y = mapped(tmp_path)
    spoiled = np.lib.format.open_memmap(tmp_path / "bad.npy", mode="w+", dtype=np.float64, shape=x.shape)
    spoiled[...] = x
    spoiled[40] = np.nan
    trainer = made(AbleBackend())
    with pytest.raises(bp.DataError, match="x"):
        trainer.fit(spoiled, y, epochs=1, batch_size=8, shuffle=False, progress=False)
    assert np.isfinite(trainer.step(np.asarray(x[:8]), y[:8]))
