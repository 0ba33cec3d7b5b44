"""The walk through one scene: what happens in every step, in words with its numbers."""

from __future__ import annotations

from bpnet.explain.parts import Row, Scene, Step, Term, plain
from bpnet.explain.record import Call, Record
from bpnet.layers import Embedding, Residual

SINGLY = 4  # up to so many products have a step each


def walk(scene: Scene, record: Record, is_last: bool, head: Call | None) -> list[Step]:
    """The steps forward, then those backward."""
    return [*_forward(scene, head), *_backward(scene, record, is_last, head)]


def _products(scene: Scene) -> list[int]:
    return [place for place, term in enumerate(scene.terms) if term.op]


def _times(term: Term) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{f.label}" for f in term.factors)


def _numbers(term: Term) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(_bracketed(f.value) for f in term.factors) + f" = {plain(term.value)}"


def _bracketed(number: float) -> str:
    return f"({plain(number)})" if number < 0 else plain(number)


def _forward(scene: Scene, head: Call | None) -> list[Step]:
    found: list[Step] = []
    products = _products(scene)
    if 0 < len(products) <= SINGLY:
        for place in products:
            term = scene.terms[place]
            found.append(Step("forward", term.op, f"m{place}", f"{_times(term)} = {_numbers(term)}."))
    elif products:
        lines = "; ".join(f"{_times(scene.terms[p])} = {_numbers(scene.terms[p])}" for p in products)
        found.append(Step("forward", scene.terms[products[0]].op, "m", f"Every input times its weight: {lines}."))
    value = plain(scene.value)
    if scene.head == "sum":
        parts = [_bracketed(term.value) for term in scene.terms]
        more = ""
        if scene.rest is not None:
            parts.append(_bracketed(scene.rest.value))
            zeros = f", {scene.rest.zeros:.0%} of their inputs are 0" if scene.rest.zeros else ""
            more = f" The last number is the sum of the {scene.rest.count} terms that are not shown{zeros}."
        what = "x and f(x) are added" if head is not None and isinstance(head.layer, Residual) else (
            "The products and the bias are added" if scene.terms[-1].factors[0].name == "bias" else "They are added"
        )  # fmt: skip
        found.append(Step("forward", "sum", "h", f"{what}: {' + '.join(parts)} = {value}.{more}"))
    elif scene.head == "join":
        found.append(
            Step("forward", "join", "h", f"The branches stand side by side; this place is {value}, from "
                 f"{scene.terms[0].factors[0].label}.")
        )  # fmt: skip
    elif head is not None and isinstance(head.layer, Embedding):
        found.append(
            Step("forward", scene.head, "h", f"The id names a row of the table: {scene.terms[0].factors[0].label} is "
                 f"{value}.")
        )  # fmt: skip
    elif scene.head:
        name = head.name if head is not None else scene.head
        many = len(scene.terms) + (scene.rest.count if scene.rest else 0)
        found.append(
            Step("forward", scene.head, "h", f"{name} makes {value} of its {many} inputs. What is in it is not known "
                 "here; its own forward computed this.")
        )  # fmt: skip
    elif not scene.nodes:
        found.append(Step("forward", "input", "h", f"The input is {value}."))
    for place, node in enumerate(scene.nodes):
        found.append(Step("forward", node.op, f"n{place}", node.forward))
    return found


def _backward(scene: Scene, record: Record, is_last: bool, head: Call | None) -> list[Step]:
    end = scene.nodes[-1].gradient if scene.nodes else scene.gradient
    if is_last and record.loss is not None:
        words = "Backward. The derivative of the loss by itself is 1: that is where the chain begins."
    elif is_last:
        source = "it was given as dvalues" if record.is_given else "without a loss or dvalues that is 1"
        words = f"Backward. {plain(end)} arrives at this output: {source}."
    else:
        words = f"Backward. {plain(end)} arrives from the layers behind: the derivative by this output."
    found = [Step("backward", "upstream", "b", words)]
    for place in reversed(range(len(scene.nodes))):
        node = scene.nodes[place]
        found.append(
            Step("backward", node.op, f"bn{place}", _shortened(node.backward, node.rows, node.inner), node.rows)
        )
    up = scene.gradient
    if scene.head == "sum":
        rows = tuple(Row(_name(term), 1.0, up, up) for term in scene.terms)
        found.append(
            Step("backward", "sum", "bh", "The derivative of a sum by any of its terms is 1: the gradient "
                 f"{plain(up)} goes to every term.", rows)
        )  # fmt: skip
    elif scene.head == "join":
        found.append(Step("backward", "join", "bh", f"The gradient {plain(up)} goes to the branch this place is from."))
    elif scene.head:
        rows = tuple(Row(f.label, f.local, up, f.gradient) for term in scene.terms for f in term.factors)
        found.append(
            Step("backward", scene.head, "bh", f"{scene.head}'s own backward says how much this output depends on each "
                 "input: its local derivatives.", rows)
        )  # fmt: skip
    products = _products(scene)
    if 0 < len(products) <= SINGLY:
        for place in products:
            term = scene.terms[place]
            rows = tuple(Row(f.label, f.local, up, f.gradient) for f in term.factors)
            rule = "The derivative of a product by one factor is the other factor"
            if term.op != "mul":
                rule = f"The local derivatives of {term.op}, times what arrives"
            made = "; ".join(
                f"d{f.label} = {_bracketed(f.local)} \N{MULTIPLICATION SIGN} {_bracketed(up)} = {plain(f.gradient)}"
                for f in term.factors
            )
            words = f"{rule}: {made}."
            found.append(Step("backward", term.op, f"bm{place}", words, rows))
    elif products:
        rows = tuple(Row(f.label, f.local, up, f.gradient) for p in products for f in scene.terms[p].factors)
        words = "The derivative of a product by one factor is the other factor, times what arrives."
        found.append(Step("backward", scene.terms[products[0]].op, "bm", words, rows))
    found += _gather(scene, record, head)
    return found


def _shortened(words: str, rows: tuple[Row, ...], total: float) -> str:
    return words if len(rows) == 1 else f"{words} Their sum is {plain(total)}."


def _name(term: Term) -> str:
    return _times(term)


def _gather(scene: Scene, record: Record, head: Call | None) -> list[Step]:
    """What the model has in the end: gradients of inputs over all neurons, of parameters over all samples."""
    if not scene.gathered:
        return []
    by_name: dict[str, list[tuple[str, float]]] = {}
    for label, value in scene.gathered:
        by_name.setdefault(label.partition("[")[0], []).append((label, value))
    parts = []
    for name, pairs in by_name.items():
        values = [value for _, value in pairs]
        if name == "dbias" and len(pairs) == 1:
            parts.append(f"{name} = {plain(values[0])}")
        elif scene.rest is None and len(pairs) == sum(bool(term.op) for term in scene.terms):
            parts.append(f"{name} = [{', '.join(map(plain, values))}]")
        else:
            parts.append(", ".join(f"{label} = {plain(value)}" for label, value in pairs))
    words = f"What the layer's backward returned and accumulated: {', '.join(parts)}."
    if "dx" in by_name and head is not None and head.y.shape[-1] > 1 and len(by_name) > 1:
        words += " An input gets the sum over the neurons it feeds."
    if record.x.shape[0] > 1 and set(by_name) - {"dx"}:
        words += f" Parameters get the sum over all {record.x.shape[0]} samples."
    return [Step("backward", "result", "g", words)]
