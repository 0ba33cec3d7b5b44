"""Recurrent networks: one product of all inputs, then for every step a product of the states and one fused launch.

x, W and U may be bits of bfloat16. Then a step's launch also writes the bits of the state, or of its gradient, which
the next product takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call
from bpnet.ops.recurrent import order
from bpnet_cupy.driver import Driver
from bpnet_cupy.kernels.bfloat16 import rounding
from bpnet_cupy.kernels.common import BLOCK, FLOAT32, UINT16, Array, blocks, halves, labels_of, named, real
from bpnet_cupy.kernels.linear import column_sum

UNITS = {"tanh": "TanhUnit", "relu": "ReluUnit"}


def taken(arrays: tuple[Array, ...], lengths: Array | None, *states: Array | None) -> bool:
    """Whether the kernels take these arrays, lengths of the first one's sequences, and states or None."""
    found = (*arrays, *(each for each in states if each is not None))
    return real(*found) and (lengths is None or labels_of(lengths, arrays[0].shape[0]))


def taken_in_bf16(
    bits: tuple[Array, ...], arrays: tuple[Array, ...], lengths: Array | None, *states: Array | None
) -> bool:
    """The same, where some of the arrays are bits of bfloat16 and the others float32."""
    return (
        halves(*bits)
        and arrays[0].dtype == FLOAT32
        and taken(arrays, None, *states)
        and (lengths is None or labels_of(lengths, bits[0].shape[0]))
    )


def kind_of_sums(x: Array) -> Any:
    """The dtype of sums of products of numbers like these."""
    return FLOAT32 if x.dtype == UINT16 else x.dtype


def kind_of(lengths: Array | None) -> str:
    """The C++ name of the lengths' elements."""
    return "long long" if lengths is None else named(lengths)


