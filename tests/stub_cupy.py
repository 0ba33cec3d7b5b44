"""A stand-in for CuPy on NumPy's memory: devices, streams, events, captures and pools note what is asked of them.

Work on a stream is what a test enqueues by `Stub.enqueue`: it runs at once, or, while the stream is captured, when the
graph is launched. The log has one entry for everything that has an order on a real device.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from bpnet_cupy.host.arrays import HostArray, unwrapped


class StubArray(HostArray):
    """An array with CuPy's names; what is made of it is of its kind and on its device."""

    __slots__ = ("device_id",)
    stub: Any = None

    def __init__(self, array: Any, device_id: int | None = None) -> None:
        super().__init__(array)
        self.device_id = self.stub.current_device() if device_id is None else device_id

    @property
    def data(self) -> Any:
        return SimpleNamespace(
            ptr=self.array.__array_interface__["data"][0],
            device_id=self.device_id,
            array=self.array,
            copy_from_device_async=self._copy,
        )

    def _copy(self, source: Any, size: int) -> None:
        assert size == self.nbytes == source.array.nbytes
        self.stub.log.append(("copy on the device", self.stub.current_stream().name))
        self.array[...] = source.array

    @property
    def device(self) -> str:
        return f"stub {self.device_id}"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.stub.namespace

    def __getitem__(self, key: Any) -> Any:
        return type(self)(self.array[unwrapped(key)], self.device_id)

    def reshape(self, *shape: Any) -> Any:
        return type(self)(self.array.reshape(*shape), self.device_id)

    def view(self, dtype: Any) -> Any:
        return type(self)(self.array.view(dtype), self.device_id)

    @property
    def T(self) -> Any:
        return type(self)(self.array.T, self.device_id)

    def swapaxes(self, first: int, second: int) -> Any:
        return type(self)(self.array.swapaxes(first, second), self.device_id)

    def copy(self) -> Any:
        return type(self)(self.array.copy(), self.device_id)

    def set(self, host: Any, stream: Any = None) -> None:
        assert host.shape == self.shape
        assert host.dtype == self.dtype
        self.stub.log.append(("copy", stream.name, self.stub.pinned(host)))
        self.array[...] = host

    def tolist(self) -> Any:
        return self.array.tolist()


