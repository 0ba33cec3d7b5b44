"""The layer: what all layers and containers share. A layer states its own derivative; nothing is traced.

`layer(x)` is inference: it computes, saves nothing and writes nothing, so that threads may share a model.
`layer.forward(x)` computes and saves what the derivative needs; `layer.backward(dy)` takes that and returns dx.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bpnet.backend import Backend, as_numbers, get_backend, to_numpy
from bpnet.dispatch import Array, Tracked, dtype_name, version
from bpnet.errors import ConfigError, StateError
from bpnet.layers.checked import Checked
from bpnet.layers.sequence import OnSequences
from bpnet.layers.training import Trained
from bpnet.layers.tree import check_no_loop, first_of_each, forget_above, held, live_config, recording, shown
from bpnet.parameter import Parameter, Stream, room_for
from bpnet.random import check_seed
from bpnet.store import Store

if TYPE_CHECKING:
    from bpnet.layers.planned import Inference
    from bpnet.losses import Loss
    from bpnet.memory import MemoryReport
    from bpnet.optimizers import Optimizer

_materialize_lock = threading.RLock()
_INTERNAL = frozenset({"_config", "_inference", "_info", "_kept", "_origin", "_parent", "_seen", "_store"})
_NOT_COPIED = frozenset({"_inference", "_kept", "_origin", "_parent", "_seen", "_store"})
_MEMBERS = (list, tuple, dict)


class Layer(Trained, OnSequences, Checked, Tracked):
    """Base of all layers. A subclass sets its parameters in `__init__` and defines `__call__`, `forward`, `backward`.

    The constructor's arguments are recorded in `config`, so that an architecture can be saved as JSON: they must be
    numbers, strings, layers, initializers, or lists of them. What a layer does may depend on shapes and on its public
    attributes, which may be changed at any time; a step that is replayed from a plan does not see other changes.
    """

    _config: dict[str, Any]
    _store: Store | None = None
    _inference: Inference | None = None  # plans of calls, where this is a model
    _parent: Layer | None = None
    _origin: tuple[int | None, str | Backend | None, str | None] = (None, None, None)
    _seen = -1  # the version at which the store was last compared with the tree
    side_inputs: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in cls.__dict__:
            cls.__init__ = recording(cls.__init__)  # type: ignore[method-assign]
        if "forward" in cls.__dict__:
            parameters = inspect.signature(cls.forward).parameters.values()
            cls.side_inputs = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def __init__(self) -> None:
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INTERNAL:
            object.__setattr__(self, name, value)
            return
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, (Parameter, type(None))):
            raise ConfigError(f"{self!r}.{name} is a Parameter; to set its values, assign to .{name}.value")
        whole = isinstance(value, (Layer, Parameter, Stream, *_MEMBERS))
        if whole:
            check_no_loop(self, held(Layer, name, value))
        super().__setattr__(name, value)
        if whole:
            self._adopt(name, value)

    # --- what a layer does ---

    @property
    def computes_in_bf16(self) -> bool:
        """Whether its products take bfloat16 where the store has copies in it; a class may set it to True."""
        return False

    def __call__(self, x: Array) -> Array:
        """Inference: return the output for `x`; save nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def forward(self, x: Array) -> Array:
        """Return the output for `x` and save what the derivative needs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Take what `forward` saved, accumulate the parameters' gradients, and return dx.

        None where it is not needed, and where x has no derivative: ids.
        """
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output for that of one sample's input; by default found by inference on zeros."""
        return tuple(self(self.blank(input_shape)).shape[1:])

    # --- what a layer is made of ---

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name; a number that was changed since, as it is now."""
        return live_config(self)

    @property
    def info(self) -> dict[str, Any]:
        """What is kept beside the model in its file, as JSON values: the name of the data, for instance."""
        found: dict[str, Any] = vars(self).setdefault("_info", {})
        return found

    def children(self) -> Iterator[tuple[str, Layer]]:
        """(name, layer) of every layer that an attribute is, or holds in lists, tuples and dicts."""
        for name, value in vars(self).items():
            if name not in _INTERNAL:
                yield from held(Layer, name, value)

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(path, layer) of this layer and all below, parents first. The path of the model itself is ''."""
        yield path, self
        for name, child in self.children():
            yield from child.walk(f"{path}.{name}" if path else name)

    def _members(self, kind: type) -> Iterator[tuple[str, Any]]:
        for path, layer in self.walk():
            for name, value in vars(layer).items():
                if name not in _INTERNAL:
                    yield from held(kind, f"{path}.{name}" if path else name, value)

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter by path; a tied one stands once, at its first path."""
        return first_of_each(self._members(Parameter))

    def tied(self) -> dict[str, str]:
        """The further paths of tied parameters, each with its first path."""
        first = {id(parameter): path for path, parameter in self.parameters().items()}
        return {
            path: first[id(parameter)] for path, parameter in self._members(Parameter) if first[id(parameter)] != path
        }

    def streams(self) -> dict[str, Stream]:
        """Every random stream by path."""
        return first_of_each(self._members(Stream))

    @property
    def n_parameters(self) -> int:
        """The number of numbers in all parameters; tied ones count once, frozen ones too."""
        return sum(parameter.size for parameter in self.parameters().values())

    # --- the arrays ---

    def initialize(self, seed: int = 0, backend: str | Backend | None = None, dtype: str = "float32") -> Self:
        """Draw every parameter anew on the host, keyed by (seed, path), lay them into a store, and return the model.

        backend : as in `get_backend`; dtype : "float32" or "float64"
        Raises BackendError, ConfigError.
        """
        if self._parent is not None:
            raise StateError(
                f"this {type(self).__name__} is part of a {type(self._parent).__name__}; initialize the whole model"
            )
        check_seed(seed)
        self._build_store(seed, get_backend(backend), dtype, redraw=True)
        return self

    def materialize(self) -> None:
        """Give the whole model its arrays where it has none yet, or has other parameters than when it got them.

        Present values are kept. What is missing is drawn with the model's seed (0 unless it was told). A model made of
        parts of another is placed where they were.
        """
        self.root._materialize(0, None)

    def materialize_with(self, seed: int, backend: str | Backend | None) -> None:
        """Do so with this seed and backend, unless the model was told others before."""
        self.root._materialize(seed, backend)

    def _materialize(self, seed: int, backend: str | Backend | None) -> None:
        with _materialize_lock:
            store, seen = self._store, version()
            if store is None:
                own_seed, own_backend, dtype = self._origin
                donors = [p._store for p in self.parameters().values() if p._store is not None]
                chosen = backend if backend is not None else own_backend
                if donors:
                    chosen = chosen if chosen is not None else donors[0].backend
                    dtype = dtype or donors[0].dtype
                seed = own_seed if own_seed is not None else seed
                self._build_store(seed, get_backend(chosen), dtype or "float32", redraw=False)
            elif self._changed(store):
                self._build_store(store.seed, store.backend, store.dtype, redraw=False)
            self._seen = seen

    def _changed(self, store: Store) -> bool:
        """Whether the tree holds other parameters or streams than the store, or at other paths."""

        def ids(members: dict[str, Any]) -> dict[str, int]:
            return {path: id(each) for path, each in members.items()}

        same_parameters = ids(self.parameters()) == ids(store.parameters)
        return not (same_parameters and ids(self.streams()) == ids(store.streams))

    def _build_store(self, seed: int, backend: Backend, dtype: str, redraw: bool) -> None:
        self._check_tree()
        parameters = self.parameters()
        with room_for(parameters, dtype):
            self._store = Store(parameters, self.streams(), backend=backend, dtype=dtype, seed=seed, redraw=redraw)
        for _, layer in self.walk():
            if layer is not self:
                layer._store = None

    def _check_tree(self) -> None:
        """Every layer stands once, and knows its parent; parameters know their layer."""
        seen: dict[int, str] = {}
        for path, layer in self.walk():
            if id(layer) in seen:
                raise ConfigError(
                    f"the same {layer!r} stands at {seen[id(layer)]!r} and at {path!r}; a layer keeps one forward at a "
                    "time: make a second layer and tie their parameters (second.weight = first.weight)"
                )
            seen[id(layer)] = path
            for name, value in vars(layer).items():
                if name not in _INTERNAL:
                    layer._adopt(name, value)

    def _adopt(self, name: str, value: Any) -> None:
        """Be the parent of the layers, and the owner of the parameters and streams, that an attribute holds."""
        for _, child in held(Layer, name, value):
            forget_above(self, child)
            child._parent = self
        for _, member in held((Parameter, Stream), name, value):
            if member._owner is None:
                member._owner = self

    @property
    def root(self) -> Layer:
        """The outermost layer that contains this one."""
        layer = self
        while layer._parent is not None:
            layer = layer._parent
        return layer

    @property
    def store(self) -> Store:
        """The model's store; made now if there is none yet, and anew if the model has got other parameters."""
        root = self if self._parent is None else self.root
        if root._store is None or root._seen != version():
            root._materialize(0, None)
        assert root._store is not None
        return root._store

    @property
    def initialized(self) -> bool:
        """Whether the model has arrays."""
        return self.root._store is not None

    @property
    def backend(self) -> Backend:
        """The backend that holds the model's arrays."""
        return self.store.backend

    def to(self, backend: str | Backend | None = None, dtype: str | None = None) -> Self:
        """Move the model, its gradients and its optimizer's state to `backend` and `dtype`; return the model.

        Raises BackendError when the backend cannot be used; the model then stays where it is.
        """
        if self._parent is not None:
            raise StateError(f"this {type(self).__name__} is part of a {type(self._parent).__name__}; move the model")
        if self._store is None:
            seed, old, old_dtype = self._origin
            self._origin = (seed, get_backend(backend) if backend is not None else old, dtype or old_dtype)
            return self
        target = get_backend(backend) if backend is not None else self._store.backend
        self._store.move(target, dtype or self._store.dtype)
        for _, layer in self.walk():
            layer._kept = None
        return self

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """Return `x`, of any array library, as an array of the model's backend.

        Floating values come in the model's dtype where none is given, others as they are. Raises DTypeError where it
        holds no numbers, or has a mask.
        """
        backend = self.backend
        if hasattr(x, "__dlpack__") and not isinstance(x, backend.array_type):
            x = to_numpy(x)
        x = as_numbers(x, "x")
        if dtype is None and dtype_name(x.dtype).startswith(("float", "bfloat")):
            dtype = self.store.dtype
        return backend.asarray(x, dtype=dtype)

    def zero_grad(self) -> None:
        """Set every gradient to zero. Never needed before a backward: the first contribution of a step replaces."""
        self.store.consume_gradients()
        self.store.complete_gradients()

    def summary(self, input_shape: tuple[int, ...] | int | None = None) -> Any:
        """Return a table of the layers; print it.

        input_shape : the shape of one sample; with it the table has output shapes, and the FLOPs of one inference
        """
        from bpnet.layers.summary import summarize

        return summarize(self, input_shape)

    def memory(
        self,
        batch_size: int,
        *,
        input_shape: tuple[int, ...] | int | None = None,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        dtype: str | None = None,
        precision: str | None = None,
        budget: int | str | None = None,
        planned: bool = True,
    ) -> MemoryReport:
        """Return what training on batches of this size takes of memory, before anything is allocated; print it.

        input_shape : the shape of one sample; needed unless the first layer tells it, as Dense does
        loss        : None: MeanSquaredError; optimizer : None: Adam
        dtype       : None: the model's, or float32
        precision   : of a Trainer, "float32" or "bf16"; None: the one that the model computes in
        budget      : bytes, or text such as "2 GiB": the report then has the largest batch in it
        planned     : whether of a whole fit by a Trainer, the proof of its plan included; else of the explicit loop
        The model stays as it is, without arrays where it has none.
        Raises ConfigError where something is no setting, or a layer cannot be followed without values.
        """
        from bpnet.memory import estimate

        return estimate(
            self,
            batch_size,
            input_shape=input_shape,
            loss=loss,
            optimizer=optimizer,
            dtype=dtype,
            precision=precision,
            budget=budget,
            planned=planned,
        )

    def save(self, path: Any, **info: Any) -> None:
        """Write the model to a safetensors file, whole or not at all: values, and the architecture as JSON.

        info : JSON values kept beside it, such as the name of the data; read back as `model.info`
        Raises CheckpointError when the file cannot be written; a file that was there before is then untouched.
        """
        from bpnet.layers.serialization import save_model

        save_model(self, path, info)

    @staticmethod
    def load(
        path: Any, *, backend: str | Backend | None = None, custom: tuple[type[Layer], ...] | type[Layer] = ()
    ) -> Layer:
        """Read a model that `save` wrote. The same as `bpnet.load`.

        custom : the classes of your own layers in it
        Raises CheckpointError when the file is not a whole model of bpnet; BackendError.

        >>> import bpnet as bp
        >>> bp.Sequential(bp.Dense(2, 3), bp.ReLU()).initialize().save("small.safetensors")
        >>> bp.load("small.safetensors")
        Sequential(Dense(2, 3), ReLU())
        """
        from bpnet.layers.serialization import load_model

        return load_model(path, backend=backend, custom=custom)

    # --- copies ---

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in vars(self).items() if k not in _NOT_COPIED}
        store = self.root._store
        seed, backend, dtype = (store.seed, store.backend.name, store.dtype) if store else self._origin
        if backend is not None and not isinstance(backend, str):
            backend = backend.name
        return state | {"_origin": (seed, backend, dtype)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name, value in state.items():
            if name not in _INTERNAL:
                for _, member in held((Parameter, Stream), name, value):
                    member._owner = None
                self._adopt(name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(shown(self, Layer))})"


Layer.__init__ = recording(Layer.__init__)  # type: ignore[method-assign]
