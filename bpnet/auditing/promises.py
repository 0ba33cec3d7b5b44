"""What is promised of every layer, held for one as it stands in its model, with the very inputs that it gets there."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np

from bpnet.backend import Backend, to_numpy
from bpnet.layers.base import Layer
from bpnet.layers.tree import is_number
from bpnet.testing.layer_derivatives import same_bits
from bpnet.testing.layers import LayerCheck

DRAWS = 64


class InPlace(LayerCheck):
    """The checks of `bpnet.testing.check_layer`, of a layer as it is and with inputs that it gets."""

    def __init__(self, layer: Layer, x: Any, backend: Backend, seed: int) -> None:
        self.layer, self.x, self.backend, self.seed = layer, x, backend, seed
        self.args, self.side = (x,), {}
        self.dtype, self.where = "float64", ""

    def model(self, dtype: str | None = None) -> Layer:
        """A copy with the layer's values."""
        twin = copy.deepcopy(self.layer)
        twin.to(self.backend, dtype or self.dtype)
        twin.materialize()
        return twin

    def fail(self, what: str) -> AssertionError:
        """The broken promise."""
        return AssertionError(what)

    def two_steps_agree(self) -> None:
        """The same forward and backward give the same bits."""
        first, gradients = self.pass_through(self.model())
        second, again = self.pass_through(self.model())
        if not same_bits(first, second):
            raise self.fail("dx is not deterministic: two equal calls give other bits")
        for name, gradient in gradients.items():
            if not same_bits(gradient, again[name]):
                raise self.fail(f"the gradient of {name!r} is not deterministic: two equal calls give other bits")

    def samples_do_not_mix(self) -> None:
        """In inference, what a sample's output is does not depend on the others."""
        model = self.model()
        whole = np.array(to_numpy(self.call("inference", model, model.asarray(self.x))))
        if len(self.x) < 2 or whole.shape[:1] != self.x.shape[:1]:
            return
        one = self.alone(slice(1, 2))
        scale = max(1.0, float(np.max(np.abs(whole), initial=0.0)))
        if one.shape != whole[1:2].shape or not np.all(np.abs(one - whole[1:2]) <= 1e-9 * scale):
            raise self.fail(
                "layer(x) mixes samples: the output for one of them alone is another than among others; is a sum or "
                "mean taken over the wrong axis?"
            )

    def alone(self, rows: slice) -> Any:
        """In inference, the output for some samples alone."""
        model = self.model()
        return np.array(to_numpy(self.call("inference of one sample", model, model.asarray(self.x[rows]))))

    def draws_are_inference_on_average(self) -> None:
        """A layer that draws random numbers gives, on average, what it gives in inference; not a multiple of it."""
        model = self.model()
        if not model.streams() or list(self.layer.children()):
            return
        x = model.asarray(self.x)
        target = np.array(to_numpy(model(x)))
        size = float(np.sum(target * target))
        if not size:
            return
        total, ratios = np.zeros_like(target), []
        for step in range(DRAWS):
            model.store.counters[...] = 0
            model.store.counters[0] = step
            drawn = np.array(to_numpy(model.forward(x)))
            total += drawn / DRAWS
            ratios.append(float(np.sum(drawn * target)) / size)
        ratio, spread = float(np.mean(ratios)), float(np.std(ratios)) / DRAWS**0.5
        if abs(ratio - 1) <= 5 * spread + 1e-3:
            return
        kept = [name for name, value in self.layer.config.items() if is_number(value) and abs(1 - value - ratio) < 0.05]
        hint = f": what is kept must be divided by 1 - {kept[0]}" if kept else ""
        raise self.fail(f"forward gives {ratio:.2f}x what inference gives, on average over {DRAWS} draws{hint}")


PROMISES = (
    "nothing_is_random_but_streams",
    "two_steps_agree",
    "inference_is_forward_and_keeps_nothing",
    "samples_do_not_mix",
    "draws_are_inference_on_average",
    "what_is_kept_is_taken_once",
    "gradients_accumulate",
    "need_dx_false_changes_no_gradient",
    "views_and_read_only_arrays_give_the_same",
)


def promises(check: InPlace) -> list[tuple[str, Any]]:
    """Every promise by name, as a function that raises AssertionError where it is broken."""
    found: list[tuple[str, Any]] = [
        (f"shapes and untouched arrays, {dtype}", partial(check.shapes_dtypes_and_untouched_arrays, dtype))
        for dtype in ("float32", "float64")
    ]
    return found + [(name.replace("_", " "), getattr(check, name)) for name in PROMISES]
