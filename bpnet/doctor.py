"""What is here, what is not, and why: the backends, NumPy's BLAS, the versions, and packages that are in the way."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

import bpnet
from bpnet import blas, processors
from bpnet.abilities import computes_bf16
from bpnet.backend import Backend, backend_names, get_backend, selection
from bpnet.errors import BackendError

PACKAGES = ("numpy", "array-api-compat", "safetensors", "rich", "typer", "pydantic", "threadpoolctl")


def diagnose(choice: str | Backend | None = None) -> dict[str, Any]:
    """Return all that the report says, as JSON values; nothing is changed, nothing raises for what is missing.

    choice   : the backend whose usability is asked; by default the one that `get_backend()` would select
    ok       : whether that one can be used
    warnings : texts, each with its remedy
    """
    selected, source = selection(choice)
    name = selected if isinstance(selected, str) else selected.name
    backends = [_backend(known) for known in _names(name)]
    library = blas.facts()
    cost = blas.cost(library)
    usable = processors.usable()
    package = _package()
    return {
        "ok": any(each["usable"] for each in backends if each["name"] == name),
        "selected": {"backend": name, "by": source},
        "backends": backends,
        "blas": library | {"cost": cost},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {
            "system": platform.platform(),
            "cpus": processors.affinity(),
            "quota": processors.quota(),
            "usable": usable,
        },
        "versions": {each: _version(each) for each in PACKAGES},
        "bpnet": package,
        "warnings": [*blas.warnings(library, cost, usable), *_package_warnings(package)],
    }


def _names(selected: str) -> list[str]:
    """All known backends, and the selected one where it is none of them (a device such as "cupy:1", or a mistake)."""
    names = backend_names()
    return names if selected in names else [*names, selected]


def _backend(name: str) -> dict[str, Any]:
    try:
        backend = get_backend(name)
        about = backend.describe()
    except BackendError as error:
        return {"name": name, "found": not _is_missing(error, name), "usable": False, "reason": _reason(error)}
    except Exception as error:  # a plug-in's describe() may fail in any way; the others are reported all the same
        reason = (
            f"the backend {name!r} does not describe itself: {type(error).__name__}: {error}; report it to its author"
        )
        return {"name": name, "found": True, "usable": False, "reason": reason}
    bf16 = "by the hardware" if computes_bf16(backend) else "emulated in float32"
    return {"name": name, "found": True, "usable": True, "bf16": bf16, **about}


def _reason(error: BackendError) -> str:
    """Why, and the remedy: the backend's own words where it has some."""
    cause = error.__cause__
    if isinstance(cause, BackendError):
        return str(cause)
    if cause is not None:
        return f"it fails with {type(cause).__name__}: {cause}; reinstall its package, or report this to its author"
    return str(error)


def _is_missing(error: BaseException, name: str) -> bool:
    """Whether the backend is unknown, or could not be imported."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError):
            return True
        cause = cause.__cause__
    return name.partition(":")[0] not in backend_names()


# --- the packages ---


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package() -> dict[str, Any]:
    """This package, and the genomics package whose distribution and import name are both `bpnet`, where installed."""
    here = Path(__file__).resolve().parent
    file = getattr(bpnet, "__file__", None)
    found: dict[str, Any] = {
        "version": getattr(bpnet, "__version__", None),
        "distribution": _version("bpnet-xp"),
        "file": file,
        "ours": file is not None and Path(file).resolve().parent == here and hasattr(bpnet, "Trainer"),
        "genomics": None,
    }
    try:
        other = importlib.metadata.distribution("bpnet")
    except importlib.metadata.PackageNotFoundError:
        return found
    places = [Path(str(path.locate())).resolve() for path in other.files or ()]
    written = [str(place) for place in places if place.parent == here and place.suffix == ".py"]
    return found | {"genomics": {"version": other.version, "files_in_our_folder": written}}


def _package_warnings(package: dict[str, Any]) -> list[str]:
    remedy = (
        "the two cannot share an environment: put one into another, or `pip uninstall bpnet`, then "
        "`pip install --force-reinstall bpnet-xp`"
    )
    other = package["genomics"]
    texts = []
    if other:
        written = f", and has written {len(other['files_in_our_folder'])} files into {Path(__file__).parent}"
        texts.append(
            f"the genomics package `bpnet` {other['version']} is installed; it is imported by the same name"
            f"{written if other['files_in_our_folder'] else ''}; {remedy}"
        )
    if not package["ours"]:
        texts.append(f"`import bpnet` gives {package['file']}, which is not this package; {remedy}")
    return texts


# --- the report ---


def print_report(facts: dict[str, Any]) -> None:
    """Print what `diagnose` returned: a drawn table of backends on a terminal, plain lines elsewhere."""
    package, python = facts["bpnet"], facts["python"]
    print(f"bpnet {package['version']} in {Path(package['file'] or '?').parent}")
    machine = facts["platform"]
    limit = f", of which its control group may use {machine['quota']:g}" if machine["quota"] else ""
    print(f"Python {python['version']} on {machine['system']}, {machine['cpus']} CPUs usable{limit}")
    print("  ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items()))
    print()
    _print_backends(facts)
    print()
    for line in blas.lines(facts["blas"]):
        print(line)
    for text in facts["warnings"]:
        print(f"warning: {text}")
    if not facts["warnings"]:
        print("no other package is in the way")
    selected = facts["selected"]
    verdict = "can be used" if facts["ok"] else "CANNOT be used"
    print(f"selected: {selected['backend']}, by {selected['by']}; it {verdict}")


def _print_backends(facts: dict[str, Any]) -> None:
    header = ("backend", "found", "usable", "version", "device")
    rows = []
    for each in facts["backends"]:
        cells = (each["name"], *("yes" if each[key] else "no" for key in ("found", "usable")))
        rows.append((*cells, each.get("version", "-"), each.get("device", "-")))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*header)
        for row in rows:
            table.add_row(*row, style="green" if row[2] == "yes" else "yellow")
        Console(markup=False).print(table)
    else:
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        for row in (header, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for each in facts["backends"]:
        if not each["usable"]:
            print(f"{each['name']}: {each['reason']}")
        for what in ("products", "convolutions"):
            if what in each:
                print(f"{each['name']}, {what}: {each[what]}")
    emulated = [each["name"] for each in facts["backends"] if str(each.get("bf16", "")).startswith("emulated")]
    if emulated:
        print(f"precision='bf16' is emulated in float32 on {', '.join(emulated)}: the same rounding, slower")
