"""What a wrong gradient might be instead: the usual mistakes of backward passes written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.auditing.gradients import Case

APART = 1e-4
COLUMNS = 24  # of a large Jacobian that backward is asked for


def of_layer_input(case: Case) -> dict[str, Any]:
    """What a wrong dx might be. Arrays are compared with it; None stands for what is known to be so."""
    found = of_parameter(case)
    same = case.x.shape == case.y.shape
    dy = np.ravel(case.dy)
    if same:
        found["is dy itself: the layer's derivative is missing"] = dy[case.elements]
        found["lacks dy: a path that passes x on, as in y = x + f(x), is missing"] = case.expected - dy[case.elements]
    if not same:
        return found
    J = case.jacobian
    once = case.along(case.dy)
    if case.whole:
        found["has the layer's derivative in it twice"] = J @ (J @ dy)
    else:  # of a Jacobian that is its own transpose, as of every activation and of softmax
        found["has the layer's derivative in it twice"] = case.along(once)[case.elements]
    found["is dy times the Jacobian's transpose: W stands in the place of W.T, or the reverse"] = once[case.elements]
    for name, point in (("y", case.y), ("dy", case.dy), ("-x", -case.x)):
        text = f"is the derivative at {name}, not at x" + (": its branches are swapped" if name == "-x" else "")
        found[text] = case.jacobian_at(np.asarray(point)) @ dy
    own = np.arange(len(case.elements)), case.elements  # where an output depends on the input at its own place
    others = J.copy()
    others[own] = 0.0
    if np.max(np.abs(others), initial=0.0) <= 1e-7 * np.max(np.abs(J)):
        text = wrong_branch(case.found / dy[case.elements], J[own], np.ravel(case.x)[case.elements], "x")
        if text:
            found[text] = None
    elif case.x.ndim >= 2 and (text := wrong_axis(case)):
        found[text] = None
    return found


def of_parameter(case: Case) -> dict[str, Any]:
    """What a wrong gradient of a parameter might be."""
    dy = np.asarray(case.dy)
    found = {"is the local derivative alone: dy is not in it": case.jacobian @ np.ones(dy.size)}
    if dy.ndim and dy.shape[0] > 1:
        first = np.zeros_like(dy)
        first[:1] = dy[:1]
        found["is that of the first row of dy only: the other samples are missing"] = case.jacobian @ np.ravel(first)
    size = case.x.size
    if case.x.ndim == 1 and dy.ndim > 1 and dy.size and dy.shape.count(size) > 1:
        # where every output depends on one element, as of a bias or a gain, this is what each adds to its gradient
        each = (case.along(np.ones(size)) * np.ravel(dy)).reshape(dy.shape)
        for axis in range(dy.ndim):
            if dy.shape[axis] == size:
                others = tuple(a for a in range(dy.ndim) if a != axis)
                found[f"is summed over all axes but {axis}: over the wrong axis"] = each.sum(axis=others)[case.elements]
    return found


def of_prediction(case: Case, target: Any) -> dict[str, Any]:
    """What a wrong derivative of a loss might be, by its prediction, of shape (N, ...)."""
    found: dict[str, Any] = {}
    prediction = case.x
    rows = _whole_rows(case)
    if rows is not None:
        p, text = rows, "has the softmax's derivative in it, which the Softmax layer applies: it is applied twice"
        if not np.allclose(np.sum(p, axis=-1), 1.0, atol=1e-2) or np.any(p < 0):
            e = np.exp(rows - np.max(rows, axis=-1, keepdims=True))
            p, text = e / np.sum(e, axis=-1, keepdims=True), "has the softmax's derivative in it twice"
        d = np.reshape(case.expected, rows.shape)
        found[text] = np.ravel(p * (d - np.sum(p * d, axis=-1, keepdims=True)))
    if getattr(target, "shape", None) == prediction.shape:
        residual = np.ravel(prediction - target)[case.elements]
        found["is the residual's own derivative: the sign of the residual is missing"] = np.abs(case.expected)
        ratio = np.divide(case.found, case.expected, out=np.ones_like(case.found), where=case.expected != 0)
        if branch := wrong_branch(ratio, np.ones_like(ratio), residual, "prediction - target"):
            found[branch] = None
    return found


def _whole_rows(case: Case) -> Any:
    """The elements that were looked at as rows of the last axis, (M, C); None where they are none."""
    x = case.x
    if x.ndim < 2:
        return None
    if case.patch is None:
        return x.reshape(-1, x.shape[-1])
    rows, columns = case.patch
    whole = len(columns) == x.size // x.shape[0]
    return x.reshape(x.shape[0], -1)[rows].reshape(-1, x.shape[-1]) if whole else None


def wrong_branch(found: Any, expected: Any, at: Any, name: str) -> str:
    """What is wrong where slopes are right on one side of a threshold of `at`, or of its size, and wrong beyond."""
    wrong = np.abs(found - expected) > APART * np.max(np.abs(expected), initial=0.0)
    if wrong.size < 4 or np.all(wrong) or not np.any(wrong):
        return ""
    for values, label in ((at, name), (np.abs(at), f"|{name}|")):
        bad, good = values[wrong], values[~wrong]
        if np.min(bad) > np.max(good):
            sign, edge, last = ">=", np.min(bad), np.max(good)
        elif np.max(bad) < np.min(good):
            sign, edge, last = "<=", np.max(bad), np.min(good)
        else:
            continue
        other = "<=" if sign == ">=" else ">="
        return (
            f"is wrong where {label} {sign} {edge:.3g} and right where {label} {other} {last:.3g}: the derivative of "
            "the wrong branch"
        )
    return ""


def wrong_axis(case: Case) -> str:
    """What is wrong where the layer mixes elements along one axis, and its gradient along another."""
    shape = case.x.shape
    elements = case.elements if case.whole else case.elements[:: max(1, len(case.elements) // COLUMNS)]
    columns = []
    for index in elements:
        unit = np.zeros(case.y.size)
        unit[index] = 1.0
        columns.append(np.ravel(case.backward(case.x, unit.reshape(case.y.shape))))
    right = _mixed_axes(case.jacobian, shape, case.elements, np.arange(case.y.size))
    computed = _mixed_axes(np.array(columns).T, shape, np.arange(case.x.size), elements)
    if computed - right:
        return (
            f"mixes elements along axis {_listed(computed)}, where the layer's output mixes those along axis "
            f"{_listed(right)}: a sum or mean is taken over the wrong axis"
        )
    if right - computed:
        return (
            f"does not mix elements along axis {_listed(right - computed)}, as the layer's output does: the derivative "
            "of a sum or mean is missing"
        )
    return ""


def _mixed_axes(J: Any, shape: tuple[int, ...], rows: Any, columns: Any) -> set[int]:
    """The axes along which an output depends on other elements than its own.

    J : (inputs, outputs), of the elements that `rows` and `columns` number
    """
    linked = np.argwhere(np.abs(J) > 1e-6 * np.max(np.abs(J), initial=0.0))
    if not len(linked):
        return set()
    inputs = np.array(np.unravel_index(rows[linked[:, 0]], shape))
    outputs = np.array(np.unravel_index(columns[linked[:, 1]], shape))
    return {axis for axis in range(len(shape)) if np.any(inputs[axis] != outputs[axis])}


def _listed(axes: set[int]) -> str:
    return " and ".join(map(str, sorted(axes))) or "none"
