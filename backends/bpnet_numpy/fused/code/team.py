"""Threads that help with one job at a time, without the interpreter and without a system call while work goes on.

A job is a number of units; who is free takes the next one. So which thread computes a unit varies, what it computes
does not, and a helper that the system has taken the processor from holds up no more than the unit that it is at.
Who wants help while the helpers work for another thread does its units alone.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.intrinsics import FLAGS, int64s, release, reserve, threads_of, word
from bpnet_numpy.fused.state import (
    ACTIVE,
    BACK,
    BODY,
    BROADCAST,
    CONDITION,
    FRONT,
    LOCK,
    MUTEX,
    OPEN,
    OWNER,
    SIZE,
    SLEEPERS,
    STOP,
    TAKEN,
    UNITS,
    UNLOCK,
    WAIT,
    WORDS,
    YIELD,
)

PATIENCE = 40_000
"""How often an idle helper looks for work before it sleeps: about a millisecond."""

I32, I64 = ir.IntType(32), ir.IntType(64)
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")


def _place(builder: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, I64.as_pointer()), [index])


@intrinsic
def see(typing: Any, address: Any, index: Any) -> Any:
    """The word as all threads see it now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, *arguments), "seq_cst", 8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def show(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Set a word for all threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _place(builder, *arguments[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def change(typing: Any, address: Any, index: Any, difference: Any) -> Any:
    """Add to a word; returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, *arguments[:2]), arguments[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def exchange(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Set a word; returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _place(builder, *arguments[:2]), arguments[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the processor that this thread waits for another one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _X86:
            name, module = "llvm.x86.sse2.pause", builder.module
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(module.globals.get(name) or ir.Function(module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def take_part(typing: Any, body: Any, words: Any, team: Any, place: Any) -> Any:
    """Call the compiled body at one address with the words at another, a team's state, and this thread's place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I64, I64])
        body, words, *rest = arguments
        builder.call(builder.inttoptr(body, kind.as_pointer()), [builder.inttoptr(words, pointer), *rest])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def system(typing: Any, function: Any, x: Any, y: Any) -> Any:
    """Call a C function at an address with up to two pointers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = ir.IntType(8).as_pointer()
        body = builder.inttoptr(arguments[0], ir.FunctionType(I32, [place, place]).as_pointer())
        builder.call(body, [builder.inttoptr(each, place) for each in arguments[1:]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@njit(**FLAGS)
def next_unit(team: Any, place: Any) -> Any:
    """The number of a unit that nobody else makes, -1 where none is left: from the front at even places, else from the
    back, so that what a thread makes lies beside each other."""
    units = word(team, UNITS)
    if change(team, TAKEN, 1) >= units:
        return -1
    if place % 2 == 0:
        return change(team, FRONT, 1)
    return units - 1 - change(team, BACK, 1)


@njit(**FLAGS)
def _sleep(team: Any) -> None:
    """Wait until somebody opens a job."""
    system(word(team, LOCK), word(team, MUTEX), 0)
    change(team, SLEEPERS, 1)
    while see(team, OPEN) == 0 and see(team, STOP) == 0:
        system(word(team, WAIT), word(team, CONDITION), word(team, MUTEX))
    change(team, SLEEPERS, -1)
    system(word(team, UNLOCK), word(team, MUTEX), 0)


@njit(**FLAGS)
def wake(team: Any) -> None:
    """Let those who sleep look again."""
    system(word(team, LOCK), word(team, MUTEX), 0)
    system(word(team, BROADCAST), word(team, CONDITION), 0)
    system(word(team, UNLOCK), word(team, MUTEX), 0)


def serve(team: int, place: int) -> None:
    """What the helper at a place, 1 or more, does until it is told to stop."""
    looks = 0
    while see(team, STOP) == 0:
        if see(team, OPEN) != 0 and see(team, TAKEN) < word(team, UNITS):
            change(team, ACTIVE, 1)
            if see(team, OPEN) != 0:  # who closes a job waits for those who are active: this one's words stay
                take_part(word(team, BODY), word(team, WORDS), team, place)
            change(team, ACTIVE, -1)
            looks = 0
            continue
        looks += 1
        pause()
        if looks > PATIENCE:
            _sleep(team)
            looks = 0


def dismiss(team: int) -> None:
    """Tell all helpers to stop."""
    show(team, STOP, 1)
    wake(team)


@njit(**FLAGS)
def shared(team: Any, threads: Any, body: Any, words: Any, units: Any) -> None:
    """Make all units of a job, with the helpers where they are free.

    team    : address of the state, 0: nobody helps
    threads : address of the BLAS's function that tells how many threads are wanted, 0: as many as there are
    body    : address of what is called with `words`, a team and a place, and asks for units until there are none
    """
    alone = team == 0 or units < 2
    if not alone and threads != 0:
        alone = threads_of(threads) < 2
    if not alone:
        alone = exchange(team, OWNER, 1) != 0
    if alone:
        own = reserve(8 * SIZE)
        state = int64s(own, SIZE)
        for i in range(SIZE):
            state[i] = 0
        state[UNITS] = units
        take_part(body, words, own, 0)
        release(own)
        return
    show(team, BODY, body)
    show(team, WORDS, words)
    show(team, UNITS, units)
    show(team, FRONT, 0)
    show(team, BACK, 0)
    show(team, TAKEN, 0)
    show(team, OPEN, 1)
    if see(team, SLEEPERS) > 0:
        wake(team)
    take_part(body, words, team, 0)
    show(team, OPEN, 0)
    looks = 0
    while see(team, ACTIVE) != 0:
        looks += 1
        pause()
        if looks > PATIENCE:
            system(word(team, YIELD), 0, 0)
    show(team, OWNER, 0)
