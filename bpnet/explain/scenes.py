"""Which neurons are shown, and the drawing and the walk of each: from its inputs to its output, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpnet.checks import whole
from bpnet.errors import ConfigError, did_you_mean
from bpnet.explain.loss_nodes import loss_nodes
from bpnet.explain.parts import Factor, Node, Rest, Scene, Term, indexed, plain
from bpnet.explain.record import INPUT, Call, Record
from bpnet.explain.steps import walk
from bpnet.explain.terms import (
    chain_rows,
    has_terms,
    index_of,
    is_chained,
    is_elementwise,
    kind_of,
    terms_of,
    words_of,
)
from bpnet.explain.why import Why
from bpnet.layers import Concatenate, Dense, Residual

SAMPLES, NEURONS, TERMS, FEW = 3, 4, 6, 4  # how many are shown where nothing is said; FEW of more than TERMS


class Group:
    """A layer that makes something new, with the elementwise layers behind it.

    head  : the number of its call, or None where the first layer is elementwise: then the group starts at its input
    chain : the numbers of the calls behind it
    """

    def __init__(self, head: int | None, chain: list[int]) -> None:
        self.head = head
        self.chain = chain

    @property
    def calls(self) -> list[int]:
        """All of them, in order."""
        return ([] if self.head is None else [self.head]) + self.chain


def group(record: Record) -> list[Group]:
    """The record's calls in groups. A layer joins the one before it where it alone reads that one's output."""
    readers: dict[int, int] = {}
    for call in record.calls:
        readers[call.source] = readers.get(call.source, 0) + 1
    found: list[Group] = []
    for number, call in enumerate(record.calls):
        follows = found and found[-1].calls[-1] == call.source and readers[call.source] == 1
        if is_chained(call) and (follows or is_elementwise(call)):
            if follows:
                found[-1].chain.append(number)
            else:
                found.append(Group(None, [number]))
        else:
            found.append(Group(number, []))
    return found or [Group(None, [])]


class Choice:
    """What is shown of a record.

    samples : row numbers; neurons : for each group, places counted over a sample's output; weights : for each group the
    inputs of a neuron, or None for those with the largest products
    Raises ConfigError where there is no such row, neuron, input or layer.
    """

    def __init__(self, record: Record, samples: Any, neurons: Any, weights: Any) -> None:
        n = record.x.shape[0]
        self.groups = group(record)
        self.samples = _numbers("samples", samples, n) if samples is not None else list(range(min(n, SAMPLES)))
        self.paths = {record.calls[c].path: g for g, each in enumerate(self.groups) for c in each.calls}
        chosen, inputs = _by_path("neurons", neurons, self.paths), _by_path("weights", weights, self.paths)
        self.neurons: list[list[int]] = []
        self.weights: list[list[int] | None] = []
        for_all = len(self.groups) > 1 and not isinstance(neurons, Mapping)  # then some layers may be too small
        for g, each in enumerate(self.groups):
            out = record.calls[each.calls[-1]].y if each.calls else record.y
            size = int(np.prod(out.shape[1:]))
            own = chosen.get(g, chosen.get(None))
            if own is None:
                self.neurons.append(_telling(record, each, self.samples, size))
            else:
                few = _numbers("neurons", own, size, skip=for_all)
                self.neurons.append(few or _telling(record, each, self.samples, size))
            some = inputs.get(g, inputs.get(None))
            call = None if each.head is None else record.calls[each.head]
            width = call.layer.n_in if call is not None and isinstance(call.layer, Dense) else (
                int(np.prod(call.x.shape[1:])) if call is not None else 1
            )  # fmt: skip
            several = g not in inputs and len(self.groups) > 1
            self.weights.append(None if some is None else _numbers("weights", some, width, skip=several) or None)


def _numbers(name: str, given: Any, size: int, *, skip: bool = False) -> list[int]:
    """`given` as a list of numbers below `size`; larger ones are left out where `skip`."""
    several = [given] if not isinstance(given, (Sequence, np.ndarray, range)) or isinstance(given, str) else given
    found = [whole(name, each, 0) for each in several]
    if not found:
        raise ConfigError(f"{name} must name at least one, got {given!r}")
    wrong = [each for each in found if each >= size]
    if wrong and not skip:
        raise ConfigError(f"{name} must be in 0 ... {size - 1}, got {', '.join(map(str, wrong))}")
    return list(dict.fromkeys(each for each in found if each < size))


def _by_path(name: str, given: Any, paths: dict[str, int]) -> dict[int | None, Any]:
    """What was given, by the number of the group; None is every group."""
    if not isinstance(given, Mapping):
        return {} if given is None else {None: given}
    for path in given:
        if path not in paths:
            raise ConfigError(
                f"{name}: no layer stands at {path!r}; there are {', '.join(map(repr, paths))}"
                f"{did_you_mean(path, paths)}"
            )
    return {paths[path]: each for path, each in given.items()}


def _telling(record: Record, each: Group, samples: list[int], size: int) -> list[int]:
    """The neurons that matter most to these samples: by |value times gradient|; all where there are few."""
    if size <= NEURONS:
        return list(range(size))
    if not each.calls:
        return list(range(NEURONS))
    call = record.calls[each.calls[-1]]
    score = np.nan_to_num(np.abs(call.y[samples] * call.dy[samples]).sum(axis=0).reshape(-1), posinf=np.inf)
    best = np.argsort(-score, kind="stable")[:NEURONS]
    return sorted(int(i) for i in best)


class Scenes:
    """Makes the scenes of a choice, once each."""

    def __init__(self, record: Record, choice: Choice) -> None:
        self.record = record
        self.choice = choice
        self.why = Why(record)
        self._made: dict[tuple[int, int, int], Scene] = {}

    def __call__(self, g: int, sample: int, neuron: int) -> Scene:
        """The scene of a group, a sample and a neuron."""
        key = (g, sample, neuron)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def all(self) -> list[Scene]:
        """Every scene of the choice, group by group."""
        return [
            self(g, sample, neuron)
            for g in range(len(self.choice.groups))
            for sample in self.choice.samples
            for neuron in self.choice.neurons[g]
        ]

    def _make(self, g: int, sample: int, neuron: int) -> Scene:
        record, each = self.record, self.choice.groups[g]
        calls = [record.calls[number] for number in each.calls]
        head = None if each.head is None else record.calls[each.head]
        start, gradients = self._start(head, calls)
        index = index_of(start, neuron)
        value, gradient = float(start[sample][index]), float(gradients[sample][index])
        terms, rest = self._terms(g, head, calls, sample, neuron, gradient)
        nodes = self._chain(calls if head is None else calls[1:], sample, neuron, value)
        is_last = not each.calls or each.calls[-1] == record.last
        if is_last:
            nodes += loss_nodes(record, sample, index_of(record.y, neuron))
        written = [call.name for call in calls] + ([repr(record.loss)] if is_last and record.loss is not None else [])
        name = "" if head is None else self._head(head)
        path = calls[0].path if calls else ""
        scene = Scene(g, sample, neuron, " \N{RIGHTWARDS ARROW} ".join(written) or "x", path, name, terms, rest,
                      value, gradient, nodes)  # fmt: skip
        scene.gathered = self._gathered(head, sample, terms)
        scene.steps = walk(scene, record, is_last, head)
        return scene

    def _start(self, head: Call | None, calls: list[Call]) -> tuple[Any, Any]:
        """The array in which a neuron is first a number, and its gradient."""
        if head is not None:
            return head.y, head.dy
        if not calls:
            return self.record.y, self.record.dy
        dx = calls[0].dx
        return calls[0].x, np.zeros_like(calls[0].x) if dx is None else dx

    @staticmethod
    def _head(head: Call) -> str:
        return "sum" if isinstance(head.layer, (Dense, Residual)) or has_terms(head) else (
            "join" if isinstance(head.layer, Concatenate) else kind_of(head)
        )  # fmt: skip

    def _terms(
        self, g: int, head: Call | None, calls: list[Call], sample: int, neuron: int, gradient: float
    ) -> tuple[list[Term], Rest | None]:
        if head is None:
            source = calls[0].source if calls else INPUT
            name = "x" if source == INPUT else "y before"
            x = calls[0].x if calls else self.record.y
            index = index_of(x, neuron)
            value = float(x[sample][index])
            terms = [Term("", value, (Factor(name, index, value, 1.0),))]
            return [self._with_reasons(term.fed(gradient), None, calls, sample, neuron) for term in terms], None
        terms = terms_of(self.record, head, sample, index_of(head.y, neuron))
        shown = self._shown(terms, self.choice.weights[g])
        hidden = [term for place, term in enumerate(terms) if place not in shown]
        rest = None
        if hidden:
            zeros = sum(term.factors[0].value == 0 for term in hidden) / len(hidden)
            rest = Rest(len(hidden), float(sum(term.value for term in hidden)), zeros)
        return [self._with_reasons(terms[place].fed(gradient), head, calls, sample, neuron) for place in shown], rest

    @staticmethod
    def _shown(terms: list[Term], wanted: list[int] | None) -> list[int]:
        """The places of the terms to show: the bias always, of the others those asked for or the largest."""
        bias = [i for i, term in enumerate(terms) if term.factors and term.factors[0].name == "bias"]
        others = [i for i in range(len(terms)) if i not in bias]
        if wanted is not None:
            others = [others[i] for i in wanted if i < len(others)]
        elif len(others) > TERMS:
            size = [abs(terms[i].value) if terms[i].op else abs(terms[i].factors[0].local) for i in others]
            order = np.argsort(-np.nan_to_num(np.array(size), posinf=np.inf), kind="stable")[:FEW]
            others = sorted(others[int(i)] for i in order)
        return others + bias

    def _with_reasons(self, term: Term, head: Call | None, calls: list[Call], sample: int, neuron: int) -> Term:
        """Say of every factor whose gradient is zero why it is."""
        factors = []
        for factor in term.factors:
            why = ""
            if factor.gradient == 0:
                why = self.why.of_factor(head, calls[0] if calls else None, factor, sample, neuron)
            factors.append(Factor(factor.name, factor.index, factor.value, factor.local, factor.gradient, why))
        return Term(term.op, term.value, tuple(factors))

    def _chain(self, calls: list[Call], sample: int, neuron: int, value: float) -> list[Node]:
        nodes = []
        for call in calls:
            index, before = index_of(call.y, neuron), index_of(call.x, neuron)
            y = float(call.y[sample][index])
            rows = chain_rows(self.record, call, sample, index)
            inner = 0.0 if call.dx is None else float(call.dx[sample][before])
            if is_elementwise(call):
                forward, backward = words_of(call, value, y, rows[0].local)
            else:
                shown = "a probability" if kind_of(call) == "Softmax" else "the logarithm of a probability"
                forward = f"{kind_of(call)} makes {shown} of {plain(value)} and the other outputs: {plain(y)}."
                backward = "Every output depends on every input: the products of all rows are added."
            nodes.append(
                Node(kind_of(call), call.path, y, float(call.dy[sample][index]), rows, inner, forward, backward)
            )
            value = y
        return nodes

    def _gathered(self, head: Call | None, sample: int, terms: list[Term]) -> list[tuple[str, float]]:
        """The whole gradients as the model computed them: of inputs over all neurons, of parameters over samples."""
        if head is None:
            return []
        found: list[tuple[str, float]] = []
        names = {path.rpartition(".")[2]: path for path in self._parameters(head)}
        for factor in (f for term in terms for f in term.factors):
            if factor.name == "x" and head.dx is not None:
                found.append((f"d{factor.label}", float(head.dx[sample][factor.index])))
            elif factor.name in names:
                found.append((f"d{factor.label}", float(self.record.gradients[names[factor.name]][factor.index])))
        if not has_terms(head) and not isinstance(head.layer, Dense):
            for name, path in names.items():
                gradient = self.record.gradients[path]
                for place in range(min(gradient.size, TERMS)):
                    at = tuple(int(i) for i in np.unravel_index(place, gradient.shape))
                    found.append((indexed(f"d{name}", at), float(gradient[at])))
        return list(dict.fromkeys(found))

    def _parameters(self, head: Call) -> list[str]:
        own = {id(p) for p in vars(head.layer).values()}
        return [path for path, p in self.record.model.parameters().items() if id(p) in own]
