"""Which tensors of theirs each parameter of ours is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from bpnet.errors import ConfigError
from bpnet.interop.images import Order, orders
from bpnet.interop.layouts import Form, Piece, dense, forms
from bpnet.interop.naming import Name, Names, join
from bpnet.layers import Dense, Layer, Normalize
from bpnet.parameter import Parameter


@dataclass(frozen=True)
class Pair:
    """A parameter of ours by path, and the piece with theirs by their full names; no piece: it stays, and why.

    layer : the path of the layer whose form the piece is of
    """

    ours: str
    layer: str
    piece: Piece | None
    why: str = ""


class Pairing:
    """The pairs of a model's parameters.

    present : the names that theirs has, None where they are to be made; it decides between forms
    conv1d  : of which tensors the layout is (inputs, outputs): all that might be, or those of these patterns
    images  : "NCHW" or "NHWC", the layout in which theirs flattens images
    """

    def __init__(
        self,
        model: Layer,
        names: Names,
        present: Iterable[str] | None,
        conv1d: bool | Iterable[str],
        images: str,
    ) -> None:
        if images not in ("NCHW", "NHWC"):
            raise ConfigError(f'images must be "NCHW" or "NHWC", got {images!r}')
        self._names = names
        self._present = frozenset(present or ())
        self._prefixes = {name[:end] for name in self._present for end in _ends(name)}
        self._conv1d = _patterns(conv1d)
        self._used_patterns: set[str] = set()
        self._orders = orders(model) if images == "NCHW" else {}
        self._parameters = dict(model._members(Parameter))
        self._layers = [path for path, _ in model.walk()]
        self.pairs = list(self._of(model, "", ""))
        names.check_used([path for path in (*self._layers, *self._parameters) if path])
        self._check_patterns()

    def _check_patterns(self) -> None:
        unused = [pattern for pattern in self._conv1d if pattern not in self._used_patterns and pattern != "*"]
        if unused:
            raise ConfigError(
                f"conv1d: no product of the model takes a tensor that {unused[0]!r} names; patterns are of PyTorch's "
                "names, as in '*.c_*.weight'"
            )

    def _of(self, layer: Layer, path: str, prefix: Name) -> Iterator[Pair]:
        """The pairs of a layer and all below. prefix : what theirs is called"""
        if self._names.has(path):
            prefix = self._names.of(path)
        if prefix is None:
            for each in self._paths_below(path):
                yield Pair(each, path, None, "as names says")
            return
        form = self._form(layer, prefix, path)
        below: dict[str, Name] = {}
        for name, to in form.below.items():
            below[name] = (
                join(str(prefix), to) if isinstance(to, str) else tuple(join(str(prefix), each) for each in to)
            )
        own = [name for name, _ in layer.walk() if name and name not in below and self._names.has(join(path, name))]
        own = [name for name in own if not any(name.startswith(f"{other}.") for other in (*below, *own))]
        below |= dict.fromkeys(own, "")  # rules are for them
        for ours, why in form.kept.items():
            yield Pair(join(path, ours), path, None, why)
        for piece in form.pieces:
            if not any(piece.ours.startswith(f"{name}.") for name in own):
                yield self._named(piece, path, prefix)
        layers = dict(layer.walk())
        for name, called in below.items():
            yield from self._of(layers[name], join(path, name), called)

    def _paths_below(self, path: str) -> list[str]:
        return [each for each in self._parameters if not path or each.startswith(f"{path}.")]

    def _form(self, layer: Layer, prefix: str | tuple[str, ...], path: str) -> Form:
        if isinstance(prefix, tuple):
            if not isinstance(layer, Dense) or layer.n_out % len(prefix):
                raise ConfigError(
                    f"names: {path!r} is {layer!r}; only a Dense, whose outputs are as many times, can be made of "
                    f"{len(prefix)} of PyTorch's layers"
                )
            return self._ordered(dense(layer, prefix), path)
        found = forms(layer)
        if self._present and (len(found) > 1 or isinstance(layer, Normalize)):
            found = [max(found, key=lambda form: self._fit(form, prefix))]
        return self._ordered(found[0], path)

    def _fit(self, form: Form, prefix: str) -> tuple[int, int]:
        """How much of a form theirs has, then how little it lacks."""
        wanted = [join(prefix, name) for piece in form.pieces for name in piece.theirs]
        for to in form.below.values():
            wanted += [join(prefix, name) for name in ((to,) if isinstance(to, str) else to)]
        there = sum(name in self._present or name in self._prefixes for name in set(wanted))
        return there, (there - len(set(wanted)) if there else 0)

    def _ordered(self, form: Form, path: str) -> Form:
        order = self._orders.get(path)
        if order is None:
            return form
        return replace(form, pieces=tuple(_ordered(piece, order) for piece in form.pieces))

    def _named(self, piece: Piece, path: str, prefix: str | tuple[str, ...]) -> Pair:
        ours = join(path, piece.ours)
        theirs = tuple(join("" if isinstance(prefix, tuple) else prefix, name) for name in piece.theirs)
        if self._names.has(ours):
            name = self._names.of(ours)
            if name is None:
                return Pair(ours, path, None, "as names says")
            if isinstance(name, tuple) or len(theirs) != 1:
                raise ConfigError(
                    f"names: {ours!r} is made of {len(theirs)} tensors, and a rule for a parameter can name one; give "
                    "a rule for its layer"
                )
            theirs = (name,)
        piece = replace(piece, ours=ours, theirs=theirs)
        if piece.matrix:
            fitting = [p for p in self._conv1d if all(fnmatchcase(name, p) for name in theirs)]
            if fitting:
                self._used_patterns.update(fitting)
                piece = piece.untransposed()
        return Pair(ours, path, piece)


def _ordered(piece: Piece, order: Order) -> Piece:
    matrix = len(piece.shapes[0]) == 2
    if order.inputs and matrix:
        piece = piece.reordered(1, order.inputs, "inputs")
    if order.outputs:
        if len(piece.theirs) > 1:
            raise ConfigError(f"names: what {piece.theirs} make together becomes an image, and cannot be taken apart")
        piece = piece.reordered(0, order.outputs, "outputs" if matrix else "features")
    return piece


def _ends(name: str) -> Iterator[int]:
    return (index for index, letter in enumerate(name) if letter == ".")


def _patterns(conv1d: bool | Iterable[str]) -> tuple[str, ...]:
    if isinstance(conv1d, bool):
        return ("*",) if conv1d else ()
    found = (conv1d,) if isinstance(conv1d, str) else tuple(conv1d)
    if not all(isinstance(each, str) for each in found):
        raise ConfigError(f"conv1d must be True, False, or patterns of PyTorch's names, got {conv1d!r:.80}")
    return found
