"""What one output of one layer is made of: the terms of its sum, and the local derivative by each of their factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.explain.parts import Factor, Row, Term, plain
from bpnet.explain.record import Call, Record
from bpnet.layers import (
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LogSoftmax,
    Normalize,
    PReLU,
    ReLU,
    Residual,
    Softmax,
)
from bpnet.layers.activations import Activation

Index = tuple[int, ...]


def has_terms(call: Call) -> bool:
    """Whether the layer says what its outputs are made of."""
    return callable(getattr(call.layer, "explain_terms", None))


def is_elementwise(call: Call) -> bool:
    """Whether every output depends on one input, at the same place or, behind Flatten, on the same count."""
    layer = call.layer
    if has_terms(call):
        return False
    if isinstance(layer, Activation):
        return layer.pair[0].elementwise
    return isinstance(layer, (Dropout, PReLU, Normalize, Flatten))


def is_chained(call: Call) -> bool:
    """Whether the layer is drawn as a node behind another one; softmax mixes, but keeps the places."""
    return is_elementwise(call) or isinstance(call.layer, (Softmax, LogSoftmax))


def kind_of(call: Call) -> str:
    """A short name for the drawing: "ReLU"."""
    return type(call.layer).__name__


def index_of(array: Any, neuron: int) -> Index:
    """The index in one sample's array of its `neuron`-th element."""
    return tuple(int(i) for i in np.unravel_index(neuron, array.shape[1:])) if array.ndim > 1 else ()


def local_of(record: Record, call: Call) -> Any:
    """The local derivative of an elementwise layer everywhere: its own backward of ones."""
    found: Any = vars(call).get("_local")
    if found is None:
        found = vars(call)["_local"] = record.probe(call, np.ones_like(call.y)).reshape(call.y.shape)
    return found


def chain_rows(record: Record, call: Call, sample: int, index: Index) -> tuple[Row, ...]:
    """The rows whose products are the gradient of the input at `index`, of a chained layer."""
    upstream = call.dy[sample]
    if is_elementwise(call):
        local = local_of(record, call)[sample][index]
        up = upstream[index]
        return (Row("", float(local), float(up), float(local * up)),)
    y = call.y[sample]
    row, at = y[index[:-1]], index[-1]
    p = np.exp(row) if isinstance(call.layer, LogSoftmax) else row
    onehot = np.zeros_like(p)
    onehot[at] = 1
    local = onehot - p[at] if isinstance(call.layer, LogSoftmax) else p * (onehot - p[at])
    up = upstream[index[:-1]]
    letter = "log p" if isinstance(call.layer, LogSoftmax) else "p"
    return tuple(Row(f"{letter}[{k}]", float(local[k]), float(up[k]), float(local[k] * up[k])) for k in range(len(p)))


def words_of(call: Call, z: float, y: float, local: float) -> tuple[str, str]:
    """(forward, backward) of an elementwise layer at one place, in words."""
    layer, name, into, out, slope = call.layer, kind_of(call), plain(z), plain(y), plain(local)
    pass_on = f"The local derivative of {name} is {slope}."
    if isinstance(layer, ReLU):
        if z > 0:
            return f"ReLU keeps what is above 0: max({into}, 0) = {out}.", (
                f"{into} is above 0, so the local derivative of ReLU is 1: the gradient passes."
            )
        return f"ReLU makes 0 of what is not above 0: max({into}, 0) = {out}.", (
            f"{into} is not above 0, so the local derivative of ReLU is 0: the gradient stops here."
        )
    if isinstance(layer, Dropout):
        if local:
            return f"Dropout keeps this one and scales it by {slope}: {out}.", (
                f"What dropout kept gets the gradient times the same {slope}."
            )
        return f"Dropout sets {into} to 0 in this step.", "What dropout has set to 0 gets no gradient."
    if isinstance(layer, Flatten):
        return f"Flatten gives {out} another place, nothing else.", "Flatten gives the gradient its old place."
    if isinstance(layer, Normalize):
        return f"Normalize takes the mean away and divides by the standard deviation: {out}.", (
            f"The local derivative of Normalize is 1 / std = {slope}."
        )
    if name in ("Sigmoid", "Tanh"):
        rule = "y (1 - y)" if name == "Sigmoid" else "1 - y^2"
        full = (
            f" It is saturated: its greatest slope is {0.25 if name == 'Sigmoid' else 1}." if abs(local) < 1e-3 else ""
        )
        return f"{name}({into}) = {out}.", f"The local derivative of {name} is {rule} = {slope}.{full}"
    return f"{name}({into}) = {out}.", pass_on


def terms_of(record: Record, call: Call, sample: int, index: Index) -> list[Term]:
    """The terms of the output at `index` of one sample, without gradients. See `explain_terms`."""
    layer = call.layer
    x, y = call.x[sample], call.y[sample]
    if has_terms(call):
        return list(layer.explain_terms(x, y, index))  # type: ignore[attr-defined]
    if isinstance(layer, Dense):
        return _dense(layer, record, call, x, index)
    if isinstance(layer, Embedding):  # the number that was looked up; the id itself has no derivative
        place = (int(x[index[:-1]]), index[-1])
        return [Term("", float(y[index]), (Factor("weight", place, float(y[index]), 1.0),))]
    if isinstance(layer, Residual):
        inner = record.calls[call.inner[-1]].y[sample][index] if call.inner else x[index]
        return [
            Term("", float(x[index]), (Factor("x", index, float(x[index]), 1.0),)),
            Term("", float(inner), (Factor("f(x)", index, float(inner), 1.0),)),
        ]
    if isinstance(layer, Concatenate):
        return [_joined(layer, record, call, sample, index)]
    return _box(record, call, sample, index)


def _dense(layer: Dense, record: Record, call: Call, x: Any, index: Index) -> list[Term]:
    W = record.parameters[layer.weight.path]
    j = index[-1]
    row = x[index[:-1]]
    found = [
        Term("mul", float(row[i] * W[i, j]),
             (Factor("x", (*index[:-1], i), float(row[i]), float(W[i, j])),
              Factor("weight", (i, j), float(W[i, j]), float(row[i]))))
        for i in range(layer.n_in)
    ]  # fmt: skip
    if layer.bias is not None:
        b = float(record.parameters[layer.bias.path][j])
        found.append(Term("", b, (Factor("bias", (j,), b, 1.0),)))
    return found


def _joined(layer: Concatenate, record: Record, call: Call, sample: int, index: Index) -> Term:
    """The branch that an output of Concatenate comes from."""
    axis = layer.axis % call.y.ndim - 1  # of one sample
    value = float(call.y[sample][index])
    start = 0
    for number, inner in enumerate(call.inner):
        size = record.calls[inner].y.shape[axis + 1]
        if axis < 0 or index[axis] < start + size:
            place = index if axis < 0 else (*index[:axis], index[axis] - start, *index[axis + 1 :])
            return Term("", value, (Factor(f"branch {number}", place, value, 1.0),))
        start += size
    return Term("", value, (Factor("branch", index, value, 1.0),))


def _box(record: Record, call: Call, sample: int, index: Index) -> list[Term]:
    """A layer of which no more is known: the derivative of one output by every input, from the layer's own backward."""
    one = np.zeros_like(call.y)
    one[(sample, *index)] = 1
    jacobian = record.probe(call, one)[sample]
    x = call.x[sample]
    places = [index_of(call.x, i) for i in range(x.size)]
    return [Term("", float(x[at]), (Factor("x", at, float(x[at]), float(jacobian[at])),)) for at in places]
