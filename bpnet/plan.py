"""A training step as a plan: recorded once, fused, bound to buffers, and replayed without Python between the calls.

A step is a straight line of kernel calls, because layers touch arrays only through kernels. `bpnet.trace` notes them
while the step runs eagerly. A `Plan` fuses neighbours, gives every intermediate its memory (the same bytes to what is
never in use together: `bpnet.arena`), lets results be written where they are wanted, and prepares each call.
`bpnet.planner` decides when it is trusted. Layers know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from operator import setitem
from typing import Any

from bpnet import ops
from bpnet.arena import Arena, bytes_of, of_equal_shapes, roots, storages
from bpnet.backend import Backend
from bpnet.dispatch import Array, Call, Kernel, Variant, joined
from bpnet.trace import Step, Trace, Value, flat, mapped


def fuse_activations(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let a product or convolution apply the elementwise activation that is the only reader of its result."""
    readers = _readers(steps)
    fused, gone = list(steps), set()
    for i, step in enumerate(steps):
        if len(step.args) != step.kernel.activation_at or step.out in wanted:
            continue
        if len(readers.get(step.out, [])) != 1:
            continue
        j = readers[step.out][0]
        reader = steps[j]
        single = reader.kernel.elementwise and reader.args[0] is step.out
        if single and not any(isinstance(arg, Value) for arg in flat(reader.args[1:])):
            fused[i] = Step(step.kernel, (*step.args, reader.kernel, *reader.args[1:]), reader.out)
            gone.add(j)
    return [step for i, step in enumerate(fused) if i not in gone]


ONE_PASS = {
    ops.softmax_cross_entropy: (ops.softmax_cross_entropy_backward, ops.softmax_cross_entropy_gradient),
    ops.soft_cross_entropy: (ops.soft_cross_entropy_backward, ops.soft_cross_entropy_gradient),
}


