"""What bpnet says is public: `bpnet.__all__`, and that of the modules named in it. Needs no Sphinx.

A name belongs to the group of the module that defines it, so a new one appears in the reference by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from functools import cache
from types import ModuleType
from typing import Any

import bpnet

# Public modules that `import bpnet` leaves alone, so that they are not in its __all__.
FURTHER = (
    "auditing",
    "callbacks",
    "explain",
    "interop.onnx",
    "interop.torch",
    "nnfs",
    "recipes",
    "schedules",
    "sklearn",
    "testing",
)
# group: the modules of bpnet (their first part) whose names it has, in the order in which it shows them.
GROUPS: dict[str, tuple[str, ...]] = {
    "layers": ("layers", "parameter"),
    "losses": ("losses",),
    "optimizers": ("optimizers", "schedules"),
    "metrics": ("metrics",),
    "trainer": (
        "trainer",
        "costing",
        "memory",
        "history",
        "inference",
        "generation",
        "checkpoint",
        "contracts",
        "bundle",
    ),
    "callbacks": ("callbacks",),
    "explain": ("explain",),
    "data": ("data",),
    "backends": ("backend", "dispatch"),
    "ops": ("ops",),
    "initializers": ("initializers",),
    "errors": ("errors",),
    "nnfs": ("nnfs",),
    "sklearn": ("sklearn",),
    "onnx": ("interop.onnx",),
    "recipes": ("recipes",),
    "interop": ("interop.torch",),
    "audit": ("auditing",),
    "testing": ("testing",),
}
# Members that bpnet's own parts call, and nobody else.
HIDDEN_MEMBERS = {
    "attach",
    "commit",
    "host_value",
    "materialize",
    "materialize_with",
    "op",
    "op_backward",
    "prepare",
    "set_fit_request",  # scikit-learn's, for the routing of metadata
    "set_partial_fit_request",
    "set_score_request",
}


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module: its `__all__`, else what it defines itself."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not isinstance(getattr(module, name), ModuleType)]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def part_of(value: Any, default: str) -> str:
    """The part of bpnet that defines `value`: "layers" for a class of bpnet.layers.dense."""
    module = str(getattr(value, "__module__", "") or "")
    return module.split(".")[1] if module.startswith("bpnet.") else default


def further() -> list[str]:
    """Those of the further modules that this version has."""
    return [name for name in FURTHER if importlib.util.find_spec(f"bpnet.{name}") is not None]


@cache
def missing_extras() -> dict[str, str]:
    """The further modules that cannot be imported here, each with the reason: an extra that is not installed."""
    found = {}
    for name in further():
        try:
            importlib.import_module(f"bpnet.{name}")
        except ImportError as error:
            found[name] = str(error)
    return found


@cache
def entries() -> dict[str, tuple[str, str, Any]]:
    """Every public object by its full name: (the part of bpnet it belongs to, the name in prose, the object)."""
    found: dict[str, tuple[str, str, Any]] = {}
    seen: set[int] = set()
    modules = []
    for name in bpnet.__all__:
        value = getattr(bpnet, name)
        if isinstance(value, ModuleType):
            modules.append(name)
        else:
            found[f"bpnet.{name}"] = (part_of(value, "trainer"), name, value)
            seen.add(id(value))
    modules += [name for name in further() if name not in modules and name not in missing_extras()]
    for name in modules:
        module = importlib.import_module(f"bpnet.{name}")
        for each in names_of(module):
            value = getattr(module, each)
            if id(value) not in seen:
                found[f"bpnet.{name}.{each}"] = (name, each, value)
                seen.add(id(value))
    return found


@cache
def short_names() -> dict[str, str]:
    """What prose may call a public object, with its full name: `Dense`, `ops.relu`, `Layer.forward`."""
    found: dict[str, str] = {}
    for full, (_, name, value) in entries().items():
        found.setdefault(full.removeprefix("bpnet."), full)
        found.setdefault(name, full)
        if inspect.isclass(value):
            for member in vars(value):
                if not member.startswith("_") and member not in HIDDEN_MEMBERS:
                    found[f"{name}.{member}"] = f"{full}.{member}"
    return found


def canonical(name: str) -> str | None:
    """The full name of what prose calls `name`, or None where that is no public object.

    A single lower-case word, such as `x` or `add`, is taken to be a variable unless it is in bpnet's own `__all__`.
    """
    target = short_names().get(name)
    if target is not None and name.islower() and "." not in name and target != f"bpnet.{name}":
        return None
    return target


def group_of(part: str) -> str | None:
    """The group that shows the names of a part of bpnet."""
    return next((group for group, parts in GROUPS.items() if part in parts), None)


def members(group: str) -> list[str]:
    """The full names that the group shows, module by module: base classes, other classes, functions."""
    found = [full for full, (part, _, _) in entries().items() if group_of(part) == group]
    order = {part: place for place, part in enumerate(GROUPS[group])}

    classes = [entries()[full][2] for full in found if inspect.isclass(entries()[full][2])]

    def key(full: str) -> tuple[int, bool, bool, str]:
        part, name, value = entries()[full]
        is_class = inspect.isclass(value)
        is_base = is_class and any(value in each.__bases__ for each in classes) and not public_bases(value)
        return order[part], not is_class, not is_base, name.lower()

    return sorted(found, key=key)


def public_bases(cls: type) -> list[type]:
    """The nearest ancestors of a class that a reader can look up: public ones, and built-in errors."""
    public = {id(value) for _, _, value in entries().values()}
    found: list[type] = []
    for base in cls.__bases__:
        known = id(base) in public or (base.__module__ == "builtins" and base is not object)
        found += [base] if known else public_bases(base)
    return list(dict.fromkeys(found))