def register(array_type: type, driver: Driver) -> None:
    """Register the bodies for arrays of `array_type`."""

    def product(out: Array, a: Array, b: Array) -> Call:
        call = driver.matmul(out, a, b)
        assert call is not None
        return call

    def inputs(x: Array, W: Array) -> tuple[Array, Call]:
        """x W of all steps, (N T, G), and the call that makes it."""
        n, n_steps, n_in = x.shape
        xW = driver.empty((n * n_steps, W.shape[1]), kind_of_sums(x))
        return xW, product(xW, x.reshape(n * n_steps, n_in), W)

    def each_step(n: int, n_steps: int, width: int, reverse: bool) -> Any:
        """(t, the step before or -1, the sizes that every kernel gets) in the order of the steps."""
        last = -1
        for t in order(n_steps, reverse):
            yield t, last, (np.int64(n), np.int64(n_steps), np.int64(width), np.int64(t))
            last = t

    def state_of(shape: tuple[int, ...], x: Array) -> tuple[Array | None, Array | None, Array]:
        """Where a step writes what the next product takes: numbers or None, bits or None; and that which it takes."""
        found = driver.empty(shape, x.dtype)
        return (None, found, found) if x.dtype == UINT16 else (found, None, found)

    def as_factor(h: Array | None, x: Array) -> tuple[Array | None, list[Call]]:
        """The state to go on from as a product with it takes it, and the calls that make it so."""
        if h is None or x.dtype != UINT16:
            return h, []
        bits = driver.empty(h.shape, UINT16)
        return bits, [rounding(driver, bits, h)]

    def rnn(
        y: Array, x: Array, W: Array, U: Array, b: Array, activation: str, lengths: Array | None = None,
        reverse: bool = False, h: Array | None = None,
    ) -> list[Call]:  # fmt: skip
        n, n_steps, width = y.shape
        xW, first = inputs(x, W)
        *written, state = state_of((n, width), x)
        hU = driver.empty((n, width), y.dtype)
        kernel = f"rnn_step<{named(y)}, {kind_of(lengths)}, {UNITS[activation]}>"
        h, rounded = as_factor(h, x)
        calls, grid = [first, *rounded], blocks(driver, n * width)
        for _t, _last, sizes in each_step(n, n_steps, width, reverse):
            if h is not None:
                calls.append(product(hU, h, U))
            args = (y, *written, xW, None if h is None else hU, b, lengths, *sizes)
            calls.append(driver.launch(kernel, grid, BLOCK, args))
            h = state
        return calls

    def lstm(
        out: Any, x: Array, W: Array, U: Array, b: Array, lengths: Array | None = None, reverse: bool = False,
        h: Array | None = None, c: Array | None = None,
    ) -> list[Call]:  # fmt: skip
        y, gates, cells = out
        n, n_steps, width = y.shape
        xW, first = inputs(x, W)
        *written, state = state_of((n, width), x)
        hU = driver.empty((n, 4 * width), y.dtype)
        kernel = f"lstm_step<{named(y)}, {kind_of(lengths)}>"
        h, rounded = as_factor(h, x)
        calls, grid = [first, *rounded], blocks(driver, n * width)
        for _t, last, sizes in each_step(n, n_steps, width, reverse):
            if h is not None:
                calls.append(product(hU, h, U))
            args = (y, gates, cells, *written, xW, None if h is None else hU, b, c, lengths, *sizes, np.int64(last))
            calls.append(driver.launch(kernel, grid, BLOCK, args))
            h = state
        return calls

    def gru(
        out: Any, x: Array, W: Array, U: Array, b: Array, b_n: Array, lengths: Array | None = None,
        reverse: bool = False, h: Array | None = None,
    ) -> list[Call]:  # fmt: skip
        y, gates = out
        n, n_steps, width = y.shape
        xW, first = inputs(x, W)
        state, hU = driver.empty((n, width), y.dtype), driver.empty((n, 3 * width), y.dtype)
        bits = driver.empty(state.shape, UINT16) if x.dtype == UINT16 else None
        kernel = f"gru_step<{named(y)}, {kind_of(lengths)}>"
        factor, rounded = as_factor(h, x)
        calls, grid = [first, *rounded], blocks(driver, n * width)
        for _t, _last, sizes in each_step(n, n_steps, width, reverse):
            if h is not None:
                calls.append(product(hU, factor, U))
            args = (y, gates, state, bits, xW, None if h is None else hU, h, b, b_n, lengths, *sizes)
            calls.append(driver.launch(kernel, grid, BLOCK, args))
            h, factor = state, state if bits is None else bits
        return calls

    def rnn_results(x: Array, W: Array, U: Array, *_: Any) -> Any:
        return driver.empty((*x.shape[:2], U.shape[0]), kind_of_sums(x))

    def lstm_results(x: Array, W: Array, U: Array, *_: Any) -> Any:
        (n, n_steps), width, kind = x.shape[:2], U.shape[0], kind_of_sums(x)
        shapes = (n, n_steps, width), (n_steps, 4, n, width), (n_steps, n, width)
        return tuple(driver.empty(shape, kind) for shape in shapes)

    def gru_results(x: Array, W: Array, U: Array, *_: Any) -> Any:
        (n, n_steps), width, kind = x.shape[:2], U.shape[0], kind_of_sums(x)
        return driver.empty((n, n_steps, width), kind), driver.empty((n_steps, n, 4 * width), kind)

    ops.rnn.register_bound(
        array_type,
        accepts=lambda x, W, U, b, activation, lengths=None, reverse=False, h=None: taken((x, W, U, b), lengths, h),
        allocate=rnn_results,
    )(rnn)
    ops.rnn_bf16.register_bound(
        array_type,
        accepts=lambda x, W, U, b, activation, lengths=None, reverse=False, h=None: taken_in_bf16(
            (x, W, U), (b,), lengths, h
        ),
        allocate=rnn_results,
    )(rnn)
    ops.lstm.register_bound(
        array_type,
        accepts=lambda x, W, U, b, lengths=None, reverse=False, h=None, c=None: taken((x, W, U, b), lengths, h, c),
        allocate=lstm_results,
    )(lstm)
    ops.lstm_bf16.register_bound(
        array_type,
        accepts=lambda x, W, U, b, lengths=None, reverse=False, h=None, c=None: taken_in_bf16(
            (x, W, U), (b,), lengths, h, c
        ),
        allocate=lstm_results,
    )(lstm)
    ops.gru.register_bound(
        array_type,
        accepts=lambda x, W, U, b, b_n, lengths=None, reverse=False, h=None: taken((x, W, U, b, b_n), lengths, h),
        allocate=gru_results,
    )(gru)
    ops.gru_bf16.register_bound(
        array_type,
        accepts=lambda x, W, U, b, b_n, lengths=None, reverse=False, h=None: taken_in_bf16(
            (x, W, U), (b, b_n), lengths, h
        ),
        allocate=gru_results,
    )(gru)

    def gradients(n_biases: int, n_kept: int) -> Callable[..., Any]:
        """The places of the gradients, for a backward that takes so many arguments between U and lengths."""

        def allocate(dy: Array, y: Array, x: Array, W: Array, U: Array, *rest: Any) -> Any:
            need_dx, need_weights = (*rest[n_kept + 2 :], True, True)[:2]
            sizes = (W.shape, U.shape, W.shape[1:], U.shape[:1])[: 2 + n_biases]
            weights = (driver.empty(size, dy.dtype) if need_weights else None for size in sizes)
            return (driver.empty(x.shape, dy.dtype) if need_dx else None, *weights)

        return allocate

    def before(y: Array, x: Array, reverse: bool) -> tuple[Array, Call]:
        """The states that the steps started from, (N T, H), as factors like x, and the call that copies them."""
        n, n_steps, width = y.shape
        found = driver.empty((n * n_steps, width), x.dtype)
        args = (found, y, *map(np.int64, y.shape), np.bool_(reverse))
        return found, driver.launch(f"states_before<{named(y)}, {named(x)}>", blocks(driver, y.size), BLOCK, args)

    def factors(x: Array, *gradients: Array) -> tuple[list[Array], list[Call]]:
        """The gradients of all steps as factors like x; what stands there twice is made once."""
        if x.dtype != UINT16:
            return list(gradients), []
        made = {id(each): (each, driver.empty(each.shape, UINT16)) for each in gradients}
        return [made[id(each)][1] for each in gradients], [rounding(driver, bits, each) for each, bits in made.values()]

    def at_the_end(
        out: Any, p: Array, q: Array, y: Array, x: Array, W: Array, lengths: Array | None, reverse: bool
    ) -> list[Call]:
        """The gradients of x, W, U and b from those of all x_t W + b and of all h_{t-1} U, (N T, G)."""
        dx, dW, dU, db = out
        rows = x.reshape(-1, x.shape[-1])
        (of_x, of_h), calls = factors(x, p, q)
        if dx is not None:
            calls.append(product(dx.reshape(rows.shape), of_x, W.T))
        if dW is None:
            return calls
        if lengths is not None:
            there = driver.empty(rows.shape, x.dtype)
            kernel = f"present_steps<{named(x)}, {named(lengths)}>"
            args = (there, x, lengths, *map(np.int64, x.shape))
            calls.append(driver.launch(kernel, blocks(driver, x.size), BLOCK, args))
            rows = there
        states, copied = before(y, x, reverse)
        return [*calls, copied, product(dW, rows.T, of_x), product(dU, states.T, of_h), column_sum(driver, db, p)]

    def rnn_backward(
        out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, activation: str, lengths: Array | None = None,
        reverse: bool = False, *_: bool,
    ) -> list[Call]:  # fmt: skip
        n, n_steps, width = y.shape
        d = driver.empty((n * n_steps, width), y.dtype)
        *written, dz = state_of((n, width), x)
        back = driver.empty((n, width), y.dtype)
        kernel = f"rnn_step_backward<{named(y)}, {kind_of(lengths)}, {UNITS[activation]}>"
        calls: list[Call] = []
        for _t, last, sizes in each_step(n, n_steps, width, not reverse):
            if last >= 0:
                calls.append(product(back, dz, U.T))
            args = (d, *written, dy, y, back if last >= 0 else None, lengths, *sizes)
            calls.append(driver.launch(kernel, blocks(driver, n * width), BLOCK, args))
        return calls + at_the_end(out, d, d, y, x, W, lengths, reverse)

    def lstm_backward(
        out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, cells: Array,
        lengths: Array | None = None, reverse: bool = False, *_: bool,
    ) -> list[Call]:  # fmt: skip
        n, n_steps, width = y.shape
        d = driver.empty((n * n_steps, 4 * width), y.dtype)
        *written, dz = state_of((n, 4 * width), x)
        back, dc = driver.empty((n, width), y.dtype), driver.empty((n, width), y.dtype)
        kernel = f"lstm_step_backward<{named(y)}, {kind_of(lengths)}>"
        calls: list[Call] = []
        for t, last, sizes in each_step(n, n_steps, width, not reverse):
            first = last < 0
            if not first:
                calls.append(product(back, dz, U.T))
            more = (*sizes, np.int64(step_before(t, n_steps, reverse)), np.bool_(first))
            args = (d, *written, dc, dy, gates, cells, None if first else back, lengths, *more)
            calls.append(driver.launch(kernel, blocks(driver, n * width), BLOCK, args))
        return calls + at_the_end(out, d, d, y, x, W, lengths, reverse)

    def gru_backward(
        out: Any, dy: Array, y: Array, x: Array, W: Array, U: Array, gates: Array, lengths: Array | None = None,
        reverse: bool = False, *_: bool,
    ) -> list[Call]:  # fmt: skip
        *others, db_n = out
        n, n_steps, width = y.shape
        p = driver.empty((n * n_steps, 3 * width), y.dtype)
        q = None if db_n is None else driver.empty(p.shape, y.dtype)
        *written, step = state_of((n, 3 * width), x)
        back, carried = driver.empty((n, width), y.dtype), driver.empty((n, width), y.dtype)
        kernel = f"gru_step_backward<{named(y)}, {kind_of(lengths)}>"
        calls: list[Call] = []
        for t, last, sizes in each_step(n, n_steps, width, not reverse):
            if last >= 0:
                calls.append(product(back, step, U.T))
            arrays = (p, q, *written, carried, dy, y, gates, back if last >= 0 else None, lengths)
            args = (*arrays, *sizes, np.int64(step_before(t, n_steps, reverse)))
            calls.append(driver.launch(kernel, blocks(driver, n * width), BLOCK, args))
        calls += at_the_end(others, p, p if q is None else q, y, x, W, lengths, reverse)
        if db_n is None:
            return calls
        sums = driver.empty(3 * width, y.dtype)
        numbers = map(np.int64, (1, width, width, 0, 3 * width, 2 * width))
        copied = driver.launch(f"copy_columns<{named(y)}>", blocks(driver, width), BLOCK, (db_n, sums, *numbers))
        return [*calls, column_sum(driver, sums, q), copied]

    ops.rnn_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, activation, lengths=None, *_: taken((dy, y, x, W, U), lengths),
        allocate=gradients(1, 1),
    )(rnn_backward)
    ops.rnn_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, activation, lengths=None, *_: taken_in_bf16((x, W, U), (dy, y), lengths),
        allocate=gradients(1, 1),
    )(rnn_backward)
    ops.lstm_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, gates, cells, lengths=None, *_: taken((dy, y, x, W, U, gates, cells), lengths),
        allocate=gradients(1, 2),
    )(lstm_backward)
    ops.lstm_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, gates, cells, lengths=None, *_: taken_in_bf16(
            (x, W, U), (dy, y, gates, cells), lengths
        ),
        allocate=gradients(1, 2),
    )(lstm_backward)
    ops.gru_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, gates, lengths=None, *_: taken((dy, y, x, W, U, gates), lengths),
        allocate=gradients(2, 1),
    )(gru_backward)
    ops.gru_bf16_backward.register_bound(
        array_type,
        accepts=lambda dy, y, x, W, U, gates, lengths=None, *_: taken_in_bf16((x, W, U), (dy, y, gates), lengths),
        allocate=gradients(2, 1),
    )(gru_backward)

    @ops.last_step.register_bound(
        array_type,
        accepts=lambda y, lengths=None, reverse=False: taken((y,), lengths),
        allocate=lambda y, *_: driver.empty((y.shape[0], y.shape[2]), y.dtype),
    )
    def _(out: Array, y: Array, lengths: Array | None = None, reverse: bool = False) -> list[Call]:
        args = (out, y, lengths, *map(np.int64, y.shape), np.bool_(reverse))
        kernel = f"last_step<{named(y)}, {kind_of(lengths)}>"
        return [driver.launch(kernel, blocks(driver, out.size), BLOCK, args)]

    @ops.last_step_backward.register_bound(
        array_type,
        accepts=lambda dy, n_steps, lengths=None, reverse=False: n_steps > 0 and taken((dy,), lengths),
        allocate=lambda dy, n_steps, *_: driver.empty((dy.shape[0], n_steps, dy.shape[1]), dy.dtype),
    )
    def _(out: Array, dy: Array, n_steps: int, lengths: Array | None = None, reverse: bool = False) -> list[Call]:
        args = (out, dy, lengths, *map(np.int64, out.shape), np.bool_(reverse))
        kernel = f"last_step_backward<{named(dy)}, {kind_of(lengths)}>"
        return [driver.launch(kernel, blocks(driver, out.size), BLOCK, args)]


def step_before(t: int, n_steps: int, reverse: bool) -> int:
    """The step that the forward made before t; -1 where t was the first."""
    return (-1 if t == n_steps - 1 else t + 1) if reverse else t - 1
