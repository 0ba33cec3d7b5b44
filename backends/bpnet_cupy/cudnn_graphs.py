"""What is asked of cuDNN: one operation, as a graph of nvidia-cudnn-frontend.

A description is a value. It is the key under which a plan is kept, and the text of messages about it. cuDNN names the
axes of images (N, C, H, W) and those of filters (K, C, R, S), whatever their order in memory is; the strides say that
channels come last. Its "convolution" does not turn the window around either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]

IMAGES, FILTERS, PLACES = 1, 2, 3
"""Numbers of a convolution's tensors in its graph: what windows look at, the weight, what they see of it."""

Q, K, V, Y, LOGS, DY, DQ, DK, DV = range(1, 10)
"""Those of attention: LOGS are the logarithms of the rows' sums."""

STRICT = (
    "NONDETERMINISTIC",  # atomic sums: a resumed training would not have the same bits
    "DOWN_CONVERT_INPUTS",
    "REDUCED_PRECISION_REDUCTION",
    "WINOGRAD",  # spreads a NaN over its neighbours, and rounds more
    "WINOGRAD_TILE_4x4",
    "WINOGRAD_TILE_6x6",
    "WINOGRAD_TILE_13x13",
    "FFT",
)
"""Numerical notes of plans that are never taken."""


def laid_out(n: int, rows: int, columns: int, channels: int) -> tuple[list[int], list[int]]:
    """Dims and strides in cuDNN's order (N, C, H, W) of an array (N, H, W, C)."""
    return [n, channels, rows, columns], [rows * columns * channels, 1, columns * channels, channels]


@dataclass(frozen=True)
class Convolution:
    """One of the three: `fprop` makes places of images, `dgrad` images of places, `wgrad` filters of both.

    images  : (N, H, W, C); places : (N, P, Q, K); filters : (R, S, C / groups, K), in memory (K, R, S, C / groups)
    padding : (before, after) for rows and for columns
    mode    : how products are computed: "float32"; "tf32", of float32 arrays; "bf16", of bits of bfloat16 into float32
    """

    kind: str
    images: tuple[int, int, int, int]
    filters: tuple[int, int, int, int]
    places: tuple[int, int, int, int]
    stride: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]
    mode: str

    WORKSPACE = 1 << 28
    """Bytes that a plan may need at most."""

    @property
    def heuristics(self) -> tuple[str, ...]:
        """Whose plans are looked through, in this order."""
        return ("A", "FALLBACK")

    @property
    def refused(self) -> tuple[str, ...]:
        """The numerical notes of plans that are not taken: in float32 none on tensor cores, which round to TF32."""
        return (*STRICT, "TENSOR_CORE") if self.mode == "float32" else STRICT

    def __str__(self) -> str:
        rows, columns, channels, outputs = self.filters
        return (
            f"{self.kind} of a convolution of {self.mode} images {self.images} with {outputs} filters "
            f"({rows}, {columns}, {channels})"
        )

    def build(self, cudnn: Any, graph: Any) -> None:
        """Add the operation to a graph of the module `cudnn`."""
        r, s, depth, outputs = self.filters
        float32 = cudnn.data_type.FLOAT
        kind = cudnn.data_type.BFLOAT16 if self.mode == "bf16" else float32
        shapes = {
            IMAGES: laid_out(*self.images),
            FILTERS: laid_out(outputs, r, s, depth),
            PLACES: laid_out(*self.places),
        }

        def given(number: int, name: str) -> Any:
            dim, stride = shapes[number]
            return graph.tensor(name=name, dim=dim, stride=stride, data_type=kind, uid=number)

        window = {
            "pre_padding": [before for before, _ in self.padding],
            "post_padding": [after for _, after in self.padding],
            "stride": list(self.stride),
            "dilation": list(self.dilation),
            "compute_data_type": float32,
            "name": self.kind,
        }
        if self.kind == "fprop":
            number, made = (
                PLACES,
                graph.conv_fprop(image=given(IMAGES, "images"), weight=given(FILTERS, "filters"), **window),
            )
        elif self.kind == "dgrad":
            number, made = (
                IMAGES,
                graph.conv_dgrad(loss=given(PLACES, "places"), filter=given(FILTERS, "filters"), **window),
            )
        else:
            number, made = (
                FILTERS,
                graph.conv_wgrad(image=given(IMAGES, "images"), loss=given(PLACES, "places"), **window),
            )
        dim, stride = shapes[number]
        made.set_uid(number).set_dim(dim).set_stride(stride).set_output(True).set_data_type(float32)


