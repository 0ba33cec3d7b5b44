"""What operations cost: declared formulas against counting arrays, against formulas of the literature, and by layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import bpnet as bp
from bpnet.dispatch import Kernel, kernel, kernels
from bpnet.door import Door
from bpnet.ops.costs import Cost, kernel_cost, kernel_flops, n_bytes
from bpnet.step import Step
from bpnet.testing.cases import CASES
from bpnet.testing.counting import count_flops
from bpnet.trace import Trace, Value, flat, is_array, mapped

SHIPPED = [k for k in kernels() if k.__module__.startswith("bpnet.")]
SINGLE = 24  # what a call may do with single numbers, such as powers of a step, is that little
every_kernel = pytest.mark.parametrize("op", SHIPPED, ids=lambda k: k.name)


def samples(op: Kernel) -> list[tuple[Any, ...]]:
    return list(CASES[op.name](np.random.default_rng(0), "float32"))


@every_kernel
def test_the_declared_operations_are_those_that_the_reference_makes(op: Kernel) -> None:
    """Of every sample, to the last element; only single numbers, a few a call, are left out."""
    assert op.flops is not None, f"say what {op.name} costs: @kernel(flops=...)"
    for args in samples(op):
        declared, counted = kernel_flops(op, args), count_flops(op.reference.body, copy.deepcopy(args))
        shapes = [getattr(arg, "shape", arg) for arg in args]
        at_most = counted.arrays + counted.numbers
        assert counted.arrays <= declared <= at_most, f"{op.name}{shapes}: declared {declared}, {counted}"
        assert counted.numbers <= SINGLE or not any(getattr(arg, "size", 0) > SINGLE for arg in args)


@every_kernel
def test_what_a_kernel_writes_into_is_what_it_says(op: Kernel) -> None:
    written: set[int] = set()
    for args in samples(op):
        own = copy.deepcopy(args)
        with np.errstate(all="ignore"):
            op.reference.body(*own)
        changed = {
            place
            for place, (before, after) in enumerate(zip(args, own, strict=True))
            if isinstance(before, np.ndarray) and before.tobytes() != after.tobytes()
        }
        assert changed <= set(op.writes), f"{op.name} wrote into arguments {changed}, and says {op.writes}"
        written |= changed
    assert written == set(op.writes)


@every_kernel
def test_what_a_kernel_does_not_read_may_hold_anything(op: Kernel) -> None:
    for args in samples(op):
        unread = op.unread(*args) if callable(op.unread) else op.unread
        if not unread:
            continue
        own, poisoned = copy.deepcopy(args), list(copy.deepcopy(args))
        for place in unread:
            poisoned[place][...] = np.nan if poisoned[place].dtype.kind == "f" else 0x7FC0  # bits of a NaN
        with np.errstate(all="ignore"):
            expected, found = op.reference.body(*own), op.reference.body(*poisoned)
        for a, b in zip(flat((expected, own[: len(op.writes)])), flat((found, tuple(poisoned[: len(op.writes)]))),
                        strict=True):  # fmt: skip
            assert not isinstance(a, np.ndarray) or a.tobytes() == b.tobytes()


def test_the_cost_depends_on_shapes_alone() -> None:
    """Values of a trace, of which nothing is known but shape and dtype, cost what the arrays do."""
    for op in SHIPPED:
        for args in samples(op):
            stands = mapped(lambda each: Value(0, each.shape, str(each.dtype)) if is_array(each) else each, args)
            own = copy.deepcopy(args)
            with np.errstate(all="ignore"):
                out = op.reference.body(*own)
            result = mapped(lambda each: Value(0, each.shape, str(each.dtype)) if is_array(each) else each, out)
            assert kernel_cost(op, stands, result) == kernel_cost(op, args, out), op.name


N, I, O = 7, 5, 3  # noqa: E741
X, W, B = np.zeros((N, I), np.float32), np.zeros((I, O), np.float32), np.zeros(O, np.float32)
DY = np.zeros((N, O), np.float32)


@pytest.mark.parametrize(
    ("call", "flops", "n_numbers"),
    [
        ((bp.ops.linear, X, W, B), 2 * N * I * O + N * O, N * I + I * O + O + N * O),
        ((bp.ops.linear, X, W, None), 2 * N * I * O, N * I + I * O + N * O),
        ((bp.ops.linear, X, W, B, bp.ops.tanh), 2 * N * I * O + 2 * N * O, N * I + I * O + O + N * O),
        ((bp.ops.linear_backward, DY, X, W), 4 * N * I * O + N * O, 2 * (N * I + I * O) + N * O + O),
        ((bp.ops.linear_backward, DY, X, W, False), 2 * N * I * O + N * O, N * I + I * O + N * O + O),
        ((bp.ops.linear_backward, DY, X, W, True, False, False), 2 * N * I * O, N * I + I * O + N * O),
        ((bp.ops.relu, X), N * I, 2 * N * I),
        ((bp.ops.reshape, X, (I, N)), 0, 0),
        ((bp.ops.add, X, X), N * I, 3 * N * I),
        ((bp.ops.copy_, np.zeros_like(X), X), 0, 2 * N * I),
        ((bp.ops.add_, np.zeros_like(X), X), N * I, 3 * N * I),
        ((bp.ops.softmax, X), 5 * N * I, 2 * N * I),
    ],
    ids=lambda each: getattr(each[0], "name", "") if isinstance(each, tuple) else str(each),
)
def test_costs_by_hand(call: tuple[Any, ...], flops: int, n_numbers: int) -> None:
    op, *args = call
    assert kernel_cost(op, tuple(args), op(*args)) == Cost(flops, 4 * n_numbers)


def test_costs_add_up_and_have_an_intensity() -> None:
    assert Cost(6, 4) + Cost(2, 4) == Cost(8, 8)
    assert Cost(8, 4).intensity == 2.0
    assert Cost(8, 0).intensity == 0.0
    assert n_bytes((np.zeros(3), np.zeros((2, 2), bool), None, 7, "a", np.zeros(5, np.int16))) == 24 + 4 + 10


def test_adam_reads_four_arrays_and_writes_three() -> None:
    value = np.zeros(1000, np.float32)
    scalars = np.array(True), np.array(0.1), np.array([0, 0])
    args = (value, value.copy(), value.copy(), value.copy(), *scalars, 0.9, 0.999, 1e-8, 0.0)
    assert kernel_cost(bp.ops.adam_, args, None).bytes == 7 * 4000 + 1 + 8 + 16


# --- of a whole step ---


def mlp() -> bp.Sequential:
    return bp.Sequential(
        bp.Dense(6, 8), bp.ReLU(), bp.Residual(bp.Dense(8, 8), bp.Tanh()), bp.Dropout(0.5), bp.Dense(8, 3)
    )


DATA = np.random.default_rng(0).normal(size=(10, 6)), np.arange(10) % 3


def test_a_step_costs_what_its_layers_cost(backend: bp.Backend) -> None:
    model = mlp().initialize(backend=backend)
    report = bp.cost(model, DATA[0], bp.SoftmaxCrossEntropy(), DATA[1], bp.SGD(0.1))
    rows = {row.path: row for row in report.rows}
    assert list(rows) == ["0", "1", "2", "2.0", "2.1", "3", "4", "(loss)", "(optimizer)"]
    assert rows["0"].forward.flops == 10 * (2 * 6 * 8 + 8)
    assert rows["0"].backward.flops == 10 * (2 * 6 * 8 + 8)  # nobody needs its dx
    assert rows["2.0"].backward.flops == 10 * (4 * 8 * 8 + 8)
    assert rows["2"].forward.flops == rows["2"].backward.flops == 80  # what the sum rule adds
    assert (rows["2.1"].forward.flops, rows["2.1"].backward.flops) == (80, 240)
    assert rows["(loss)"].forward.flops == 7 * 30 + 10
    assert rows["(optimizer)"].update.flops == 2 * model.store.size + 0
    assert report.forward.flops == sum(row.forward.flops for row in report.rows)
    assert report.total == report.forward + report.backward + report.update
    assert report.n_samples == 10
    assert report.undeclared == ()


def test_the_cost_is_that_of_the_calls_of_a_trainers_step() -> None:
    """Counted by another way: of the calls that a trace of the Trainer's own step notes."""
    model, loss, optimizer = mlp().initialize(), bp.SoftmaxCrossEntropy(), bp.AdamW(0.01, clip_norm=1.0, average=0.9)
    report = bp.cost(model, DATA[0], loss, DATA[1], optimizer)
    trainer = bp.Trainer(model, loss, optimizer)
    x, y = Door(model, loss, ()).batch(*DATA)
    trace = Trace((x, y), model.store.known_arrays)
    trace.record(lambda: Step(trainer, None, counted=False)(x, y))
    assert trace.refusal == ""
    total = sum((kernel_cost(step.kernel, step.args, step.out) for step in trace.steps), Cost())
    assert total.flops == report.total.flops
    assert 0 <= total.bytes - report.total.bytes <= 16  # the Trainer raises and lowers its flag


