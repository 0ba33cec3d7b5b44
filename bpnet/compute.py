"""In which precision a model's products are computed: in float32, or of copies of its parameters in bfloat16.

With "bf16" the store has one more flat buffer, `compute`: the bits of the bfloat16 that is nearest to each value, at
its place. The values stay float32. They are the master weights, which an optimizer's step changes, however little,
and which are saved; the copy is a function of them, so it is in no file and is made anew wherever they come from.
Products take it as it is: a plan's update writes it in the pass that changes the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bpnet import ops
from bpnet.abilities import check_precision, scope_of
from bpnet.backend import Backend
from bpnet.dispatch import Array, note_change

if TYPE_CHECKING:
    from bpnet.parameter import Parameter, Statistic


class InPrecision:
    """The part of a store that holds copies of its parameters in another precision.

    compute : (number of parameters with their padding,) uint16, or None in float32
    """

    backend: Backend
    dtype: str
    values: Array
    parameters: dict[str, Parameter]
    compute: Array = None
    _ranges: dict[tuple[str, int, int], Array]

    @property
    def precision(self) -> str:
        """The precision of the products: "float32" or "bf16"."""
        return "float32" if self.compute is None else "bf16"

    def use_precision(self, name: str) -> None:
        """Compute products in "float32" or "bf16" from now on; ConfigError where that cannot be."""
        check_precision(name, self.backend, self.dtype)
        if name == self.precision:
            return
        self._ranges = {key: part for key, part in self._ranges.items() if key[0] != "compute"}
        self.compute = None
        if name == "bf16":
            self.make_copies()
        else:
            for parameter in self.parameters.values():
                parameter.attach_compute(None)
        note_change()

    def make_copies(self) -> None:
        """Let every parameter have its copy, without a word to plans: for a store that none of them knows yet."""
        self.compute = self.backend.zeros((self._first_statistic,), "uint16")
        statistics = self.statistics
        for path, parameter in self.parameters.items():
            if path not in statistics:
                parameter.attach_compute(self.view(self.compute, path))
        self.refresh()

    def refresh(self) -> None:
        """Make the copies of the parameters anew: for whoever has written into values by hand."""
        if self.compute is not None and self.compute.shape[0]:
            with scope_of(self.backend):
                ops.round_bf16_(self.compute, self.values[: self.compute.shape[0]])

    if TYPE_CHECKING:

        @property
        def _first_statistic(self) -> int: ...

        @property
        def statistics(self) -> dict[str, Statistic]: ...  # noqa: D102

        def view(self, buffer: Any, path: str, first: int = 0) -> Array: ...  # noqa: D102
