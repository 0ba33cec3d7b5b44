"""The chain rule made visible: every value and every gradient of a model, for chosen samples and neurons.

`bp.explain(model, x, ...)` makes an `Explanation`: text, JSON, or a page to step through. A layer of one's own is a box
with its derivatives; with a method `explain_terms(x, y, index)`, that returns `Term`s, it is shown in as much detail as
a Dense is. Nothing here is loaded before the first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnet.explain.explanation import Explanation
    from bpnet.explain.parts import Factor, Reason, Term
    from bpnet.layers.base import Layer
    from bpnet.losses import Loss

__all__ = ["Explanation", "Factor", "Reason", "Term", "explain"]

Chosen = int | Sequence[int] | None


def explain(
    model: Layer,
    x: Any,
    loss: Loss | None = None,
    y: Any = None,
    dvalues: Any = None,
    *,
    samples: Chosen = None,
    neurons: Chosen | Mapping[str, Chosen] = None,
    weights: Chosen | Mapping[str, Chosen] = None,
    sample_weight: Any = None,
    side: Mapping[str, Any] | None = None,
) -> Explanation:
    """Run one forward and one backward of a copy of `model`, and explain every number down to single products.

    x       : (N, ...) array of any library, or lists; the whole batch is run, since a loss is a mean over it
    loss, y : a loss and its targets; dvalues : without a loss, the gradient of the outputs, of their shape; ones where
              neither is given, which is the derivative of the sum of the outputs
    samples : the rows to show, by default the first 3; neurons : those of every layer, or a dict from a layer's path to
              its own, counted over a sample's output; by default up to 4 that matter most to these samples
    weights : which inputs of a neuron to show, likewise; by default all of up to 6, else the 4 largest products
    side    : arrays by name that the model takes by keyword, one row a sample: a mask, lengths
    The model keeps its values, gradients, counters and what its layers have kept. Dropout is as in the next step.
    Raises ConfigError, ShapeError, DTypeError, DataError.

    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(3, 1), bp.ReLU()).initialize(dtype="float64")
    >>> model[0].weight.value, model[0].bias.value = [[-3.0], [-1.0], [2.0]], [1.0]
    >>> explanation = bp.explain(model, [[1.0, -2.0, 3.0]], dvalues=[[1.0]])
    >>> explanation.dx
    array([[-3., -1.,  2.]])
    >>> explanation.gradients["0.weight"].T
    array([[ 1., -2.,  3.]])
    """
    from bpnet.explain.explanation import Explanation
    from bpnet.explain.record import run
    from bpnet.explain.scenes import Choice

    record = run(model, x, loss, y, dvalues, sample_weight, side=side)
    return Explanation(record, Choice(record, samples, neurons, weights))


def __getattr__(name: str) -> Any:
    """The classes, imported when they are asked for."""
    if name == "Explanation":
        from bpnet.explain.explanation import Explanation

        return Explanation
    if name in ("Factor", "Reason", "Term"):
        from bpnet.explain import parts

        return getattr(parts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
