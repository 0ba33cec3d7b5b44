"""Whether what is shown is what was computed: every term, product and sum against the layer's own results."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.explain.parts import Scene, plain
from bpnet.explain.record import Call, Record
from bpnet.explain.terms import has_terms, index_of, is_elementwise, local_of
from bpnet.layers import Dense, Residual


def disagreements(record: Record, scenes: list[Scene]) -> list[str]:
    """What does not agree, in words; [] where all does. Rounding of sums in another order is allowed for."""
    found = []
    for call in record.calls:
        found += _of_call(record, call)
    for scene in scenes:
        found += _of_scene(record, scene)
    return list(dict.fromkeys(found))


def _differs(got: Any, expected: Any, slack: Any) -> bool:
    """Whether two results differ by more than `slack` where both are finite."""
    got, expected = np.asarray(got, "float64"), np.asarray(expected, "float64")
    both_finite = np.isfinite(got) & np.isfinite(expected)
    return bool(np.any(both_finite & (np.abs(got - expected) > slack)))


def _slack(record: Record, scale: Any, terms: int) -> Any:
    """What rounding may do to a sum of `terms` numbers whose sizes add up to `scale`."""
    kind = np.finfo(record.dtype)
    return 4 * (terms + 4) * kind.eps * scale + terms * kind.smallest_normal


def _of_call(record: Record, call: Call) -> list[str]:
    where = f"{call.path!r} ({call.name})"
    layer, dx = call.layer, call.dx
    found = []
    with np.errstate(all="ignore"):
        if isinstance(layer, Dense) and not has_terms(call):
            x, dy = (each.reshape(-1, each.shape[-1]).astype("float64") for each in (call.x, call.dy))
            W = record.parameters[layer.weight.path].astype("float64")
            if dx is not None:
                scale = (np.abs(dy) @ np.abs(W).T).reshape(dx.shape)
                if _differs(dx, (dy @ W.T).reshape(dx.shape), _slack(record, scale, layer.n_out)):
                    found.append(f"the dx that {where} returned is not dy W^T")
            expected = [(layer.weight, x.T @ dy, np.abs(x).T @ np.abs(dy))]
            if layer.bias is not None:
                expected.append((layer.bias, dy.sum(axis=0), np.abs(dy).sum(axis=0)))
            for parameter, right, scale in expected:
                got = call.gradients.get(parameter.path)
                if got is not None and _differs(got, right, _slack(record, scale, len(x))):
                    found.append(f"the gradient that {where} gave to {parameter.path!r} is not the sum of its products")
        elif is_elementwise(call) and dx is not None:
            product = (local_of(record, call) * call.dy).reshape(dx.shape)
            if _differs(dx, product, _slack(record, np.abs(product), 8)):
                found.append(f"the dx that {where} returned is not dy times its local derivative")
        elif type(layer) is Residual and dx is not None and call.inner:
            inner = record.calls[call.inner[0]].dx
            if inner is not None and _differs(dx, call.dy + inner, _slack(record, np.abs(call.dy) + np.abs(inner), 2)):
                found.append(f"the dx that {where} returned is not dy plus that of its layers")
    return found


def _of_scene(record: Record, scene: Scene) -> list[str]:
    found = []
    where = f"{scene.path!r}, neuron {scene.neuron}, sample {scene.sample}"
    with np.errstate(all="ignore"):
        if scene.head == "sum":
            values = [term.value for term in scene.terms] + ([scene.rest.value] if scene.rest else [])
            many = len(scene.terms) + (scene.rest.count if scene.rest else 0)
            scale = sum(map(abs, values)) * (1 if scene.rest is None else many)
            if _differs(scene.value, sum(values), _slack(record, scale, many)):
                found.append(
                    f"{where}: the terms add up to {plain(sum(values))}, the layer computed {plain(scene.value)}"
                )
        found += _of_own_terms(record, scene, where)
        for node in scene.nodes:
            total, scale = sum(row.product for row in node.rows), sum(abs(row.product) for row in node.rows)
            if _differs(node.inner, total, _slack(record, scale, 16 + len(node.rows))):
                found.append(
                    f"{where}: local times upstream of {node.op} is {plain(total)}, but its backward gave "
                    f"{plain(node.inner)}"
                )
    return found


def _of_own_terms(record: Record, scene: Scene, where: str) -> list[str]:
    """Whether the derivatives that a layer says of its terms are those that its backward has."""
    call = next((call for call in record.calls if call.path == scene.path), None)
    if call is None or not has_terms(call) or not scene.head or scene.rest is not None:
        return []
    said: dict[tuple[int, ...], float] = {}
    for factor in (f for term in scene.terms for f in term.factors if f.name == "x"):
        said[factor.index] = said.get(factor.index, 0.0) + factor.local
    one = np.zeros_like(call.y)
    one[(scene.sample, *index_of(call.y, scene.neuron))] = 1
    jacobian = record.probe(call, one)[scene.sample]
    return [
        f"{where}: explain_terms says {plain(local)} of the derivative by x{list(at)}, its backward {plain(found)}"
        for at, local in said.items()
        if _differs(found := float(jacobian[at]), local, _slack(record, 16 * (abs(found) + abs(local)), 16))
    ]
