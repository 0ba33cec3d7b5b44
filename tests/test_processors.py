"""Compiled bodies for other processors than this one: without vectors of a known kind, and with those of AVX2."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bpnet.dispatch import load_variants

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402

pytestmark = pytest.mark.skipif(bool(fused.why_not()), reason=fused.why_not())

AVX2 = "+avx2,+fma,+avx,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+sse,+bmi,+bmi2,+lzcnt,+popcnt"
PROGRAM = """
import numpy as np
from bpnet import ops
from bpnet.dispatch import load_variants
from bpnet.ops.windows import Window
from bpnet.testing.kernels import assert_close, call

load_variants(np.ndarray)
from bpnet_numpy.fused.machine import VECTOR

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def agree(op, *args):
    variant = op.choose(args)
    assert variant.name == "fused", op.name
    assert_close(call(variant.body, args)[0], call(op.reference.body, args)[0], "float32")


window = Window((3, 2), (1, 1), (1, 1), ((1, 1), (1, 0)))
x, W, b = normal(3, 7, 6, 4), normal(3, 2, 4, 19), normal(19)
agree(ops.conv2d, x, W, b, window, 1, ops.relu)
agree(ops.conv2d_backward, normal(3, *window.places(7, 6), 19), x, W, window, 1, True, True, True)
x, W, U, b = normal(11, 6, 7), normal(7, 80), normal(20, 80) * np.float32(0.2), normal(80)
agree(ops.lstm, x, W, U, b, np.array([0, 6, 3, 9, 1, 2, 4, 5, 6, 6, 6]))
agree(ops.gelu, normal(1000) * 4)
print(VECTOR)
"""


@pytest.mark.parametrize(("name", "features", "vector"), [("generic", "", 0), ("haswell", AVX2, 32)])
def test_what_is_compiled_for_another_processor_means_the_same(
    name: str, features: str, vector: int, tmp_path: Path
) -> None:
    if features and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not a processor of that family")
    if features:
        import llvmlite.binding

        if not llvmlite.binding.get_host_cpu_features().get("avx2"):
            pytest.skip("this processor has no AVX2")
    variables = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "BPNET_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=120,
        env=os.environ | variables,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, [str(vector)]), done.stderr
