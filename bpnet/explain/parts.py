"""What an explanation is made of: factors, terms, the nodes of a drawing, steps of the walk, and reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

MINUS = "\N{MINUS SIGN}"


def plain(number: float, digits: int = 6) -> str:
    """A number in as few characters as it needs: -3.0 as "-3"."""
    text = f"{number:.{digits}g}"
    return "0" if text == "-0" else text


def listed(numbers: list[float], digits: int = 6) -> str:
    """Numbers as a list: "[-3, -1, 2]"."""
    return f"[{', '.join(plain(each, digits) for each in numbers)}]"


def prose(text: str) -> str:
    """Words with real minus signs; those in exponents and names stay."""
    return re.sub(r"(?<!\w)-(?=\d|log|inf)|(?<= )-(?= )", MINUS, text)


def indexed(name: str, index: tuple[int, ...]) -> str:
    """name[index]: "weight[0, 2]"."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


@dataclass(frozen=True)
class Factor:
    """A number that a term depends on.

    name, index : what it is called: "x", (2,) or "weight", (2, 0)
    local       : the derivative of the term by it
    gradient    : local times what arrives at the term; bpnet fills it in
    why         : where that is zero, the reason
    """

    name: str
    index: tuple[int, ...]
    value: float
    local: float
    gradient: float = 0.0
    why: str = ""

    @property
    def label(self) -> str:
        """name[index]."""
        return indexed(self.name, self.index)


@dataclass(frozen=True)
class Term:
    """A summand of one output: y[index] is the sum of its terms.

    op      : what makes it of its factors, such as "mul"; "" where it is its one factor
    factors : every number it depends on, with the derivative of `value` by it
    """

    op: str
    value: float
    factors: tuple[Factor, ...]

    def fed(self, upstream: float) -> Term:
        """The term with the gradient of every factor."""
        return replace(self, factors=tuple(replace(f, gradient=f.local * upstream) for f in self.factors))


@dataclass(frozen=True)
class Row:
    """local times upstream is product: one line of the chain rule, for the derivative by `by`."""

    by: str
    local: float
    upstream: float
    product: float


@dataclass(frozen=True)
class Node:
    """A function in the chain of a drawing.

    value, gradient : on the edge behind it: its output, and what arrives there
    rows, inner     : its part of the backward, and the sum of their products: the gradient of its input
    forward, backward : the two in words
    """

    op: str
    path: str
    value: float
    gradient: float
    rows: tuple[Row, ...]
    inner: float
    forward: str
    backward: str


@dataclass(frozen=True)
class Step:
    """One step of the walk.

    phase : "forward" or "backward"; op : the function it is about; at : which of the drawing's elements it lights
    """

    phase: str
    op: str
    at: str
    words: str
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Rest:
    """The terms of a sum that are not shown: how many, their sum, and the share of their factors x that are 0."""

    count: int
    value: float
    zeros: float


@dataclass
class Scene:
    """One neuron of one layer for one sample, with the elementwise layers behind it: what is drawn at once.

    head    : what makes one number of the terms: "sum", the name of a layer, or "" where there is one term
    value, gradient : of that number
    dx, weight, bias : the layer's whole gradients at the shown indices, by label, as the model computed them
    """

    group: int
    sample: int
    neuron: int
    title: str
    path: str
    head: str
    terms: list[Term]
    rest: Rest | None
    value: float
    gradient: float
    nodes: list[Node]
    gathered: list[tuple[str, float]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Reason:
    """Why a gradient is zero, or what it is made of.

    name     : the gradient's: "0.weight[1, 2]"; gradient : its value
    causes   : the kinds of what was found, each with the samples it is true for: {"dead": (1,)}
    str(reason) is the answer in words.
    """

    name: str
    gradient: float
    causes: dict[str, tuple[int, ...]]
    text: str

    def __str__(self) -> str:
        return self.text
