"""Importing this registers the bodies for CuPy's arrays; bpnet does it before the first op runs on one."""

from __future__ import annotations

import cupy

from bpnet_cupy.cudnn import library
from bpnet_cupy.driver import CudaDriver
from bpnet_cupy.kernels import by_cudnn, by_cudnn_attention, register

DRIVER = CudaDriver()
"""What launches them."""

register(cupy.ndarray, DRIVER)
for each in (by_cudnn, by_cudnn_attention):
    each.register(cupy.ndarray, DRIVER, library)
