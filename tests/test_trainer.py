"""The Trainer: fit, evaluate, predict, history, interruption, and the same training on every backend."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pytest
import strict_backend

import bpnet as bp


def digits_trainer(seed: int = 0, backend: Any = None, **settings: Any) -> bp.Trainer:
    model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dropout(0.1), bp.Dense(32, 10))
    return bp.Trainer(
        model,
        bp.SoftmaxCrossEntropy(),
        bp.Adam(3e-3),
        metrics=[bp.Accuracy()],
        seed=seed,
        backend=backend,
        **settings,
    )


def test_digits_learn_and_the_history_has_every_number() -> None:
    train, test = bp.data.load("digits")
    trainer = digits_trainer()
    history = trainer.fit(train, validation_data=test, epochs=8, batch_size=64, progress=False)
    assert len(history) == 8
    assert list(history.rows[0]) == [
        "epoch",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
    ]
    assert history["val_accuracy"][-1] > 0.93
    assert history["loss"][-1] < history["loss"][0] / 4
    results = trainer.evaluate(test)
    assert results["accuracy"] == pytest.approx(history["val_accuracy"][-1])
    assert results["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    scores = trainer.predict(test.x)
    assert scores.shape == (len(test), 10)
    assert float(np.mean(scores.argmax(axis=1) == test.y)) == pytest.approx(results["accuracy"])
    with pytest.raises(KeyError, match="there are epoch, loss"):
        history["lr"]


def test_a_history_counts_what_an_eager_loop_would() -> None:
    """Loss and accuracy of an epoch are means over samples, the last partial batch weighing what it holds."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 3, 50)

    def make() -> bp.Trainer:
        model = bp.Sequential(bp.Dense(4, 3))
        return bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), metrics=[bp.Accuracy()], seed=2)

    history = make().fit(x, y, epochs=3, batch_size=16, progress=False)
    trainer = make()
    for epoch in range(3):
        loss = hits = 0.0
        for bx, by in bp.data.batches(bp.Dataset(x, y), 16, seed=2, epoch=epoch):
            hits += float(np.sum(trainer.model(bx).argmax(axis=1) == by))
            loss += float(trainer.step(bx, by)) * len(bx)
        assert history["loss"][epoch] == pytest.approx(loss / 50, rel=1e-6)
        assert history["accuracy"][epoch] == pytest.approx(hits / 50)


def test_one_epoch_of_digits_is_the_same_on_every_backend(backend: bp.Backend) -> None:
    train, _ = bp.data.load("digits")

    def losses(chosen: Any) -> tuple[list[float], bytes]:
        trainer = digits_trainer(seed=5, backend=chosen)
        start = b"".join(bp.to_numpy(p.value).tobytes() for p in trainer.model.parameters().values())
        order = bp.data.batches(train, 64, seed=5, epoch=0)
        return [float(bp.to_numpy(trainer.step(x, y))) for x, y in order], start

    found, weights = losses(backend)
    expected, expected_weights = losses("numpy")
    assert weights == expected_weights
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_training_and_another_another() -> None:
    train, _ = bp.data.load("digits")

    def values(seed: int) -> bytes:
        trainer = digits_trainer(seed)
        trainer.fit(train, epochs=2, batch_size=100, progress=False)
        return bytes(trainer.model.store.values.tobytes())

    assert values(1) == values(1)
    assert values(1) != values(2)


def test_fit_goes_on_where_it_stopped() -> None:
    train, _ = bp.data.load("digits")
    whole, parts = digits_trainer(), digits_trainer()
    whole.fit(train, epochs=4, batch_size=100, progress=False)
    for _ in range(2):
        history = parts.fit(train, epochs=2, batch_size=100, progress=False)
    assert history["epoch"] == [3.0, 4.0]
    assert whole.model.store.values.tobytes() == parts.model.store.values.tobytes()


