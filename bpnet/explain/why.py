"""Why is this gradient zero? Traced from where it is zero to what made it so, with the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.errors import ConfigError, did_you_mean
from bpnet.explain.loss_nodes import is_labels
from bpnet.explain.parts import Factor, Reason, indexed, plain
from bpnet.explain.record import INPUT, Call, Record
from bpnet.explain.terms import index_of, is_elementwise, local_of
from bpnet.layers import Dense, Dropout, ReLU, Sigmoid, Tanh

SATURATED = 1e-3  # a slope of sigmoid or tanh below this share of its greatest
Cause = tuple[str, str]  # kind, words


class Why:
    """Answers for one record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.readers: dict[int, list[int]] = {}
        for number, call in enumerate(record.calls):
            self.readers.setdefault(call.source, []).append(number)

    # --- one element's gradient ---

    def of_output(self, number: int, sample: int, flat: int) -> Cause:
        """Why the gradient of the output of call `number` (INPUT: of the model's input) is zero there."""
        record = self.record
        readers = self.readers.get(number, [])
        if number == getattr(record, "last", None) or (not readers and not record.calls):
            return self._at_the_end(sample, flat)
        if not readers:
            return "unused", "no layer that was seen reads it"
        causes = [self._through(record.calls[reader], sample, flat) for reader in readers]
        if len(set(causes)) == 1:
            return causes[0]
        kinds = {kind for kind, _ in causes}
        return causes[0][0] if len(kinds) == 1 else "upstream", "; and ".join(dict.fromkeys(text for _, text in causes))

    def _at_the_end(self, sample: int, flat: int) -> Cause:
        record = self.record
        index = index_of(record.y, flat)
        if record.loss is None:
            return "upstream", f"dvalues is 0 for sample {sample}, output {flat}"
        name = type(record.loss).__name__
        weight = record.sample_weight
        if weight is not None and weight[sample] == 0:
            return "ignored", f"sample {sample} has the weight 0"
        if is_labels(record):
            label = int(record.target[sample][index[:-1]])
            if label == getattr(record.loss, "ignore_index", None):
                return "ignored", f"the label of sample {sample} is {label}, which the loss ignores"
            weights = getattr(record.loss, "class_weight", None)
            found = weights.get(label, 1) if isinstance(weights, dict) else weights[label] if weights else 1
            if found == 0:
                return "ignored", f"the label of sample {sample} is {label}, which has the class weight 0"
            if index[-1] != label and record.loss.wants != "logits":
                return (
                    "loss",
                    f"{index[-1]} is not the label {label} of sample {sample}, so {name} does not depend on it",
                )
        return (
            "loss",
            f"the derivative of {name} by output {flat} of sample {sample} is 0 at {plain(self._y(sample, flat))}",
        )

    def _y(self, sample: int, flat: int) -> float:
        return float(self.record.y[sample].reshape(-1)[flat])

    def _through(self, call: Call, sample: int, flat: int) -> Cause:
        """Why `call` sends nothing back to place `flat` of its input."""
        where = f"{call.path!r} ({call.name})"
        number = self.record.calls.index(call)
        if is_elementwise(call):
            local = float(local_of(self.record, call)[sample].reshape(-1)[flat])
            z, upstream = float(call.x[sample].reshape(-1)[flat]), float(call.dy[sample].reshape(-1)[flat])
            if upstream != 0 and local != 0:
                return "underflow", f"{plain(local)} times {plain(upstream)} is too small for {call.dy.dtype}"
            if local == 0:
                return self._flat_here(call, z, sample, flat, where)
            return self.of_output(number, sample, flat)
        dy = call.dy[sample]
        if isinstance(call.layer, Dense):
            index = index_of(call.x, flat)
            dy = dy[index[:-1]]
            live = np.nonzero(dy)[0]
            if live.size:
                W = self.record.parameters[call.layer.weight.path][index[-1]]
                if not np.any(W[live]):
                    return "weight", f"the weights of {where} from it are 0 wherever a gradient arrives"
                return "cancel", f"the contributions of the {live.size} neurons of {where} cancel"
            first = int(np.ravel_multi_index((*index[:-1], 0), call.dy.shape[1:]))
            return self._all_of(number, sample, range(first, first + dy.shape[-1]))
        if np.any(dy):
            return "layer", f"{where} does not depend on it there"
        return self._all_of(number, sample, range(int(dy.size)))

    def _all_of(self, number: int, sample: int, places: range) -> Cause:
        """Nothing arrives at any output of a layer: the causes of the first few."""
        causes = [self.of_output(number, sample, place) for place in places[:3]]
        kinds = {kind for kind, _ in causes}
        more = f" (and {len(places) - 3} more outputs)" if len(places) > 3 else ""
        text = "; ".join(dict.fromkeys(text for _, text in causes)) + more
        return causes[0][0] if len(kinds) == 1 else "upstream", text

    def _flat_here(self, call: Call, z: float, sample: int, flat: int, where: str) -> Cause:
        layer = call.layer
        if isinstance(layer, ReLU):
            return (
                "dead",
                f"the ReLU {call.path!r} is off at neuron {flat} for sample {sample}: z = {plain(z)} is not above 0",
            )
        if isinstance(layer, Dropout):
            return "masked", f"the Dropout {call.path!r} has set neuron {flat} of sample {sample} to 0 in this step"
        if isinstance(layer, (Sigmoid, Tanh)):
            return "saturated", f"{where} is saturated for sample {sample}: its slope at {plain(z)} rounds to 0"
        return "flat", f"the local derivative of {where} at {plain(z)} is 0 for sample {sample}"

    # --- a factor in a drawing ---

    def of_factor(self, head: Call | None, first: Call | None, factor: Factor, sample: int, neuron: int) -> str:
        """Why this one product is zero, in words. head : the scene's; first : of its calls, where it has no head."""
        start = f"The gradient of {factor.label} is 0 here because"
        if head is not None and factor.local == 0:
            if isinstance(head.layer, Dense) and factor.name != "bias":
                return f"{start} {'its weight' if factor.name == 'x' else 'its input'} is 0."
            return f"{start} its local derivative is 0."
        if head is not None:
            _, text = self.of_output(self.record.calls.index(head), sample, neuron)
        elif first is not None:
            _, text = self._through(first, sample, neuron)
        else:
            _, text = self._at_the_end(sample, neuron)
        return f"{start} nothing arrives: {text}."

    # --- a whole gradient ---

    def ask(self, name: str, index: Any) -> Reason:
        """The answer for a parameter's path, or "x", and an index in it."""
        record = self.record
        known = record.gradients | ({} if record.dx is None else {"x": record.dx})
        if name not in known:
            raise ConfigError(
                f"why: there is no gradient {name!r}; there are {', '.join(map(repr, known))}"
                f"{did_you_mean(name, known)}"
            )
        at = tuple(index) if isinstance(index, (tuple, list)) else (index,)
        shape = known[name].shape
        fits = len(at) == len(shape) and all(
            isinstance(i, (int, np.integer)) and -n <= i < n for i, n in zip(at, shape, strict=True)
        )
        if not fits:
            raise ConfigError(f"why: {name} has shape {shape}, so that {index!r} is no index of one element in it")
        at = tuple(int(i) % n for i, n in zip(at, shape, strict=True))
        gradient = float(known[name][at])
        label = indexed(name, at)
        if name == "x":
            return self._of_input(label, gradient, at)
        if name in record.frozen:
            text = f"The gradient of {label} is 0: it is frozen, no gradient is computed for it."
            return Reason(label, gradient, {"frozen": ()}, text)
        calls = [call for call in record.calls if name in call.gradients]
        if not calls:
            text = f"The gradient of {label} is 0: no layer that was seen added to it in this backward."
            return Reason(label, gradient, {"unused": ()}, text)
        if gradient != 0:
            return self._made_of(label, gradient, name, at, calls)
        found: dict[str, list[int]] = {}
        texts: list[str] = []
        for call in calls:
            for sample in range(record.x.shape[0]):
                kind, text = self._of_parameter(call, name, at, sample)
                if sample not in found.setdefault(kind, []):
                    found[kind].append(sample)
                texts.append(text)
        shown = list(dict.fromkeys(texts))
        more = f"; and {len(shown) - 8} more" if len(shown) > 8 else ""
        causes = {kind: tuple(samples) for kind, samples in found.items()}
        if set(causes) == {"cancel"}:
            text = f"The gradient of {label} is 0: the contributions of the samples are not, and cancel."
        else:
            text = f"The gradient of {label} is 0: {'; '.join(shown[:8])}{more}."
        return Reason(label, gradient, causes, text)

    def _of_input(self, label: str, gradient: float, at: tuple[int, ...]) -> Reason:
        sample = at[0]
        if gradient != 0:
            return Reason(label, gradient, {}, f"The gradient of {label} is not 0 but {plain(gradient)}.")
        flat = int(np.ravel_multi_index(at[1:], self.record.x.shape[1:])) if len(at) > 1 else 0
        kind, text = self.of_output(INPUT, sample, flat)
        return Reason(label, gradient, {kind: (sample,)}, f"The gradient of {label} is 0: {text}.")

    def _of_parameter(self, call: Call, name: str, at: tuple[int, ...], sample: int) -> Cause:
        number = self.record.calls.index(call)
        layer = call.layer
        if not isinstance(layer, Dense):
            if np.any(call.dy[sample]):
                return (
                    "layer",
                    f"{call.path!r} ({call.name}) adds nothing for sample {sample}, though a gradient arrives",
                )
            return self._all_of(number, sample, range(int(call.dy[sample].size)))
        j = at[-1]
        dy, x = call.dy[sample][..., j].reshape(-1), call.x[sample].reshape(-1, layer.n_in)
        is_weight = len(at) == 2
        inputs = x[:, at[0]] if is_weight else np.ones_like(dy)
        if not np.any(inputs):
            return "input", f"the input {at[0]} of sample {sample} is 0"
        if np.any(inputs * dy):
            return "cancel", f"sample {sample} contributes {plain(float((inputs * dy).sum()))}"
        if np.any(dy) and np.any(inputs):
            return "input", f"the input {at[0]} of sample {sample} is 0 wherever a gradient arrives"
        return self.of_output(
            number, sample, int(np.ravel_multi_index((*(0,) * (call.dy.ndim - 2), j), call.dy.shape[1:]))
        )

    def _made_of(self, label: str, gradient: float, name: str, at: tuple[int, ...], calls: list[Call]) -> Reason:
        """A gradient that is not zero: the contribution of every sample, and which samples do not contribute."""
        silent: dict[str, list[int]] = {}
        nearly: list[int] = []
        parts = []
        for call in calls:
            if not isinstance(call.layer, Dense):
                continue
            nearly += self._nearly_flat(call, at[-1])
            for sample in range(min(self.record.x.shape[0], 1000)):
                x, dy = call.x[sample].reshape(-1, call.layer.n_in), call.dy[sample].reshape(-1, call.layer.n_out)
                own = float((x[:, at[0]] * dy[:, at[-1]]).sum() if len(at) == 2 else dy[:, at[-1]].sum())
                if own:
                    parts.append(f"{plain(own)} from sample {sample}")
                else:
                    kind, _ = self._of_parameter(call, name, at, sample)
                    silent.setdefault(kind, []).append(sample)
        text = f"The gradient of {label} is not 0 but {plain(gradient)}"
        text += f": {', '.join(parts[:6])}{f' and {len(parts) - 6} more' if len(parts) > 6 else ''}" if parts else ""
        for kind, samples in silent.items():
            text += f"; nothing from {_several(samples)} ({NAMES.get(kind, kind)})"
        if nearly:
            text += f"; nearly nothing from {_several(nearly)}, where the activation behind is saturated"
            silent.setdefault("saturated", []).extend(nearly)
        return Reason(label, gradient, {kind: tuple(each) for kind, each in silent.items()}, text + ".")

    def _nearly_flat(self, call: Call, j: int) -> list[int]:
        """The samples for which a sigmoid or tanh right behind neuron j has next to no slope, but some."""
        found: list[int] = []
        for reader in self.readers.get(self.record.calls.index(call), []):
            behind = self.record.calls[reader]
            if isinstance(behind.layer, (Sigmoid, Tanh)):
                slope = np.abs(local_of(self.record, behind)[..., j]).reshape(behind.y.shape[0], -1)
                greatest = 0.25 if isinstance(behind.layer, Sigmoid) else 1.0
                flat = np.all(slope < SATURATED * greatest, axis=1) & np.any(slope > 0, axis=1)
                found += [int(sample) for sample in np.nonzero(flat)[0]]
        return found


NAMES = {
    "dead": "a ReLU that is off", "masked": "dropout", "saturated": "saturated", "input": "the input is 0",
    "ignored": "not counted by the loss", "upstream": "nothing arrives", "loss": "the loss does not depend on it",
}  # fmt: skip


def _several(samples: list[int]) -> str:
    if len(samples) == 1:
        return f"sample {samples[0]}"
    more = f" and {len(samples) - 6} more" if len(samples) > 6 else ""
    return f"samples {', '.join(map(str, samples[:6]))}{more}"
