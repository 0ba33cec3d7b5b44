"""No graph of autograd is ever built: a kernel refuses tensors that autograd follows, where it would follow on."""

from __future__ import annotations

from typing import Any

import torch

from bpnet.dispatch import guard
from bpnet.errors import DTypeError


@guard(torch.Tensor)
def refuse_autograd(*args: Any) -> None:
    """Raise DTypeError for a tensor with `requires_grad`, unless autograd is switched off."""
    if not torch.is_grad_enabled():
        return
    for each in args:
        if isinstance(each, tuple):
            refuse_autograd(*each)
        elif isinstance(each, torch.Tensor) and each.requires_grad:
            raise DTypeError(
                f"got a tensor of shape {tuple(each.shape)} with requires_grad=True; bpnet's layers state their own "
                "derivatives and autograd cannot follow them: bring it over with model.asarray(x), which detaches it"
            )
