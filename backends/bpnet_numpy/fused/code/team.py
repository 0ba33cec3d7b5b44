"""Parts of a program that run at the same time, on threads that wait for them.

The team's state is int64 numbers, eight a thread, so that none shares a cache line with another's. Of the first eight,
[0] is 1 while a fork uses the team, [1] counts the programs that run. Of a helper's eight, [0] is the address of the
part that it shall run, BEGUN while it runs, 0 else; [1] is 1 while it sleeps. Who claims a part by changing its address
runs it: its helper, or the caller, once that has done its own. So nobody waits for a helper that has not begun, and
what is computed does not depend on who does it. A part is its number of words, and its words.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bpnet_numpy.fused.code.intrinsics import FLAGS, I64, call, set_threads, threads_of, word, words

BEGUN = 1
PATIENCE = 2000  # looks at a part that a helper has begun, after which the processor is offered to others
_PAUSE = {"x86_64": "llvm.x86.sse2.pause", "amd64": "llvm.x86.sse2.pause"}.get(platform.machine().lower())


def _place(builder: Any, arguments: Any) -> Any:
    return builder.gep(builder.inttoptr(arguments[0], I64.as_pointer()), [arguments[1]])


@intrinsic
def look(typing: Any, address: Any, index: Any) -> Any:
    """The number `index` at an address, as another thread left it with all that it wrote before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, arguments), "acquire", 8)

    return types.int64(types.intp, types.intp), generate


@intrinsic
def show(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Set the number `index` at an address, for other threads to see with all that was written before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _place(builder, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64), generate


@intrinsic
def claim(typing: Any, address: Any, index: Any, old: Any, new: Any) -> Any:
    """Change the number `index` at an address from `old` to `new`; whether it was `old`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(builder, arguments)
        return builder.extract_value(builder.cmpxchg(place, arguments[2], arguments[3], "acq_rel", "acquire"), 1)

    return types.boolean(types.intp, types.intp, types.int64, types.int64), generate


def _exchange(operation: str) -> Any:
    @intrinsic
    def exchange(typing: Any, address: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.atomic_rmw(operation, _place(builder, arguments), arguments[2], "seq_cst")

        return types.int64(types.intp, types.intp, types.int64), generate

    return exchange


put, add = _exchange("xchg"), _exchange("add")
"""Set, or add to, the number `index` at an address, and return what it was; all threads see these in one order."""


@intrinsic
def pause(typing: Any) -> Any:
    """Let the processor know that this thread waits for another one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _PAUSE is not None:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic(_PAUSE, (), kind), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(**FLAGS)
def run(part: Any) -> None:
    """Make the instructions of a part."""
    end = part + 8 * (word(part, 0) + 1)
    at = part + 8
    while at < end:
        call(word(at, 0), at + 16)
        at += 8 * (word(at, 1) + 2)


@njit(**FLAGS)
def wait(state: Any, index: Any, give_way: Any) -> None:
    """Return when a helper has done its part."""
    looks = 0
    while look(state, 8 * index) != 0:
        pause()
        looks += 1
        if looks % PATIENCE == 0 and give_way != 0:
            threads_of(give_way)


def fork(p: Any) -> None:
    """Words: state, OpenBLAS's functions that get and set its threads (or 0), what gives way, parts, their addresses.

    Products of the parts use one thread each. Where OpenBLAS is to use one in all, so does this.
    """
    a = words(p)
    state, n = word(a, 0), word(a, 4)
    before = threads_of(word(a, 1)) if word(a, 1) != 0 else 2
    together = before != 1 and claim(state, 0, 0, 1)
    if word(a, 1) != 0 and before != 1:
        set_threads(word(a, 2), 1)
    if together:
        for i in range(1, n):
            show(state, 8 * i, word(a, 5 + i))
    run(word(a, 5))
    for i in range(1, n):
        if not together or claim(state, 8 * i, word(a, 5 + i), 0):
            run(word(a, 5 + i))
        else:
            wait(state, i, word(a, 3))
    if together:
        show(state, 0, 0)
    if word(a, 1) != 0 and before != 1:
        set_threads(word(a, 2), before)


def serve(state: Any, index: Any, looks: Any) -> None:
    """Run what is given to a helper, until nothing was for so many looks, and no program runs."""
    put(state, 8 * index + 1, 0)
    idle = 0
    while True:
        part = look(state, 8 * index)
        if part > BEGUN and claim(state, 8 * index, part, BEGUN):
            run(part)
            show(state, 8 * index, 0)
            idle = 0
        elif look(state, 1) != 0:
            idle = 0
        pause()
        idle += 1
        if idle > looks:
            put(state, 8 * index + 1, 1)
            if add(state, 1, 0) == 0:
                return
            put(state, 8 * index + 1, 0)
            idle = 0


def execute_together(program: Any, state: Any, size: Any, anyway: Any) -> Any:
    """Run the instructions of a program that forks; where a helper of the team of that size sleeps, only `anyway`.

    Returns whether it was run. Who sleeps says so before it looks whether a program runs, and who runs one says so
    before it looks who sleeps: they cannot miss each other.
    """
    add(state, 1, 1)
    for i in range(1, size):
        if not anyway and look(state, 8 * i + 1) != 0:
            add(state, 1, -1)
            return False
    start = program.ctypes.data
    i = 0
    while i < program.size:
        call(program[i], start + 8 * (i + 2))
        i += program[i + 1] + 2
    add(state, 1, -1)
    return True