def test_regression_with_lists_and_values_of_other_dtypes() -> None:
    x = [[i / 10] for i in range(20)]
    y = [[3 * i / 10 - 1] for i in range(20)]
    trainer = bp.Trainer(bp.Dense(1, 1), bp.MeanSquaredError(), bp.SGD(0.2, momentum=0.9), seed=0)
    history = trainer.fit(x, y, epochs=200, batch_size=7, progress=False)
    assert history["loss"][-1] < 1e-8
    assert type(trainer.predict(x)) is np.ndarray
    np.testing.assert_allclose(trainer.predict([[10.0]]), [[29.0]], rtol=1e-3)
    integers = np.arange(20).reshape(20, 1)
    trainer.fit(integers, 3 * integers - 1, epochs=1, progress=False)  # integers become the model's floats


def test_binary_accuracy_on_logits_and_on_probabilities() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = (x[:, :1] > x[:, 1:]).astype(np.float64)
    for layers, from_logits in (((), True), ((bp.Sigmoid(),), False)):
        model = bp.Sequential(bp.Dense(2, 1), *layers)
        loss = bp.BinaryCrossEntropy(from_logits=from_logits)
        metric = bp.BinaryAccuracy(from_logits=from_logits)
        trainer = bp.Trainer(model, loss, bp.Adam(0.1), metrics=[metric], seed=0)
        trainer.fit(x, y, epochs=40, batch_size=50, progress=False)
        assert trainer.evaluate(x, y)["accuracy"] > 0.97


def test_predict_gives_back_the_callers_kind_of_array() -> None:
    trainer = digits_trainer()
    host = np.random.default_rng(0).uniform(size=(300, 64))
    expected = trainer.predict(host)
    assert type(expected) is np.ndarray
    strict = strict_backend.strict
    found = trainer.predict(strict.asarray(host))
    assert type(found).__module__.startswith("array_api_strict")
    np.testing.assert_array_equal(np.asarray(found), expected)
    on_strict = digits_trainer(backend="strict")
    assert type(on_strict.predict(host)) is np.ndarray
    there = on_strict.predict(strict.asarray(host))
    np.testing.assert_allclose(np.asarray(there), expected, rtol=1e-5, atol=1e-6)


def test_data_of_another_library_is_moved_and_cast() -> None:
    strict = strict_backend.strict
    train, test = bp.data.load("digits")
    trainer = digits_trainer(backend="strict:device1")
    x, y = strict.asarray(train.x[:128].astype(np.float64)), strict.asarray(train.y[:128].astype(np.int32))
    trainer.fit(x, y, validation_data=(test.x[:50], test.y[:50].tolist()), epochs=1, progress=False)
    reference = digits_trainer()
    reference.fit(x, y, epochs=1, progress=False)
    np.testing.assert_allclose(
        bp.to_numpy(trainer.model.store.values), reference.model.store.values, rtol=1e-3, atol=1e-6
    )


def test_a_memory_map_is_read_batch_by_batch(tmp_path: Any) -> None:
    train, _ = bp.data.load("digits")
    np.save(tmp_path / "x.npy", train.x)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    mapped, whole = digits_trainer(), digits_trainer()
    mapped.fit(x, train.y, epochs=1, progress=False)
    whole.fit(train.x, train.y, epochs=1, progress=False)
    assert mapped.model.store.values.tobytes() == whole.model.store.values.tobytes()
    assert type(mapped.predict(x)) in (np.ndarray, np.memmap)


def test_eight_threads_share_one_model_for_inference() -> None:
    model = bp.Sequential(bp.Dense(64, 128), bp.ReLU(), bp.Dropout(0.5), bp.Dense(128, 10)).initialize(seed=1)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(n + 1, 64)).astype(np.float32) for n in range(8)]
    expected = [model(x).tobytes() for x in inputs]
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def work(i: int) -> None:
        barrier.wait()
        for _ in range(200):
            if model(inputs[i]).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_lines_are_printed_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = bp.data.load("digits")
    digits_trainer().fit(train, validation_data=test, epochs=2, batch_size=256)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    number = r"\d\.\d{4}"
    numbers = f"loss {number}  accuracy {number}  val_loss {number}  val_accuracy {number}"
    assert re.fullmatch(rf"epoch 1/2  {numbers}  \d+\.\d\d s", lines[0])
    digits_trainer().fit(train, epochs=1, progress=False)
    assert capsys.readouterr().out == ""


