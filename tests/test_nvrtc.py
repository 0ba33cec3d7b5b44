"""NVIDIA's compiler takes kernels.cu for every GPU that bpnet names, with registers to spare: no GPU is needed."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import nvrtc
import pytest

from bpnet_cupy.kernels.common import BLOCK
from bpnet_cupy.launches import signature
from bpnet_cupy.names import ACTIVATIONS, instance, name_expressions

pytestmark = pytest.mark.nvrtc
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
KINDS = ("float", "double")
REGISTER_FILE = 65536  # of a multiprocessor, on all three
SHARED_MEMORY = 48 * 1024  # bytes of a block that need not be asked for

WHOLE = "sm_90"  # all instances; for the others one of every kernel, because each takes a tenth of a second


def chosen(kind: str, architecture: str) -> tuple[str, ...]:
    names = name_expressions(kind)
    return names if architecture == WHOLE else tuple({name.partition("<")[0]: name for name in names}.values())


@cache
def resources(kind: str, architecture: str) -> Any:
    return nvrtc.resources(chosen(kind, architecture), architecture)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_becomes_machine_code(architecture: str, kind: str) -> None:
    binary, found, log = resources(kind, architecture)
    assert binary[:4] == b"\x7fELF"
    assert "warning" not in log
    assert set(found) >= set(chosen(kind, architecture))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_and_two_blocks_of_each_fit_on_a_multiprocessor(architecture: str, kind: str) -> None:
    _, found, _ = resources(kind, architecture)
    for name, each in found.items():
        assert each.spilled == 0, name
        assert 2 * BLOCK * each.registers <= REGISTER_FILE, name
        assert each.shared <= SHARED_MEMORY, name


IN_PACKS = (
    "gather_windows<float>", "add_windows<float, Relu>", "depthwise<float, Relu>", "depthwise_back<float, Relu>",
    "max_pool<float>", "avg_pool<float>", "avg_pool_backward<float>", "global_avg_pool_backward<float>",
    "swap_axes<float>", "normalize<float>", "normalize_backward<float, false>", "layer_norm<float, 32, true>",
    "layer_norm_backward<float, 32, true>", "group_norm<float, 256>", "group_norm_backward<float, 256>", "blend<float>",
    "commit<float>", "take_rows<float, long long>", "activation_with_slope<float, Gelu>",
    "swiglu<float>", "swiglu_backward<float>", "add_table<float>",
)  # fmt: skip


@cache
def assembly() -> dict[str, str]:
    """The PTX of some float kernels, by name."""
    names = (
        *(instance(kernel, "float", struct) for kernel in ("activation", "activation_backward", "bias_activation")
          for struct in ACTIVATIONS.values()),
        "combine<float, Sum>", "dropout<float>", "dropout_backward<float>", "adam<float, false>", "softmax<float, 8>",
        *IN_PACKS,
    )  # fmt: skip
    text, mangled, _ = nvrtc.compiled(names, "compute_90", "ptx")
    text = text.decode() if isinstance(text, bytes) else text
    plain = {mangled[name]: name for name in names}
    pieces = re.split(r"\.entry (\w+)\(", text)
    return {
        plain[n]: body.partition("\n}\n")[0] for n, body in zip(pieces[1::2], pieces[2::2], strict=True) if n in plain
    }


def test_float_kernels_compute_in_float() -> None:
    """A constant without its suffix would make float64 of it, which many GPUs do at a 64th of the speed."""
    for name, body in assembly().items():
        if not name.startswith("adam"):
            assert ".f64" not in body, name


def test_elementwise_kernels_move_16_bytes_at_once() -> None:
    for name, body in assembly().items():
        if not name.startswith("softmax"):
            assert re.search(r"ld\.global\.v[24]\.", body), name
            assert re.search(r"st\.global\.v[24]\.", body), name


@cache
def of_attention() -> str:
    text, _, _ = nvrtc.compiled(("attention<float, 4, 64>",), "compute_90", "ptx")
    return text.decode() if isinstance(text, bytes) else text


def test_attention_multiplies_what_lies_in_shared_memory_side_by_side() -> None:
    """Fused products and sums in float32, of four numbers that are read at once, and all arrays in registers."""
    assert of_attention().count("fma.rn.ftz.f32") > 64
    assert "ld.shared.v4.f32" in of_attention()
    assert not re.search(r"ld\.shared\.f32|(ld|st)\.local|\.f64 \t", of_attention())


def test_products_and_sums_are_not_fused_and_float32_denormals_count_as_zero() -> None:
    body = assembly()["adam<float, false>"]
    assert "sqrt.rn.ftz.f32" in body
    assert "div.rn.ftz.f32" in body
    assert "fma.rn.ftz.f32" not in body


def test_parameters_have_the_types_that_launches_are_checked_against() -> None:
    kinds = {
        "float": "f32",
        "double": "f64",
        "long long": "u64",
        "unsigned": "u32",
        "int": "u32",
        "unsigned long long": "u64",
        "bool": "u8",
    }
    for name, body in assembly().items():
        listed: list[Any] = re.findall(r"\.param \.(\w+) ", body.partition(")")[0])
        assert listed == ["u64" if each.type.endswith("*") else kinds[each.type] for each in signature(name)], name


def test_an_error_in_a_kernel_comes_with_the_compilers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy.cuda.compiler import CompileException

    good = nvrtc.source()
    monkeypatch.setattr(nvrtc, "source", lambda: good.replace("T v[decltype(count)::value];", "T v[none];", 1))
    with pytest.raises(CompileException, match=r'kernels.cu\(\d+\): error: identifier "none" is undefined'):
        nvrtc.compiled(("activation<float, Relu>",), "sm_90")
