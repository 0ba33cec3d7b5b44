"""cuDNN itself takes every description, and plans for GPUs that are not there: none is needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import cuda_host
import cudnn_plans
import pytest
from cuda_cases import cases_of
from cudnn_plans import plans, usual
from fake_cudnn import FakeCudnn
from test_cudnn import CONVOLUTIONS, OF_BITS, asked, of_cudnn

from bpnet_cupy.cudnn import Description
from bpnet_cupy.cudnn_graphs import Attention, Convolution
from bpnet_cupy.problem import precision

pytestmark = [pytest.mark.cudnn, pytest.mark.cuda_host]
NOT_SUPPORTED = "cudnnGraphNotSupportedError: No valid engine configs"


def of_the_cases(mode: str, names: Iterable[str] = CONVOLUTIONS) -> list[Description]:
    """Every description that the sample arguments of the operations come to."""
    with asked(FakeCudnn()) as library, precision(mode):
        for name in names:
            for args in cases_of(name, "float32"):
                variant = of_cudnn(name)
                own = cuda_host.brought(args)
                if variant.accepts(*own):
                    variant.body(*own)
        return [description for _, description in library._plans]


def outcomes(descriptions: list[Any], architecture: str = "sm_90") -> list[tuple[Any, Any, str]]:
    found = plans(descriptions, architecture)
    return [(each, one["workspace"], one["reason"]) for each, one in zip(descriptions, found, strict=True)]


def test_cudnn_takes_and_plans_every_convolution_of_the_cases() -> None:
    descriptions = [each for mode in ("float32", "tf32") for each in of_the_cases(mode)]
    descriptions += [each for each in of_the_cases("bf16") if each.images[3] % 8 == 0]
    assert len(descriptions) > 50
    for each, workspace, reason in outcomes(descriptions):
        assert workspace is not None or reason.startswith(NOT_SUPPORTED), f"{each}: {reason}"
        if each.mode != "bf16":  # small images have channels that its tensor cores do not take
            assert workspace is not None, f"{each}: {reason}"
            assert workspace <= each.WORKSPACE, str(each)


def test_every_convolution_of_bits_of_the_cases_has_a_plan_for_bits_or_for_the_numbers_they_are() -> None:
    descriptions = of_the_cases("float32", OF_BITS)[::2]
    assert len(descriptions) > 12
    assert {each.mode for each in descriptions} == {"bf16"}
    in_bits = outcomes(descriptions)
    for each, workspace, reason in in_bits:
        assert workspace is not None or reason.startswith(NOT_SUPPORTED), f"{each}: {reason}"
    others = [replace(each, mode="tf32") for each, workspace, _ in in_bits if workspace is None]
    assert 0 < len(others) < len(descriptions)
    for each, workspace, reason in outcomes(others):
        assert workspace is not None, f"{each}: {reason}"
        assert workspace <= each.WORKSPACE, str(each)


@pytest.mark.parametrize("architecture", cudnn_plans.GPUS)
def test_usual_layers_have_deterministic_plans(architecture: str) -> None:
    layers = [each for each in usual() if isinstance(each, Convolution) or each.shape[4] != 128]
    if architecture != "sm_90":  # kernels of attention are compiled, which takes a third of a second each
        layers = [each for each in layers if isinstance(each, Convolution)] + layers[-3:-1]
    for each, workspace, reason in outcomes(layers, architecture):
        if isinstance(each, Attention):
            assert workspace is not None, f"{each}: {reason}"
            assert workspace <= each.WORKSPACE, str(each)
        elif each.mode != "bf16" or (each.images[3] % 8 == 0 and each.kind == "fprop"):
            assert workspace is not None, f"{each}: {reason}"
        else:
            assert workspace is not None or reason.startswith(NOT_SUPPORTED), f"{each}: {reason}"


def test_a_plan_is_a_function_of_the_description() -> None:
    layers = [each for each in usual() if isinstance(each, Convolution) and each.mode != "bf16"]
    assert plans(layers, "sm_90") == plans(layers[::-1], "sm_90")[::-1]


def test_cudnn_refuses_what_is_wrong() -> None:
    """So the tests above can fail: each of these is one mistake in a description."""
    right = Convolution("fprop", (2, 9, 9, 8), (3, 3, 8, 8), (2, 9, 9, 8), (1, 1), (1, 1), ((1, 1), (1, 1)), "float32")
    wrong: list[Any] = [
        replace(right, places=(2, 9, 8, 8)),
        replace(right, padding=((1, 0), (1, 1))),
        replace(right, stride=(2, 2)),
        replace(right, dilation=(2, 1)),
        replace(right, filters=(3, 3, 3, 8)),
        replace(right, kind="dgrad", images=(2, 9, 9, 6)),
        replace(right, kind="wgrad", places=(2, 9, 9, 6)),
        replace(right, places=(3, 9, 9, 8)),
        Attention("forward", (2, 2, 64, 64, 20), causal=False, joined=False),
        Attention("backward", (2, 2, 64, 64, 12), causal=True, joined=True),
    ]
    first, *others = outcomes([right, *wrong])
    assert first[1] is not None
    for each, workspace, reason in others:
        assert workspace is None, str(each)
        assert "BAD_PARAM" in reason or "hidden_dim" in reason, f"{each}: {reason}"