def test_a_bar_is_drawn_on_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    code = """
        import bpnet as bp
        train, test = bp.data.load("digits")
        trainer = bp.Trainer(bp.Dense(64, 10), bp.SoftmaxCrossEntropy(), bp.Adam(), seed=0)
        trainer.fit(train, epochs=3, batch_size=64)
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(ours)
    assert process.wait() == 0
    assert b"epoch 3/3" in output
    assert b"69/69" in output


INTERRUPTED = """
    import os, signal, threading
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    import numpy as np
    import bpnet as bp
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5000, 64)).astype(np.float32), rng.integers(0, 10, 5000)
    model = bp.Sequential(bp.Dense(64, 64), bp.ReLU(), bp.Dense(64, 10))
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(), seed=0)
    trainer.fit(x[:8], y[:8], epochs=0, progress=False)  # what is loaded when something is first computed
    bp.ops.relu(x[:1])
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    history = trainer.fit(x, y, epochs=100000, batch_size=8, progress=False)
    steps = int(model.store.counters[0])
    again = bp.Trainer(bp.Sequential(bp.Dense(64, 64), bp.ReLU(), bp.Dense(64, 10)),
                       bp.SoftmaxCrossEntropy(), bp.Adam(), seed=0)
    done = 0
    for epoch in range(100000):
        for bx, by in bp.data.batches(bp.Dataset(x, y), 8, seed=0, epoch=epoch):
            if done < steps:
                again.step(bx, by)
                done += 1
        if done == steps:
            break
    print("whole:", model.store.values.tobytes() == again.model.store.values.tobytes(), history.interrupted)