def _operator(name: str) -> Any:
    def operate(self: StubArray, *others: Any) -> Any:
        found = getattr(self.array, name)(*map(unwrapped, others))
        return found if found is NotImplemented else type(self)(np.asarray(found), self.device_id)

    return operate


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
):
    setattr(StubArray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(StubArray, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"]:
    setattr(StubArray, f"__{_name}__", _operator(f"__{_name}__"))


class StubNamespace:
    """NumPy's functions on stub arrays, on the device of the first of them."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or name in ("finfo", "iinfo", "isdtype", "result_type"):
            return found

        def call(*args: Any, device: Any = None, **settings: Any) -> Any:
            inside = {key: unwrapped(value) for key, value in settings.items()}
            first = next((x for x in _flat(args) if isinstance(x, StubArray)), None)
            number = self._stub.current_device() if first is None else first.device_id
            return _wrapped(found(*map(unwrapped, args), **inside), lambda x: self._stub.ndarray(x, number))

        return call


def _flat(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, (tuple, list)):
            yield from _flat(each)
        else:
            yield each


def _wrapped(result: Any, wrap: Callable[[Any], Any]) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return wrap(np.asarray(result))
    if isinstance(result, (tuple, list)) and any(isinstance(each, np.ndarray) for each in result):
        return tuple(_wrapped(each, wrap) for each in result)
    return result


class CUDARuntimeError(RuntimeError):
    """CuPy's, with the name of the status in its text."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Stub:
    """The module `cupy`.

    count : of devices; driver, runtime : versions as CUDA numbers them; error : what asking for devices raises
    compile_error : what the first kernel raises; capture_error : what ending a capture raises
    """

    def __init__(
        self,
        count: int = 1,
        *,
        driver: int = 13000,
        runtime: int = 13000,
        error: str = "",
        compile_error: BaseException | None = None,
        capture_error: BaseException | None = None,
    ) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.count, self.error, self.compile_error, self.capture_error = count, error, compile_error, capture_error
        self.versions = {"driverGetVersion": driver, "runtimeGetVersion": runtime}
        self.local = threading.local()
        self.allocators: list[Any] = []
        self.pinned_memory: list[Any] = []
        self.__version__ = "14.0.0"
        self.ndarray = type("ndarray", (StubArray,), {"stub": self, "__module__": "cupy", "__slots__": ()})
        self.namespace = StubNamespace(self)
        numbers = itertools.count(1)
        stub = self

        class Stream:
            def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
                self.stub, self.device = stub, stub.current_device()
                number = next(numbers)
                self.ptr = 0 if null else 100 + number
                self.name = "null" if null else f"stream {number}"
                self.non_blocking = non_blocking
                self.captured: list[Callable[[], None]] | None = None

            def __enter__(self) -> Stream:
                assert stub.current_device() == self.device, f"{self.name} is of device {self.device}"
                stub.streams().append(self)
                return self

            def __exit__(self, *_: Any) -> None:
                assert stub.streams().pop() is self

            def record(self, event: Any = None) -> Any:
                event = event or Event()
                event.record(self)
                return event

            def wait_event(self, event: Any) -> None:
                stub.log.append(("wait", self.name, event.name, event.recorded))

            def synchronize(self) -> None:
                stub.log.append(("synchronize", self.name))

            def begin_capture(self) -> None:
                assert self.non_blocking, "the default stream cannot be captured"
                assert self.captured is None
                stub.log.append(("begin", self.name))
                self.captured = []

            def end_capture(self) -> Any:
                assert self.captured is not None
                calls, self.captured = self.captured, None
                stub.log.append(("end", self.name))
                if stub.capture_error is not None:
                    raise stub.capture_error
                return SimpleNamespace(launch=lambda: stub.launch(calls), upload=lambda stream: None)

        class Event:
            def __init__(self, disable_timing: bool = False) -> None:
                self.name = f"event {next(numbers)}"
                self.recorded = ""

            def record(self, stream: Any = None) -> None:
                self.recorded = (stream or stub.current_stream()).name
                stub.log.append(("record", self.recorded, self.name))

            def synchronize(self) -> None:
                stub.log.append(("synchronize", self.name))

        class Device:
            def __init__(self, number: int | None = None) -> None:
                self.id = stub.current_device() if number is None else number
                self.attributes = {"MultiProcessorCount": 4}

            def __enter__(self) -> Device:
                stub.devices().append(self.id)
                return self

            def __exit__(self, *_: Any) -> None:
                stub.devices().pop()

            def use(self) -> Device:
                stub.devices()[-1] = self.id
                stub.log.append(("use", self.id))
                return self

        class MemoryPool:
            def malloc(self, size: int) -> None:
                raise AssertionError("the stub allocates by itself")

        @contextmanager
        def using_allocator(allocator: Any) -> Iterator[None]:
            self.allocators.append(allocator)
            try:
                yield
            finally:
                self.allocators.pop()

        self.null = Stream(null=True)
        runtime_functions = {name: lambda version=version: version for name, version in self.versions.items()}
        self.cuda = SimpleNamespace(
            Stream=Stream,
            Event=Event,
            Device=Device,
            MemoryPool=MemoryPool,
            using_allocator=using_allocator,
            get_current_stream=self.current_stream,
            runtime=SimpleNamespace(
                getDeviceCount=self.device_count,
                getDevice=self.current_device,
                getDeviceProperties=lambda i: {"name": f"Stub {i}".encode()},
                memGetInfo=lambda: (2**30, 4 * 2**30),
                **runtime_functions,
            ),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            set_pinned_memory_allocator=self.set_pinned_memory_allocator,
        )
        self.pinned_pool = SimpleNamespace(malloc=lambda size: ("page-locked", size))
        self.pinned_allocator = self.pinned_pool.malloc
        self.pool = SimpleNamespace(
            used_bytes=lambda: 3 * 2**30, free_all_blocks=lambda: self.log.append(("free all",))
        )

    # --- state of the thread ---

    def devices(self) -> list[int]:
        if not hasattr(self.local, "devices"):
            self.local.devices = [0]
        return self.local.devices

    def streams(self) -> list[Any]:
        if not hasattr(self.local, "streams"):
            self.local.streams = [self.null]
        return self.local.streams

    def current_device(self) -> int:
        return self.devices()[-1]

    def current_stream(self) -> Any:
        return self.streams()[-1]

    def device_count(self) -> int:
        if self.error:
            raise CUDARuntimeError(self.error)
        return self.count

    # --- work ---

    def enqueue(self, name: str, work: Callable[[], None] = lambda: None) -> None:
        """Do it on the current stream: now, or when the graph is launched that is being captured."""
        stream = self.current_stream()

        def run() -> None:
            self.log.append((name, self.current_stream().name))
            work()

        if stream.captured is not None:
            stream.captured.append(run)
        else:
            run()

    def launch(self, calls: list[Callable[[], None]]) -> None:
        self.log.append(("launch", self.current_stream().name))
        for call in calls:
            call()

    def pinned(self, host: Any) -> bool:
        return any(host is each for each in self.pinned_memory)

    def empty_pinned(self, shape: Any, dtype: Any) -> Any:
        self.pinned_memory.append(np.empty(shape, dtype))
        return self.pinned_memory[-1]

    # --- arrays ---

    def asarray(self, x: Any, dtype: Any = None, order: str = "C") -> Any:
        if isinstance(x, StubArray) and (dtype is None or x.dtype == dtype) and x.flags.c_contiguous:
            return x
        return self.ndarray(np.array(unwrapped(x), dtype=dtype, order=order))

    def asnumpy(self, x: Any) -> Any:
        return x.array.copy()

    def zeros(self, shape: Any, dtype: Any = "float64") -> Any:
        if self.compile_error is not None:
            raise self.compile_error
        return self.ndarray(np.zeros(shape, dtype))

    def empty(self, shape: Any, dtype: Any = "float64") -> Any:
        return self.ndarray(np.empty(shape, dtype))

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        if out is None:
            return self.ndarray(a.array @ b.array)
        np.matmul(a.array, b.array, out.array)
        return out

    def set_pinned_memory_allocator(self, allocator: Any) -> None:
        self.pinned_allocator = allocator

    def get_default_pinned_memory_pool(self) -> Any:
        return self.pinned_pool

    def get_default_memory_pool(self) -> Any:
        return self.pool
