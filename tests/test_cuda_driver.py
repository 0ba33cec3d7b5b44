"""The driver of CuPy, beside a stand-in for CuPy that notes what it is asked for: no GPU is needed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bpnet import dispatch, ops
from bpnet.dispatch import kernels
from bpnet_cupy.driver import NULL, OPTIONS, SOURCES, CudaDriver, source, three
from bpnet_cupy.kernels import register
from bpnet_cupy.names import USUAL, name_expressions

ROOT = Path(__file__).parent.parent


class FakeArray:
    """What a variant asks of a CuPy array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def reshape(self, *shape: Any) -> FakeArray:
        return FakeArray(self.array.reshape(*shape))

    @property
    def T(self) -> FakeArray:
        return FakeArray(self.array.T)


class FakeModule:
    made: list[FakeModule] = []  # noqa: RUF012

    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        self.code, self.options, self.names = code, options, name_expressions
        self.asked: list[str] = []
        self.launched: list[tuple[Any, ...]] = []
        FakeModule.made.append(self)

    def get_function(self, name: str) -> Any:
        assert name in self.names
        self.asked.append(name)
        return lambda grid, block, args, *, shared_mem=0: self.launched.append((name, grid, block, args, shared_mem))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake: Any = ModuleType("cupy")
    fake.ndarray, fake.RawModule = FakeArray, FakeModule
    fake.empty = lambda shape, dtype: FakeArray(np.empty(shape, dtype))
    fake.zeros = lambda shape, dtype: FakeArray(np.zeros(shape, dtype))
    fake.asarray = lambda values, dtype: FakeArray(np.asarray(values, dtype))
    fake.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": 132}))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    FakeModule.made.clear()
    return fake


@pytest.fixture
def registered(cupy: ModuleType) -> Any:
    """The variants on the stand-in's arrays, taken away afterwards."""
    dispatch._NAMESPACES[FakeArray] = np
    register(FakeArray, CudaDriver())
    yield
    del dispatch._NAMESPACES[FakeArray]
    for op in kernels():
        op._registered.pop(FakeArray, None)
        op._table.clear()


def test_a_kernel_is_compiled_when_it_is_first_asked_for_the_usual_ones_together(cupy: ModuleType) -> None:
    driver = CudaDriver()
    assert FakeModule.made == []
    for name in ("sgd<float>", "sgd<float>", "adam<float, false>", "sgd<double>", "activation<float, Mish>"):
        driver.launch(name, 1, 256, ())
    assert [module.names for module in FakeModule.made] == [USUAL, ("sgd<double>",), ("activation<float, Mish>",)]
    assert FakeModule.made[0].asked == ["sgd<float>", "adam<float, false>"]
    for module in FakeModule.made:
        assert (module.code, module.options) == (source(), OPTIONS)
    assert set(USUAL) <= set(name_expressions())


def test_a_launch_passes_grid_and_block_of_three_and_the_null_pointer_as_eight_bytes(cupy: ModuleType) -> None:
    driver = CudaDriver()
    x = driver.empty(3, np.float32)
    call = driver.launch("fill<float>", (2, 5), 64, (x, None, np.int64(3)), 16)
    (module,) = FakeModule.made
    assert module.launched == []
    call()
    assert module.launched == [("fill<float>", (2, 5, 1), (64, 1, 1), (x, NULL, 3), 16)]
    assert NULL.nbytes == 8
    assert (three(7), three((7, 8, 9)), driver.sm_count) == ((7, 1, 1), (7, 8, 9), 132)


def test_ops_on_cupys_arrays_launch_kernels(registered: Any) -> None:
    x = FakeArray(np.ones((4, 6), np.float32))
    y = ops.gelu(x)
    assert y.shape == (4, 6)
    dx, keep = ops.dropout(x, FakeArray(np.array([0, 1])), 1, (2, 3), 0.5)
    assert keep.dtype == np.bool_
    gelu, usual = FakeModule.made
    ((name, grid, block, args, shared),) = gelu.launched
    (dropped,) = usual.launched
    assert (name, grid, block, shared) == ("activation<float, Gelu>", (1, 1, 1), (256, 1, 1), 0)
    assert args[:2] == (y, x)
    assert [type(each) for each in args[2:]] == [np.int64, np.float32]
    assert dropped[0] == "dropout<float>"
    assert dropped[3][:4] == (dx, keep, NULL, x)


def test_large_arrays_take_more_blocks_but_not_without_limit(registered: Any) -> None:
    for n in (1024, 4096, 10**8):
        ops.relu(FakeArray(np.empty(n, np.float32)))  # memory that nobody touches
    (module,) = FakeModule.made
    assert [grid for _, grid, *_ in module.launched] == [(1, 1, 1), (4, 1, 1), (16 * 132, 1, 1)]


def test_importing_the_backend_needs_no_cupy() -> None:
    """Nor do its kernels' host code, the checks and what stands in for the device."""
    program = (
        "import sys; sys.modules['cupy'] = None; sys.modules['cupyx'] = None\n"
        "import bpnet_cupy, bpnet_cupy.driver, bpnet_cupy.kernels, bpnet_cupy.launches, bpnet_cupy.host.backend\n"
        "import bpnet; bpnet.get_backend('numpy')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_sources_of_the_kernels_are_in_the_packages_that_ship() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "backends/bpnet_cupy" in listed["packages"]
    assert set(listed) == {"packages"}  # no filter that could leave files out
    found = {path.name for path in (ROOT / "backends" / "bpnet_cupy").glob("*.cu")}
    assert found == set(SOURCES)  # none is forgotten
    assert (ROOT / "backends" / "bpnet_cupy" / "host" / "cuda_on_host.h").is_file()
