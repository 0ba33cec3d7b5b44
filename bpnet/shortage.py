"""Lack of memory in a step: who asked for how much, and what can be done."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bpnet.errors import OutOfMemoryError
from bpnet.layers.base import Layer

if TYPE_CHECKING:
    from bpnet.trainer import Trainer


def explained(error: MemoryError, trainer: Trainer, batch_size: Any) -> OutOfMemoryError:
    """The error to raise in the place of `error`. Everything that the step still holds is let go before.

    batch_size : the number of samples of the step, None where it is not known
    """
    where = _asker(error.__traceback__, trainer)
    backend = trainer.model.store.backend
    for _, layer in trainer.model.walk():
        layer._kept = None
    vars(trainer.loss).pop("_kept", None)
    _forget(error)
    explain = getattr(backend, "explain_memory_error", None)
    what = str(error) if explain is None else explain(error)
    samples = "" if batch_size is None else f" with a batch of {batch_size}"
    return OutOfMemoryError(
        f"out of memory in {where}{samples}: {what or 'the host has no more'}. Take a smaller batch, or pass "
        "micro_batch_size=, which goes through the model in parts and gives the same gradient. Model and optimizer are "
        "as they were before the step"
    )


def _forget(error: BaseException | None) -> None:
    """Let go of the frames of an error and of those behind it: the step's intermediate arrays are in them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _asker(frames: TracebackType | None, trainer: Trainer) -> str:
    """The innermost layer whose method was running, with its path; else the loss, the optimizer, or the step."""
    paths = {id(layer): path for path, layer in trainer.model.walk()}
    found = "the step"
    while frames is not None:
        frame = frames.tb_frame
        owner, method = frame.f_locals.get("self"), frame.f_code.co_name
        if isinstance(owner, Layer) and id(owner) in paths and owner is not trainer.model:
            found = f"{method} of {owner!r}, layer {paths[id(owner)]!r}"
        elif owner is trainer.model:
            found = f"{method} of the model"
        elif owner is trainer.loss or owner is trainer.optimizer:
            found = f"{method} of {owner!r}"
        frames = frames.tb_next
    return found
