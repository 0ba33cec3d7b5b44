"""Every launch held to the kernel's signature, which is read from the source: a check, and a driver that only records.

What is checked: that the kernel is among the compiled ones; the number and the types of its arguments; that arrays are
contiguous and at least as large as the comment behind the pointer says; that grid and block are within CUDA's limits.
Where the comment begins with `strided`, the array may have gaps, and it says how far from its first element it reaches.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from bpnet.dispatch import Array, Call
from bpnet_cupy.driver import Grid, source, three
from bpnet_cupy.names import TYPES, name_expressions

LIMITS = (2**31 - 1, 65535, 65535)
THREADS = 1024
WARP = 32
SCALARS = {
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned short": np.uint16,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
}
HALVES = np.dtype("uint16")  # bits of bfloat16
_SPELLINGS = {"int64": "long long", "uint64": "unsigned long long"}


class LaunchError(AssertionError):
    """A launch that must not be made: the message says which, and what is wrong with it."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, of an instance: `type` is "float" or "const float*".

    extent  : for a pointer how many elements may be touched, an expression of the kernel's integer parameters
    strided : whether the array may have gaps, which count
    """

    name: str
    type: str
    extent: str = ""
    optional: bool = False
    strided: bool = False

    @property
    def element(self) -> Any:
        """The NumPy type of the number, or of an array's elements."""
        return SCALARS[self.type.removeprefix("const ").removesuffix("*")]


_KERNEL = re.compile(
    r"template <(?P<parameters>[^>]*)>\s*__global__ void (?:TWO_BLOCKS )?(?P<name>\w+)\((?P<list>[^{]*)\) \{"
)
_LIST = re.compile(r"#define (?P<name>[A-Z]+) (?P<list>(?:int \w+(?:, )?)+)$", re.MULTILINE)  # of parameters, by name
_PARAMETER = re.compile(r"(?P<type>[\w ]+?\*?) (?P<name>\w+)(?: /\* (?P<extent>.*?)(?P<none>\?)? \*/)?$")


@cache
def _templates() -> dict[str, tuple[tuple[str, ...], tuple[Parameter, ...]]]:
    found = {}
    shared = {match["name"]: match["list"] for match in _LIST.finditer(source())}
    for match in _KERNEL.finditer(source()):
        given = [each.split() for each in match["parameters"].split(",")]
        names = tuple(each[-1] if len(each) > 1 else "" for each in given)  # "int" alone names nothing
        parameters = []
        listed = re.sub(r"\b[A-Z]+\b", lambda word: shared.get(word[0], word[0]), match["list"])
        for text in " ".join(listed.split()).split(", "):
            each = _PARAMETER.fullmatch(text)
            if each is None:
                raise LaunchError(f"{match['name']} has a parameter that cannot be read: {text!r}")
            if each["type"].endswith("*") and not each["extent"]:
                raise LaunchError(f"{match['name']} does not say how many elements {each['name']} has")
            extent = each["extent"] or ""
            plain = extent.removeprefix("strided ")
            parameters.append(Parameter(each["name"], each["type"], plain, bool(each["none"]), plain != extent))
        found[match["name"]] = (names, tuple(parameters))
    return found


@cache
def signature(name: str) -> tuple[Parameter, ...]:
    """The parameters of an instance such as "adam<float, true>"; LaunchError where there is no such kernel."""
    kernel, _, rest = name.partition("<")
    if kernel not in _templates():
        raise LaunchError(f"there is no kernel {kernel!r}")
    names, parameters = _templates()[kernel]
    values = [each.strip() for each in rest.removesuffix(">").split(",")] if rest else []
    if len(values) != len(names):
        raise LaunchError(f"{name}: the template of {kernel} has the parameters {', '.join(names) or 'none'}")
    chosen = dict(zip(names, values, strict=True)) | _SPELLINGS

    def typed(text: str) -> str:
        return re.sub(r"\w+", lambda word: chosen.get(word[0], word[0]), text)

    return tuple(replace(p, type=typed(p.type)) for p in parameters)


def check(name: str, grid: Grid, block: Grid, args: tuple[Any, ...], array_type: Any) -> None:
    """Raise LaunchError where the launch does not fit the kernel or the device."""
    parameters = signature(name)
    if name not in _compiled():
        raise LaunchError(f"{name} is not among the names that are compiled (bpnet_cupy.names)")
    grid, block = three(grid), three(block)
    for sizes, limits, what in ((grid, LIMITS, "grid"), (block, (THREADS, THREADS, 64), "block")):
        if not all(0 < size <= limit for size, limit in zip(sizes, limits, strict=True)):
            raise LaunchError(f"{name}: a {what} of {sizes}; each must be from 1 to {limits}")
    if math.prod(block) > THREADS or math.prod(block) % WARP:
        raise LaunchError(f"{name}: a block of {block}; it must be whole warps of {WARP}, at most {THREADS} threads")
    if len(args) != len(parameters):
        raise LaunchError(f"{name} takes {len(parameters)} arguments, got {len(args)}")
    numbers = {p.name: int(arg) for p, arg in zip(parameters, args, strict=True) if isinstance(arg, (int, np.integer))}
    numbers |= {f"gridDim_{axis}": size for axis, size in zip("xyz", grid, strict=True)}
    for parameter, arg in zip(parameters, args, strict=True):
        where = f"{name}, {parameter.name}"
        if parameter.extent:
            _check_array(where, parameter, arg, numbers, array_type)
        elif type(arg) is not parameter.element:
            raise LaunchError(f"{where}: must be a {parameter.element.__name__} number, got {_described(arg)}")


