"""What of a step that failed is shown: the sample, the layer and the neuron of the first number that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.explain.record import Call, Record
from bpnet.explain.scenes import group
from bpnet.explain.terms import is_elementwise
from bpnet.layers import Dense

if TYPE_CHECKING:
    from bpnet.forensics import Finding


class Aim:
    """Where a finding points to in a record of its step.

    sample  : the row to show; neurons, weights : as `explain` takes them, or None where the finding names none
    first   : the row of the batch with which the record begins
    """

    def __init__(self, record: Record, finding: Finding | None, first: int) -> None:
        self.record = record
        self.neurons: dict[str, list[int]] | None = None
        self.weights: dict[str, list[int]] | None = None
        self._of_groups = {record.calls[number].path for each in group(record) for number in each.calls}
        call = None if finding is None else next((c for c in record.calls if c.path == finding.path), None)
        if finding is not None:
            self._point(finding, call)
        row = None if finding is None or finding.row is None else finding.row - first
        self.sample = row if row is not None and 0 <= row < len(record.x) else self._guess(finding, call)

    def _point(self, finding: Finding, call: Call | None) -> None:
        """Find the neuron."""
        record, index, shape = self.record, finding.index, finding.shape
        if finding.row is not None and shape:
            flat = int(np.ravel_multi_index(index[1:], shape[1:])) if len(shape) > 1 else 0
            target: Call | None = call
            if finding.path is None:  # the loss, of the last layer's outputs
                target = record.calls[record.last] if record.last >= 0 else None
            elif finding.direction == "backward" and call is not None and not is_elementwise(call):
                target = record.calls[call.source] if call.source >= 0 else None
            if target is not None and int(np.prod(target.y.shape[1:])) == int(np.prod(shape[1:])):
                self._take(target.path, flat)
        elif call is not None and isinstance(call.layer, Dense) and index:
            if shape == (call.layer.n_in, call.layer.n_out):
                self._take(call.path, index[1])
                self.weights = None if self.neurons is None else {call.path: [index[0]]}
            elif shape == (call.layer.n_out,):
                self._take(call.path, index[0])

    def _take(self, path: str, neuron: int) -> None:
        if path in self._of_groups:
            self.neurons = {path: [neuron]}

    def _guess(self, finding: Finding | None, call: Call | None) -> int:
        """The first row with a number that is not finite; else the one that adds most to what is not."""
        record = self.record
        n = len(record.x)
        bad = np.zeros(n, dtype=bool)
        for array in (each for c in record.calls for each in (c.y, c.dy, c.dx)):
            if array is not None and len(array) == n:
                bad |= ~np.all(np.isfinite(array.reshape(n, -1)), axis=1)
        if np.any(bad) and not np.all(bad):
            return int(np.argmax(bad))
        return int(np.argmax(np.nan_to_num(self._share(finding, call), nan=np.inf)))

    def _share(self, finding: Finding | None, call: Call | None) -> Any:
        """How much every sample adds."""
        if call is None or finding is None:
            return np.abs(np.asarray(self.record.dy, "float64")).reshape(len(self.record.x), -1).max(axis=1)
        dy = np.abs(np.asarray(call.dy, "float64")).reshape(len(call.dy), -1).max(axis=1)
        x = np.abs(np.asarray(call.x, "float64")).reshape(len(call.x), -1).max(axis=1)
        return dy * x if finding.direction == "backward" else x
