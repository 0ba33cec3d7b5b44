"""Adam and AdamW, also as AMSGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bpnet import ops
from bpnet.checks import flag, fraction, positive
from bpnet.dispatch import Array
from bpnet.optimizers.base import Check, Optimizer, Rate
from bpnet.optimizers.groups import Group
from bpnet.store import Run, Store


class Adam(Optimizer):
    """Adam. [Kingma & Ba 2015, alg. 1]

    amsgrad : whether the second moment may only grow [Reddi et al. 2018]
    A weight decay that a group sets is decoupled, as AdamW's.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(2, 1)).initialize(dtype="float64")
    >>> x, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[5.0], [1.0]])
    >>> loss, optimizer = bp.MeanSquaredError(), bp.Adam(learning_rate=0.1)
    >>> for step in range(300):
    ...     value = loss.forward(model.forward(x), y)
    ...     dx = model.backward(loss.backward())
    ...     optimizer.step(model)
    >>> bool(value < 1e-6)
    True
    """

    checks: ClassVar[dict[str, Check]] = {"beta1": fraction, "beta2": fraction, "epsilon": positive}

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(learning_rate, clip_norm=clip_norm, clip_value=clip_value, average=average, groups=groups)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.amsgrad = flag("amsgrad", amsgrad)

    def _update(self, store: Store, run: Run, rate: Array) -> None:
        slots = [store.part(name, run) for name in (("m", "v", "v_max") if self.amsgrad else ("m", "v"))]
        (ops.amsgrad_ if self.amsgrad else ops.adam_)(
            store.part("values", run),
            store.part("grads", run),
            *slots,
            store.ok,
            rate,
            store.counters,
            self.beta1,
            self.beta2,
            self.epsilon,
            run.weight_decay,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: value shrinks by learning_rate * weight_decay. [Loshchilov & Hutter 2019]

    Weight decay spares biases; to PyTorch's AdamW a bias is a parameter like all others.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        *,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: float | None = None,
        groups: Sequence[Group] = (),
    ) -> None:
        super().__init__(
            learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            clip_norm=clip_norm,
            clip_value=clip_value,
            average=average,
            groups=groups,
        )
        self.weight_decay = weight_decay
