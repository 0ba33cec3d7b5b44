"""What `bp.explain` returns: text, JSON, a page to step through, and answers to "why is this gradient zero?"."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from bpnet.explain.agreement import disagreements
from bpnet.explain.parts import Reason, Scene, plain
from bpnet.explain.record import Record
from bpnet.explain.scenes import Choice, Scenes
from bpnet.files import write_bytes

LIMIT = 400  # lines of text


class Explanation:
    """One forward and one backward of a model, made visible.

    y, dy, dx     : of the whole model, NumPy arrays with every sample; dx is the gradient of x
    loss          : the value of the loss, a float (an array for reduction="none"), or None
    gradients     : every parameter's gradient by path, summed over all samples
    scenes        : what is shown: one for each chosen layer, sample and neuron
    notes         : what there is to say beside; of a step that failed, what failed
    disagreements : where the products shown are not what a layer's backward gave; [] where all agree, as for every
                    layer of bpnet. Look there with finite differences.
    `str(explanation)` is the walk as text; `explanation.page(path)` writes the page.
    """

    def __init__(self, record: Record, choice: Choice, note: str = "") -> None:
        self._record = record
        self.notes = note.splitlines()
        self._choice = choice
        self._scenes = Scenes(record, choice)
        with np.errstate(all="ignore"):
            self.scenes: list[Scene] = self._scenes.all()
        self.disagreements: list[str] = disagreements(record, self.scenes)
        self.y, self.dy, self.dx = record.y, record.dy, record.dx
        self.gradients: dict[str, Any] = record.gradients
        value = record.value
        self.loss: Any = None if value is None else float(value) if value.ndim == 0 else value

    def why(self, name: str, index: Any = (), *, optimizer: Any = None) -> Reason:
        """Say why one element of a gradient is zero; where it is not, what it is made of.

        name      : a parameter's path, as "0.weight", or "x"; index : of one element
        optimizer : where given, also what its clipping does to the gradient
        Raises ConfigError where there is no such gradient or element.

        >>> import bpnet as bp
        >>> model = bp.Sequential(bp.Dense(1, 1), bp.ReLU()).initialize()
        >>> model[0].weight.value, model[0].bias.value = [[1.0]], [-2.0]
        >>> print(bp.explain(model, [[1.5]]).why("0.weight", (0, 0)))
        The gradient of 0.weight[0, 0] is 0: the ReLU '1' is off at neuron 0 for sample 0: z = -0.5 is not above 0.
        """
        reason = self._scenes.why.ask(name, index)
        return reason if optimizer is None or name == "x" else self._clipped(reason, optimizer)

    def _clipped(self, reason: Reason, optimizer: Any) -> Reason:
        text, causes, found = reason.text, dict(reason.causes), reason.gradient
        value, norm = getattr(optimizer, "clip_value", None), getattr(optimizer, "clip_norm", None)
        everything = [each.astype("float64") for each in self.gradients.values()]
        if value is not None:
            if abs(found) > value:
                text += f" clip_value={plain(value)} makes it {plain(math.copysign(value, found))}."
                causes["clipped"] = ()
                found = math.copysign(value, found)
            everything = [np.clip(each, -value, value) for each in everything]
        total = math.sqrt(sum(float((each * each).sum()) for each in everything))
        if norm is not None and total > norm:
            text += (
                f" The norm of all gradients is {plain(total)}; clip_norm={plain(norm)} scales it to "
                f"{plain(found * norm / total)}."
            )
            causes["clipped"] = ()
        elif norm is not None and not math.isfinite(total):
            text += f" The norm of all gradients is {plain(total)}, so with clip_norm nothing is updated."
            causes["clipped"] = ()
        return Reason(reason.name, reason.gradient, causes, text)

    # --- what is known of every layer ---

    def layers(self) -> list[dict[str, Any]]:
        """A dict for every layer that was run: its path, shapes, norms of y, dy and dx, and shares of zeros in them."""
        return [
            {
                "path": call.path, "layer": call.name,
                "x_shape": list(call.x.shape), "y_shape": list(call.y.shape),
                "y_norm": _norm(call.y), "dy_norm": _norm(call.dy), "dx_norm": _norm(call.dx),
                "y_zeros": _zeros(call.y), "dy_zeros": _zeros(call.dy), "dx_zeros": _zeros(call.dx),
                "gradients": {p: {"norm": _norm(g), "zeros": _zeros(g)} for p, g in call.gradients.items()},
            }
            for call in self._record.calls
        ]  # fmt: skip

    def json(self) -> dict[str, Any]:
        """Everything that is shown, as JSON values; a number that is not finite is its name as text."""
        record = self._record
        found: dict[str, Any] = finite(
            {
                "model": record.name, "backend": record.backend.name, "dtype": record.dtype,
                "n_samples": int(record.x.shape[0]), "samples": self._choice.samples,
                "loss": None if record.loss is None else repr(record.loss),
                "value": None if record.value is None else record.value.tolist(),
                "y": {str(s): record.y[s].tolist() for s in self._choice.samples},
                "dy": {str(s): record.dy[s].tolist() for s in self._choice.samples},
                "layers": self.layers(),
                "scenes": [asdict(scene) for scene in self.scenes],
                "notes": self.notes,
                "disagreements": self.disagreements,
            }
        )  # fmt: skip
        return found

    def __str__(self) -> str:
        lines = list(self._lines())
        if len(lines) > LIMIT:
            lines[LIMIT:] = [f"... and {len(lines) - LIMIT} more lines; choose with samples=, neurons= and weights="]
        return "\n".join(lines)

    def _lines(self) -> Iterator[str]:
        yield self.heading()
        for sample in self._choice.samples:
            scenes = [scene for scene in self.scenes if scene.sample == sample]
            yield f"\nSample {sample}, forward"
            for scene in scenes:
                yield from _told(scene, "forward")
            yield f"\nSample {sample}, backward"
            order = sorted(scenes, key=lambda scene: (-scene.group, scene.neuron))
            for scene in order:
                yield from _told(scene, "backward")
        for text in self.disagreements:
            yield f"\nDisagreement: {text}"

    def heading(self) -> str:
        """The model, the batch, where it was computed, the loss, and what there is to say of it."""
        record = self._record
        n = record.x.shape[0]
        loss = "" if record.loss is None else f", {record.loss!r} = {plain(float(np.sum(record.value)))}"
        some = "" if n == len(self._choice.samples) else f" of which {len(self._choice.samples)} shown"
        facts = f"{n} sample{'s' * (n > 1)}{some}, {record.dtype} on {record.backend.name}{loss}"
        return "\n".join([record.name, facts, *self.notes])

    def __repr__(self) -> str:
        return f"<Explanation of {self._record.name}, {self._record.x.shape[0]} samples, {len(self.scenes)} scenes>"

    # --- the page ---

    def html(self) -> str:
        """The page: one HTML document that needs nothing else. See `page`."""
        from bpnet.explain.page import document

        return document(self)

    def page(self, path: str | os.PathLike[str]) -> None:
        """Write the page to `path`, whole or not at all: the network drawn, to be stepped through by key or tap.

        It loads nothing, so it works offline and from a mail. Raises CheckpointError when the file cannot be written.
        """
        write_bytes(path, self.html().encode("utf-8"))

    def _repr_html_(self) -> str:
        from html import escape

        style = "width:100%;height:46rem;border:0;border-radius:12px"
        return f'<iframe title="{escape(self.heading())}" style="{style}" srcdoc="{escape(self.html())}"></iframe>'


def _told(scene: Scene, phase: str) -> Iterator[str]:
    yield f"  {scene.path or 'x'}: {scene.title}, neuron {scene.neuron}"
    for step in scene.steps:
        if step.phase == phase:
            yield f"    {step.op:<9} {step.words}"
            for row in step.rows:
                by = f"  by {row.by}" if row.by else ""
                yield (
                    f"              {plain(row.local)} local \N{MULTIPLICATION SIGN} {plain(row.upstream)} upstream = "
                    f"{plain(row.product)}{by}"
                )


def _norm(array: Any) -> float | None:
    if array is None:
        return None
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.sum(np.square(array.astype("float64")))))


def _zeros(array: Any) -> float | None:
    return None if array is None or not array.size else float(np.mean(array == 0))


def finite(value: Any) -> Any:
    """Tuples as lists, and numbers that JSON lacks as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return value