@dataclass(frozen=True)
class Attention:
    """Attention of bits of bfloat16, summed in float32: `forward`, or `backward`, which adds without atomics.

    shape  : samples, heads, queries, keys, features of a head; arrays are (N, T, heads size)
    joined : q, k and v are thirds of the rows of one array, and so are their gradients
    causal : query i sees keys 0 ... i + keys - queries
    """

    kind: str
    shape: tuple[int, int, int, int, int]
    causal: bool
    joined: bool

    WORKSPACE = 1 << 31
    """Bytes that a plan may need at most: the backward sums dq in parts, each as large as q in float32."""

    @property
    def heuristics(self) -> tuple[str, ...]:
        """Whose plans are looked through."""
        return ("A",)

    @property
    def refused(self) -> tuple[str, ...]:
        """The numerical notes of plans that are not taken."""
        return STRICT[:1]

    def __str__(self) -> str:
        n, heads, queries, keys, size = self.shape
        return f"{self.kind} of attention of {n} x {heads} heads of {size} features, {queries} queries and {keys} keys"

    def build(self, cudnn: Any, graph: Any) -> None:
        """Add the operation to a graph of the module `cudnn`."""
        n, heads, queries, keys, size = self.shape
        bits, float32 = cudnn.data_type.BFLOAT16, cudnn.data_type.FLOAT

        def heads_of(length: int, joined: bool) -> tuple[list[int], list[int]]:
            width = heads * size * (3 if joined else 1)
            return [n, heads, length, size], [length * width, size, width, 1]

        def given(number: int, name: str, length: int, joined: bool = False) -> Any:
            dim, stride = heads_of(length, joined)
            return graph.tensor(name=name, dim=dim, stride=stride, data_type=bits, uid=number)

        def made(tensor: Any, number: int, length: int, joined: bool = False) -> None:
            dim, stride = heads_of(length, joined)
            tensor.set_uid(number).set_dim(dim).set_stride(stride).set_output(True).set_data_type(bits)

        logs = [n, heads, queries, 1], [heads * queries, queries, 1, 1]
        factors = {
            "q": given(Q, "q", queries, self.joined),
            "k": given(K, "k", keys, self.joined),
            "v": given(V, "v", keys, self.joined),
        }
        settings: dict[str, Any] = {"attn_scale": 1 / math.sqrt(size), "compute_data_type": float32, "name": self.kind}
        if self.causal:
            alignment = cudnn.diagonal_alignment
            settings["diagonal_alignment"] = alignment.TOP_LEFT if queries == keys else alignment.BOTTOM_RIGHT
            settings["diagonal_band_right_bound"] = 0
        if self.kind == "forward":
            y, sums = graph.sdpa(**factors, generate_stats=True, **settings)
            made(y, Y, queries)
            sums.set_uid(LOGS).set_dim(logs[0]).set_stride(logs[1]).set_output(True).set_data_type(float32)
            return
        gradients = graph.sdpa_backward(
            **factors,
            o=given(Y, "y", queries),
            dO=given(DY, "dy", queries),
            stats=graph.tensor(name="logs", dim=logs[0], stride=logs[1], data_type=float32, uid=LOGS),
            use_deterministic_algorithm=True,
            **settings,
        )
        for tensor, number, length in zip(gradients, (DQ, DK, DV), (queries, keys, keys), strict=True):
            made(tensor, number, length, self.joined)