def fuse_loss(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let softmax and cross-entropy give the loss and the gradient in one pass where nobody else reads p."""
    readers = _readers(steps)
    fused, gone = list(steps), set()
    for i, step in enumerate(steps):
        if step.kernel not in ONE_PASS:
            continue
        kernel_backward, kernel_gradient = ONE_PASS[step.kernel]
        loss, p = step.out
        after = readers.get(p, [])
        if p in wanted or len(after) != 1 or steps[after[0]].kernel is not kernel_backward:
            continue
        backward = steps[after[0]]
        logits, targets, normalizer = step.args
        same = backward.args[0] is p and backward.args[1] is targets and backward.args[2] == normalizer
        if same and not isinstance(backward.args[3], Value):
            args = (logits, targets, normalizer, backward.args[3])
            fused[i] = Step(kernel_gradient, args, (loss, backward.out))
            gone.add(after[0])
    return [step for i, step in enumerate(fused) if i not in gone]


def fuse_accumulation(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let `linear_backward` add to gradients where additions right behind it are all that reads dW and db."""
    readers = _readers(steps)
    fused, gone = list(steps), set[int]()
    for i, step in enumerate(steps):
        if step.kernel is not ops.linear_backward:
            continue
        dx, *gradients = step.out
        given = [each for each in gradients if each is not None]
        behind = steps[i + 1 : i + 1 + len(given)]
        whole = gradients[0] is not None and [each.args[1:] for each in behind] == [(each,) for each in given]
        if whole and all(
            each.kernel is ops.add_
            and each.args[0].fixed is not None
            and (each.args[0].shape, each.args[0].dtype) == (value.shape, value.dtype)
            and len(readers[value]) == 1
            and value not in wanted
            for each, value in zip(behind, given, strict=True)
        ):
            dy, x, W, *need_dx = step.args[:4]
            gW, gb = behind[0].args[0], behind[1].args[0] if len(given) == 2 else None
            fused[i] = Step(ops.linear_backward_add_, (gW, gb, dy, x, W, *need_dx), dx)
            gone.update(range(i + 1, i + 1 + len(given)))
    return [step for i, step in enumerate(fused) if i not in gone]


UPDATES = (
    ops.sgd_, ops.sgd_momentum_, ops.adam_, ops.amsgrad_, ops.adagrad_, ops.rmsprop_, ops.lion_
)  # fmt: skip


BEFORE_PRODUCTS = (
    ops.relu, ops.leaky_relu, ops.sigmoid, ops.tanh, ops.gelu, ops.gelu_tanh, ops.elu, ops.silu, ops.softplus, ops.mish,
    ops.hardswish, ops.gelu_with_slope, ops.gelu_tanh_with_slope, ops.layer_norm, ops.rms_norm, ops.dropout,
    ops.attention_bf16, ops.self_attention_bf16,
)  # fmt: skip


def fuse_bits(steps: list[Step]) -> list[Step]:
    """Let what makes the input of a product in bfloat16 also write its bits, in the pass that makes it."""
    fused: list[Step] = []
    makers: dict[Value, int] = {}  # of results whose bits nobody writes yet
    for step in steps:
        index = makers.pop(step.args[0], None) if step.kernel is ops.to_bf16 else None
        if index is not None:
            before = fused[index]
            x, *rest = before.args
            fused[index] = Step(ops.also_bf16, (x, before.kernel, *rest), (*flat((before.out,)), step.out))
            continue
        if step.kernel in BEFORE_PRODUCTS:
            makers[next(iter(flat((step.out,))))] = len(fused)
        fused.append(step)
    return fused


def fuse_rounding(steps: list[Step]) -> list[Step]:
    """Let an optimizer's pass write the copies in bfloat16 of what it changes, where they are made right behind it."""
    fused: list[Step] = []
    for step in steps:
        before = fused[-1] if fused else None
        if (
            step.kernel is ops.round_bf16_
            and before is not None
            and before.kernel in UPDATES
            and before.args[0] is step.args[1]
        ):
            value, *rest = before.args
            fused[-1] = Step(ops.update_bf16_, (value, step.args[0], before.kernel, *rest), None)
        else:
            fused.append(step)
    return fused


def write_in_place(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let a call write where a following `copy_` into a fixed array would bring its result."""
    readers = _readers(steps)
    result = list(steps)
    gone = set()
    for i, step in enumerate(steps):
        if step.kernel.view:
            continue
        j = i + 1
        while j < len(steps) and steps[j].kernel is ops.copy_ and steps[j].args[1] in set(flat(step.out)):
            target, source = steps[j].args
            same = (target.shape, target.dtype) == (source.shape, source.dtype)
            if same and target.fixed is not None and len(readers[source]) == 1 and source not in wanted:
                out = mapped(partial(_swap, source, target), result[i].out)
                result[i] = replace(result[i], out=out)
                gone.add(j)
            j += 1
    return [step for i, step in enumerate(result) if i not in gone]


def _swap(old: Any, new: Any, each: Any) -> Any:
    return new if each is old else each


def _readers(steps: list[Step]) -> dict[Any, list[int]]:
    """For every value, the indices of the calls that take it, once per occurrence."""
    found: dict[Any, list[int]] = {}
    for index, step in enumerate(steps):
        for arg in flat(step.args):
            if isinstance(arg, Value):
                found.setdefault(arg, []).append(index)
    return found


WORTH_POINTING = 1 << 16
"""Bytes of an input from which calls are pointed at it: to copy less takes no longer than to tell them."""

UNWRITTEN = 0xFF
"""What every byte of a plan's memory is before its first replay, which proves it: floating numbers are not a number."""


class Plan:
    """A bound step: `replay(*inputs)` copies the inputs into its buffers and makes the prepared calls.

    trace    : of an eager step; result : what the step returned, and replay returns a copy of
    prepared : whether some call is prepared, so that replaying saves something
    bytes    : of the buffers, and of the scratch that lies between them
    """

    def __init__(self, trace: Trace, result: Value, backend: Backend) -> None:
        self.backend = backend
        wanted = {result}
        steps = fuse_loss(fuse_activations(trace.steps, wanted), wanted)
        if any(issubclass(backend.array_type, cls) for cls, _ in ops.linear_backward_add_.variants()):
            steps = fuse_accumulation(steps, wanted)
        if any(issubclass(backend.array_type, cls) for cls, _ in ops.update_bf16_.variants()):
            steps = fuse_rounding(steps)
        if any(issubclass(backend.array_type, cls) for cls, _ in ops.also_bf16.variants()):
            steps = fuse_bits(steps)
        self.steps = write_in_place(steps, wanted)
        self._buffers: dict[Value, Array] = {}
        self._calls: list[Call] = []
        self.bytes = 0
        self._bind(trace, result)
        self._inputs = tuple(self._buffers[value] for value in trace.input_values)
        self._accepted = tuple((type(each), each.dtype, hasattr(each, "requires_grad")) for each in self._inputs)
        self._result = self._array(result)
        whole = partial(backend.xp.asarray, self._result, copy=True)
        self._copy_result: Call = getattr(self._result, "copy", whole)  # the array's own method is several times faster
        self._graph: Call | None = None
        self._writers = self._bringing(trace, result)

    def bring(self, *inputs: Array) -> None:
        """Let the calls find the inputs, of the recorded shapes and dtypes: where they are, or in the plan's buffers.

        What the calls are pointed at must be there as long as they are made.
        """
        for write, array in zip(self._writers, inputs, strict=True):
            write(array)

    def replay(self, *inputs: Array) -> Array:
        """Make the step with `inputs`, of the recorded shapes and dtypes; return a copy of its result."""
        self.bring(*inputs)
        if self._graph is not None:
            self._graph()
        else:
            for call in self._calls:
                call()
        return self._copy_result()

    @property
    def captured(self) -> bool:
        """Whether the backend makes all calls at once."""
        return self._graph is not None

    def capture(self) -> None:
        """Let the backend record the calls, which have been made before; raises what prevents it."""
        record: Callable[[list[Call]], Call] = self.backend.capture  # type: ignore[attr-defined]  # of `Abilities`
        self._graph = record(list(self._calls))

    def release(self) -> None:
        """Make the calls one by one again."""
        self._graph = None

    def takes(self, *inputs: Array) -> bool:
        """Whether the inputs are of the library and the dtypes that were recorded."""
        for (cls, dtype, followed), array in zip(self._accepted, inputs, strict=True):
            if type(array) is not cls or (array.dtype is not dtype and array.dtype != dtype):
                return False
            if followed and array.requires_grad:  # PyTorch's autograd must not follow into the buffers
                return False
        return True

    def _array(self, value: Value) -> Array:
        return value.fixed if value.fixed is not None else self._buffers[value]

    def _bind(self, trace: Trace, result: Value) -> None:
        inputs = {value: self._new(value) for value in trace.input_values}
        stored = storages(self.steps, inputs, result, self._overwrites)
        if hasattr(self.backend, "carve"):
            own = self.bytes
            asked = self._bind_calls(inputs, Arena(self.backend, stored, {}))
            if asked:
                self.bytes, self._calls, self._buffers = own, [], {}  # and so the first arena is gone
                self._bind_calls(inputs, Arena(self.backend, stored, asked))
        else:
            self._bind_calls(inputs | of_equal_shapes(stored, self._new), None)
        self.prepared = any(getattr(call, "func", None) is not _write_result for call in self._calls)
        self._calls = joined(self._calls)

    def _bind_calls(self, arrays: dict[Value, Array], arena: Arena | None) -> dict[int, int]:
        """Prepare the calls on these arrays, and those of the arena.

        Those that need scratch for which no place has been found yet are left out: returned are their indices, and how
        many bytes. They are bound to whatever there is, to learn that.
        """
        self._buffers, asked = arrays | ({} if arena is None else arena.arrays), dict[int, int]()
        share = getattr(self.backend, "shared_scratch", nullcontext) if arena is not None else nullcontext
        with share() as scratch:
            for index, step in enumerate(self.steps):
                if scratch is not None and arena is not None:
                    scratch.lend(arena.lent.get(index, arena.memory))
                calls = self._bound(step)
                if scratch is not None and arena is not None and scratch.asked and index not in arena.lent:
                    asked[index] = scratch.asked
                else:
                    self._calls += calls
        if arena is not None:
            self.bytes += arena.bytes
            arena.memory[...] = UNWRITTEN
        return asked

    def _bound(self, step: Step) -> list[Call]:
        """The prepared calls of one step; none for a view that is made once and for all."""
        args = mapped(lambda arg: self._array(arg) if isinstance(arg, Value) else arg, step.args)
        variant = step.kernel.choose(args)
        if step.kernel.view and isinstance(step.out, Value) and self._views(step, variant.body, args):
            return []
        for value in flat(step.out):
            if isinstance(value, Value) and value.fixed is None and not self._has_place(value, step, variant):
                self._buffers[value] = self._new(value)
        out = mapped(lambda each: None if each is None else self._array(each), step.out)
        if variant.bind is None:
            return [partial(_write_result, variant.body, out, args)]
        return variant.bind(out, *args)

    def _overwrites(self, kernel: Kernel) -> bool:
        """Whether the backend has a body that is as fast where it writes over the first argument."""
        found = kernel.variants()
        return any(variant.overwrites and issubclass(self.backend.array_type, cls) for cls, variant in found)

    def _has_place(self, value: Value, step: Step, variant: Variant) -> bool:
        """Whether a result of a call has memory: not where it is a view that was copied after all, nor where it was to
        be written over the first argument and the body that was chosen cannot do that.
        """
        array, first = self._buffers.get(value), step.args[0]
        over = isinstance(first, Value) and first is not value and self._buffers.get(first) is array
        return array is not None and (variant.overwrites or not over)

    def _bringing(self, trace: Trace, result: Value) -> list[Callable[[Array], None]]:
        """For each input the function that brings it: a copy into its buffer, or what lets the calls read it in place.

        The latter where it is long and every call has `pointer_to(buffer)`, so knows everything that it reads.
        """
        writer = getattr(self.backend, "writer", None)
        if writer is not None:
            return [writer(buffer) for buffer in self._inputs]
        returned = roots(self.steps).get(result, result) in trace.input_values
        found: list[Callable[[Array], None]] = []
        for value, buffer in zip(trace.input_values, self._inputs, strict=True):
            copy = partial(setitem, buffer, ...)
            pointers = [getattr(call, "pointer_to", lambda _: None)(buffer) for call in self._calls]
            points = [each for each in pointers if each is not None]
            if returned or bytes_of(value) < WORTH_POINTING or len(points) < len(pointers):
                found.append(copy)
            else:
                found.append(partial(_read_in_place, copy, buffer, points))
        return found

    def _views(self, step: Step, body: Callable[..., Array], args: tuple[Any, ...]) -> bool:
        """Make the result of a view once and for all, if it really shares the memory of a buffer of this plan."""
        source = step.args[0]
        if not isinstance(source, Value) or source.fixed is not None or 0 in step.out.shape:
            return False
        buffer = args[0]
        buffer[...] = 1
        view = body(*args)
        buffer[...] = 0
        shares = not bool(self.backend.xp.any(view != 0))
        if shares:
            self._buffers[step.out] = view
        return shares

    def _new(self, value: Value) -> Array:
        self.bytes += bytes_of(value)
        return self.backend.zeros(value.shape, value.dtype)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return "\n".join(repr(step) for step in self.steps)


def _read_in_place(
    copy: Callable[[Array], None], buffer: Array, points: list[Callable[[Array], None]], array: Array
) -> None:
    """Point the calls at an input, or at its buffer, with a copy in it, where it does not lie as they read it."""
    if not (array.flags.c_contiguous and array.flags.aligned and array.shape == buffer.shape):
        copy(array)
        array = buffer
    for point in points:
        point(array)


def _write_result(body: Callable[..., Any], out: Any, args: tuple[Any, ...]) -> None:
    """Run a body that cannot be told where to write, and copy its result there."""
    result = body(*args)
    for target, each in zip(flat(out), flat(result), strict=True):
        if target is not None:
            target[...] = each