def test_counting_changes_nothing(backend: bp.Backend) -> None:
    model, loss, optimizer = mlp().initialize(backend=backend), bp.SoftmaxCrossEntropy(), bp.Adam(0.1)
    before = {name: bp.to_numpy(array).tobytes() for name, array in model.store.arrays().items()}
    bp.cost(model, DATA[0], loss, DATA[1], optimizer)
    assert {name: bp.to_numpy(array).tobytes() for name, array in model.store.arrays().items()} == before
    assert model.store.slots == {}
    assert "forward" not in vars(model[0])
    with pytest.raises(bp.StateError, match="nothing saved"):
        model.backward(bp.to_numpy(model(model.asarray(DATA[0]))))
    with pytest.raises(bp.StateError, match="nothing saved"):
        loss.backward()


def test_weights_penalties_and_sequences_are_counted_too() -> None:
    model = bp.Dense(6, 3, weight_l2=0.1)
    plain = bp.cost(bp.Dense(6, 3), DATA[0], bp.SoftmaxCrossEntropy(), DATA[1])
    weighted = bp.cost(model, DATA[0], bp.SoftmaxCrossEntropy(), DATA[1], sample_weight=np.ones(10))
    assert weighted.forward.flops > plain.forward.flops + 2 * 18
    three = bp.cost(bp.Dense(6, 3), np.zeros((2, 4, 6)))
    assert three.forward.flops == 8 * (2 * 6 * 3 + 3)
    assert three.update == Cost()