def _check_array(where: str, parameter: Parameter, arg: Any, numbers: dict[str, int], array_type: Any) -> None:
    if arg is None:
        if not parameter.optional:
            raise LaunchError(f"{where}: None, where the kernel needs an array")
        return
    if not isinstance(arg, array_type):
        raise LaunchError(f"{where}: must be a {array_type.__name__}, got {_described(arg)}")
    if arg.dtype != parameter.element:
        raise LaunchError(f"{where}: {parameter.type} is passed an array of {arg.dtype}")
    if not (arg.flags.c_contiguous or (parameter.strided and min(arg.strides) > 0)):
        raise LaunchError(f"{where}: an array of shape {arg.shape} and strides {arg.strides}, which is not contiguous")
    need = eval(parameter.extent.replace("gridDim.", "gridDim_"), {"__builtins__": {}}, numbers)
    if need < 1:
        raise LaunchError(f"{where}: {parameter.extent} is {need}: nothing to do, so nothing must be launched")
    size = span(arg)
    if size < need:
        raise LaunchError(f"{where}: {parameter.extent} = {need} elements are touched, the array has {size}")


def span(x: Array) -> int:
    """How many elements there are from the first one of x to its last in memory, gaps included."""
    if x.size == 0:
        return 0
    steps = zip(x.shape, x.strides, strict=True)
    return 1 + int(sum((n - 1) * stride for n, stride in steps)) // int(x.dtype.itemsize)


def _described(arg: Any) -> str:
    return f"the Python number {arg!r}" if type(arg) in (int, float, bool) else f"a {type(arg).__name__}"


@cache
def _compiled() -> frozenset[str]:
    return frozenset(name_expressions())


@dataclass(frozen=True)
class Launch:
    """A launch that was asked for: what each argument is, arrays by (dtype, shape, strides), numbers by value."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]


class CheckingDriver:
    """Checks and notes every launch and product, then leaves them to another driver.

    run : whether the calls do anything; else they only stand for the launches
    """

    def __init__(self, driver: Any, *, run: bool = True) -> None:
        self.driver, self.run = driver, run
        self.array_type: Any = driver.array_type
        self.sm_count: int = driver.sm_count
        self.empty, self.zeros, self.constants = driver.empty, driver.zeros, driver.constants
        self.launches: list[Launch] = []

    def launch(self, name: str, grid: Grid, block: Grid, args: tuple[Any, ...], shared_bytes: int = 0) -> Call:
        """Check and note a launch."""
        check(name, grid, block, args, self.array_type)
        noted = tuple(
            (str(arg.dtype), tuple(arg.shape), tuple(arg.strides)) if isinstance(arg, self.array_type) else arg
            for arg in args
        )
        self.launches.append(Launch(name, three(grid), three(block), noted))
        call: Call = self.driver.launch(name, grid, block, args, shared_bytes) if self.run else _nothing
        return call

    def matmul(
        self,
        out: Array,
        a: Array,
        b: Array,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias: Array | None = None,
        activation: str = "",
        column_sums: Array | None = None,
    ) -> Call | None:
        """Check a product."""
        halves = a.dtype == b.dtype == HALVES and out.dtype == np.float32
        for x in (out, a, b):
            fits = x.dtype == out.dtype != HALVES and x.dtype in TYPES
            fits = fits or (halves and x.dtype == HALVES)
            if not isinstance(x, self.array_type) or not fits or x.ndim != out.ndim:
                raise LaunchError(f"matmul: {_described(x)} beside {out.dtype} arrays with {out.ndim} axes")
        rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
        if (b.shape[:-1], out.shape) != ((*a.shape[:-2], inner), (*a.shape[:-2], rows, columns)):
            raise LaunchError(f"matmul: {a.shape} times {b.shape} into {out.shape}")
        if not out.flags.c_contiguous or 0 in (rows, inner, columns):
            raise LaunchError(f"matmul: into shape {out.shape} and strides {out.strides}, {inner} terms each")
        if bias is not None and (bias.shape != (columns,) or bias.dtype != out.dtype or not bias.flags.c_contiguous):
            raise LaunchError(f"matmul: a bias of shape {bias.shape} for {columns} columns")
        if column_sums is not None and (column_sums.shape != (columns,) or column_sums.dtype != out.dtype):
            raise LaunchError(f"matmul: sums of shape {column_sums.shape} for {columns} columns")
        call: Call | None = self.driver.matmul(
            out, a, b, alpha=alpha, beta=beta, bias=bias, activation=activation, column_sums=column_sums
        )
        return call if self.run or call is None else _nothing


def _nothing() -> None:
    """Stand for a call that is not made."""
