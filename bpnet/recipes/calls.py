"""Layers, metrics and their like as text: "Dense(784, 256)". Read as Python, checked, and never run.

The text is parsed into a syntax tree. A call may name one of the classes given, its arguments may be literals, lists of
them, and such calls; anything else is refused with the part of the text that it is.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bpnet.errors import BpnetError, ConfigError, did_you_mean

Classes = Mapping[str, Callable[..., Any]]
LONGEST = 20_000  # characters of one text
ELSEWHERE = {"lr": "learning_rate", "eps": "epsilon", "p": "rate", "wd": "weight_decay", "ema": "average"}


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown argument: what it is called here, or the nearest name."""
    known = list(known)
    other = ELSEWHERE.get(name)
    return f"; did you mean {other!r}?" if other in known else did_you_mean(name, known)


def parse_call(text: Any, classes: Classes, what: str, inner: Classes | None = None) -> Any:
    """Return the object that `text` describes.

    classes : what the outermost call may name; inner : what its arguments may, beside those
    what    : what `classes` are, for messages: "layer"
    Raises ConfigError that says what is wrong with the text, the name, an argument's name or its value.
    """
    example = next(iter(classes), "Name")
    if not isinstance(text, str):
        raise ConfigError(f'must be a {what} as text, such as "{example}(...)", got {text!r}')
    if len(text) > LONGEST:
        raise ConfigError(f"a {what} may have {LONGEST:,} characters, got {len(text):,}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
        return _Reader(text.strip(), {**classes, **(inner or {})}).outermost(node, classes, what)
    except SyntaxError as error:
        raise ConfigError(f"{text!r} is no {what} as Python writes it: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, BpnetError):
            raise
        raise ConfigError(f"{text[:60]!r} cannot be read as a {what}: {error or 'it is nested too deeply'}") from None


class _Reader:
    """Reads one text's syntax tree."""

    def __init__(self, text: str, classes: Classes) -> None:
        self.text = text
        self.classes = classes

    def outermost(self, node: ast.expr, classes: Classes, what: str) -> Any:
        if isinstance(node, ast.Name) and node.id in classes:
            raise ConfigError(f"write {node.id}(), with parentheses")
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            raise ConfigError(f"{self.source(node)} is no {what}; write one as in {next(iter(classes), 'Name')}(...)")
        if name.id not in classes:
            raise ConfigError(unknown(name.id, classes, what))
        return self.call(node)

    def call(self, node: ast.expr) -> Any:
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        arguments = [self.value(each) for each in node.args]
        keywords = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ConfigError(f"{self.source(node)}: ** cannot be used here; write the arguments out")
            keywords[keyword.arg] = self.value(keyword.value)
        cls = self.classes[name]
        check_arguments(cls, name, arguments, keywords)
        return construct(cls, name, arguments, keywords)

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name):
                raise ConfigError(f"{self.source(node.func)} cannot be called here")
            if node.func.id not in self.classes:
                raise ConfigError(unknown(node.func.id, self.classes, "thing"))
            return self.call(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            kind = list if isinstance(node, ast.List) else tuple
            return kind(self.value(each) for each in node.elts)
        if isinstance(node, ast.Name) and node.id in self.classes:
            raise ConfigError(f"write {node.id}(), with parentheses")
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError):
            raise ConfigError(
                f"{self.source(node)} is neither a number nor a text in quotes, True, False, None, nor a list of them"
            ) from None

    def source(self, node: ast.expr) -> str:
        return repr((ast.get_source_segment(self.text, node) or self.text)[:60])


def unknown(name: str, classes: Classes, what: str) -> str:
    """What is wrong with a name that is none of the classes."""
    return f"there is no {what} {name!r}; there are {', '.join(sorted(classes))}{did_you_mean(name, classes)}"


def parameters(cls: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a class's constructor by name, with those that it hands on to its base by **keywords."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(cls) if isinstance(cls, type) else ():
        if "__init__" not in vars(base) or base is object:
            continue
        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in own:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in own):
            return found
    return found or dict(inspect.signature(cls).parameters)


def check_arguments(cls: Callable[..., Any], name: str, arguments: list[Any], keywords: dict[str, Any]) -> None:
    """Raise ConfigError unless the constructor takes these arguments by number and by name."""
    known = parameters(cls)
    for keyword in keywords:
        if keyword not in known or known[keyword].kind is inspect.Parameter.VAR_POSITIONAL:
            raise ConfigError(f"{name} has no argument {keyword!r}; {takes(name, known)}{hint(keyword, known)}")
    by_place = [p for p in known.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    endless = any(p.kind is p.VAR_POSITIONAL for p in known.values())
    if len(arguments) > len(by_place) and not endless:
        raise ConfigError(
            f"{name} takes {len(by_place) or 'no'} arguments by place, got {len(arguments)}; {takes(name, known)}"
        )
    given = {p.name for p, _ in zip(by_place, arguments, strict=False)}
    twice = sorted(given & set(keywords))
    if twice:
        raise ConfigError(f"{name} got {twice[0]!r} twice")
    missing = [
        p.name
        for p in known.values()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in given and p.name not in keywords
    ]
    if missing:
        raise ConfigError(f"{name} needs {' and '.join(missing)}; {takes(name, known)}")


def takes(name: str, known: Mapping[str, inspect.Parameter]) -> str:
    """What a constructor takes, for messages."""
    written = []
    for argument, p in known.items():
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        default = "" if p.default is p.empty else f"={p.default!r}"
        written.append(f"{star}{argument}{default}")
    return f"it takes {', '.join(written)}" if written else f"{name}() takes no arguments"


def construct(cls: Callable[..., Any], name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """Return cls(...); ConfigError with what it says where it refuses the values."""
    try:
        return cls(*arguments, **keywords)
    except (BpnetError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ConfigError(str(error)) from error