"""


def test_ctrl_c_takes_effect_at_the_end_of_a_step_and_leaves_whole_parameters() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"interrupted after \d+ complete epochs; the parameters are whole, as after step \d+", done.stdout)
    assert "whole: True True" in done.stdout


def test_the_interrupt_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    train, _ = bp.data.load("digits")
    digits_trainer().fit(train, epochs=1, progress=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fit_outside_the_main_thread_works() -> None:
    train, _ = bp.data.load("digits")
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(len(digits_trainer().fit(train, epochs=1, progress=False))))
    thread.start()
    thread.join()
    assert results == [1]


def test_two_trainers_may_plan_in_two_threads() -> None:
    train, _ = bp.data.load("digits")
    expected = digits_trainer(3)
    expected.fit(train, epochs=2, progress=False)
    found: list[bytes] = []

    def work() -> None:
        trainer = digits_trainer(3)
        trainer.fit(train, epochs=2, progress=False)
        found.append(trainer.model.store.values.tobytes())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected.model.store.values.tobytes()] * 3


@pytest.mark.parametrize("plan", [True, False])
def test_a_loss_that_is_not_finite_stops_the_fit_with_the_last_good_parameters(plan: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = np.full((64, 1), 1e30, np.float32)  # finite, but its square is not
    trainer = bp.Trainer(bp.Dense(4, 1), bp.MeanSquaredError(), bp.Adam(0.1), seed=0, plan=plan)
    before = trainer.model.store.values.tobytes()
    with pytest.raises(bp.NonFiniteError, match="in step 1 .epoch 1.*after step 0"):
        trainer.fit(x, y, epochs=5, batch_size=16, progress=False)
    assert trainer.model.store.values.tobytes() == before
    history = trainer.fit(x, np.ones((64, 1)), epochs=1, progress=False)  # and it is usable
    assert np.isfinite(history["loss"][0])
    assert trainer.model.store.values.tobytes() != before


def test_evaluating_and_predicting_change_nothing() -> None:
    train, test = bp.data.load("digits")
    trainer = digits_trainer()
    trainer.fit(train, epochs=1, progress=False)
    before = {name: array.tobytes() for name, array in trainer.model.store.arrays().items()}
    trainer.evaluate(test)
    trainer.predict(test.x)
    trainer.model(test.x)
    trainer.model.summary((64,))
    assert {name: array.tobytes() for name, array in trainer.model.store.arrays().items()} == before


def test_a_model_may_be_moved_between_two_fits() -> None:
    train, test = bp.data.load("digits")
    trainer, stays = digits_trainer(), digits_trainer()
    for place in ("numpy", "strict", "strict:device1", "numpy"):
        trainer.model.to(place)
        history = trainer.fit(train.x[:200], train.y[:200], validation_data=test, epochs=1, progress=False)
        expected = stays.fit(train.x[:200], train.y[:200], validation_data=test, epochs=1, progress=False)
        assert history["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-3)


class Failing(bp.Layer):
    """Raises in the backward that it is told to."""

    def __init__(self, at: int) -> None:
        self._at, self._n = at, 0

    def __call__(self, x: Any) -> Any:
        return x

    def forward(self, x: Any) -> Any:
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self._n += 1
        if self._n == self._at:
            raise KeyboardInterrupt
        return dy


@pytest.mark.parametrize("plan", [True, False])
def test_a_step_that_is_broken_off_leaves_no_gradient_behind(plan: bool) -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(4)]

    def run(at: int, skip: int) -> bytes:
        model = bp.Sequential(bp.Dense(4, 5), Failing(at), bp.Dropout(0.5), bp.Dense(5, 3))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.1), seed=0, plan=plan)
        for i, (x, y) in enumerate(data):
            if i == skip:
                continue
            if i == at - 1:
                with pytest.raises(KeyboardInterrupt):
                    trainer.step(x, y)
            else:
                trainer.step(x, y)
        assert not model.store.filled
        return bytes(model.store.values.tobytes())

    assert run(at=2, skip=-1) == run(at=99, skip=1)  # as if the broken batch had never been there


@pytest.mark.parametrize("plan", [True, False])
def test_a_nan_in_one_step_changes_nothing_and_the_next_step_trains(plan: bool) -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(8)]

    def run(bad: int) -> tuple[bytes, list[bool]]:
        model = bp.Sequential(bp.Dense(4, 5), bp.Dropout(0.5), bp.Dense(5, 3))
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(0.1), seed=0, plan=plan)
        finite = []
        for i, (x, y) in enumerate(data):
            x = np.full_like(x, np.nan) if i == bad else x
            if bad < 0 and i == 5:
                continue
            finite.append(bool(np.isfinite(trainer.step(x, y))))
        return bytes(model.store.values.tobytes()), finite

    values, finite = run(bad=5)
    assert finite == [True] * 5 + [False] + [True] * 2
    assert values == run(bad=-1)[0]


def test_a_fit_after_a_fit_that_failed_starts_with_a_clean_flag() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4))
    trainer = bp.Trainer(bp.Dense(4, 1), bp.MeanSquaredError(), bp.SGD(0.1), seed=0)
    trainer.model.store.ok[...] = False
    assert len(trainer.fit(x, x[:, :1], epochs=2, progress=False)) == 2


def test_floating_point_errors_set_to_raise_do_not_end_a_fit() -> None:
    train, test = bp.data.load("digits")
    with np.errstate(all="raise"):
        history = digits_trainer().fit(train, validation_data=test, epochs=2, progress=False)
    assert len(history) == 2


def test_a_history_is_a_table_by_column() -> None:
    train, _ = bp.data.load("digits")
    history = digits_trainer().fit(train, epochs=2, progress=False)
    assert list(dict(history)) == ["epoch", "loss", "accuracy", "learning_rate", "seconds"]
    assert dict(history)["epoch"] == [1.0, 2.0]
    with pytest.raises(TypeError, match="the epochs are in history.rows"):
        history[0]  # type: ignore[index]


def test_a_fit_without_any_standard_output_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = bp.data.load("digits")
    monkeypatch.setattr(sys, "stdout", None)
    assert len(digits_trainer().fit(train, epochs=1)) == 1


def test_predict_takes_a_dataset_and_the_trainer_shows_itself() -> None:
    _, test = bp.data.load("digits")
    trainer = digits_trainer()
    assert np.array_equal(trainer.predict(test), trainer.predict(test.x))
    assert repr(trainer).startswith(
        "Trainer(Sequential(Dense(64, 32), ReLU(), Dropout(0.1), Dense(32, 10)), SoftmaxCross"
    )