def test_the_cost_grows_with_the_batch_and_the_update_does_not() -> None:
    found = [bp.cost(mlp(), DATA[0][:n], bp.SoftmaxCrossEntropy(), DATA[1][:n], bp.Lion(0.1)) for n in (1, 2, 10)]
    assert len({each.update for each in found}) == 1
    assert found[2].forward.flops - found[1].forward.flops == 8 * (found[1].forward.flops - found[0].forward.flops)
    assert found[0].forward.flops == bp.cost(mlp(), DATA[0][:1], bp.SoftmaxCrossEntropy(), DATA[1][:1]).forward.flops


@kernel
def undeclared(x: Any) -> Any:
    return x * 1


class Silent(bp.ReLU):
    def __call__(self, x: Any) -> Any:
        return undeclared(x)


def test_a_kernel_that_does_not_say_what_it_costs_is_named() -> None:
    report = bp.cost(Silent(), np.zeros((4, 2), np.float32))
    assert report.undeclared == ("undeclared",)
    assert report.forward == Cost(0, 2 * 4 * 8)
    assert str(report).splitlines()[-1] == "not declared, and counted as 0: undeclared"
    model = bp.Sequential(bp.Dense(3, 2), Silent())
    text = str(model.summary(3))
    assert "FLOPs per sample" in text.splitlines()[0]
    assert not text.splitlines()[-1].endswith("FLOPs per sample")  # of the whole it is not known


def test_the_report_is_a_table() -> None:
    lines = str(bp.cost(mlp(), DATA[0], bp.SoftmaxCrossEntropy(), DATA[1], bp.SGD(0.1))).splitlines()
    assert lines[0].split("  ")[0] == "path"
    assert "update FLOPs" in lines[0]
    assert lines[2].split()[:4] == ["0", "Dense(6,", "8)", "1,040"]
    assert lines[-1].startswith("total  ")
    assert len({len(line) for line in lines}) == 1
    assert "update" not in str(bp.cost(mlp(), DATA[0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, DATA[0]), bp.ConfigError, "^cost: model must be a Layer, got 3$"),
        ((bp.ReLU, DATA[0]), bp.ConfigError, "model must be a Layer.*write its instance, with parentheses"),
        ((mlp(), DATA[0], bp.MeanSquaredError), bp.ConfigError, "loss must be a Loss.*write its instance"),
        ((mlp(), DATA[0], bp.MeanSquaredError()), bp.ConfigError, "^cost takes a loss together with its targets y$"),
        ((mlp(), DATA[0], None, DATA[1]), bp.ConfigError, "targets y, got no loss$"),
        ((mlp(), DATA[0], None, None, "adam"), bp.ConfigError, "optimizer must be an Optimizer, got 'adam'"),
        ((mlp(), DATA[0][:0]), bp.DataError, r"cost needs at least one sample, got x of shape \(0, 6\)"),
        ((mlp(), DATA[0][:, :2]), bp.ShapeError, r"needs x of shape \(N, 6\), got \(10, 2\)"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bp.cost(*arguments)
    with pytest.raises(bp.ConfigError, match="sample_weight belongs to a loss"):
        bp.cost(mlp(), DATA[0], sample_weight=np.ones(10))


def test_summary_shows_a_layer_that_cannot_run_yet_without_operations() -> None:
    model = bp.Sequential(bp.Normalize(4), bp.Dense(4, 2))
    text = str(model.summary(4)).splitlines()
    assert text[2].split()[-1] == "8"  # its parameters
    assert text[3].endswith("18")
    assert text[-1].endswith("float32 on numpy")
