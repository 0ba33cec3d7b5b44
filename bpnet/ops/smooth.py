"""More activations and their derivatives. A backward takes the input x where the output alone does not give it."""

from __future__ import annotations

import math

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.activations import sigmoid
from bpnet.ops.costs import n_rows, size

# log(erfc(x) exp(x^2) / t) as a Chebyshev series in u = 2t - 1, t = 2 / (2 + x), for x >= 0: the coefficients are the
# integrals of that function against the polynomials, taken with 40 digits. [the form: Press et al. 2007, sec. 6.2.2]
ERFC = (
    -1.3026537197817094342, 0.6419697923564902603, 0.019476473204185836312, -0.0095615147868086316419,
    -0.0009465953444820368663, 0.00036683949785276145187, 0.000042523324806907771645, -0.000020278578112534243154,
    -1.6242900046470255135e-6, 1.3036558355805232018e-6, 1.5626441722066143178e-8, -8.5238095914926542525e-8,
    6.5290544390988514964e-9, 5.0593434955514689418e-9, -9.9136415649303308674e-10, -2.2736512229318358557e-10,
    9.646791102015526802e-11, 2.3940380830391147447e-12, -6.8860275264975533984e-12, 8.9448792730907257167e-13,
    3.1309213993429580783e-13, -1.1270822361367252366e-13, 3.8109052551892320552e-16, 7.1060976136092369878e-15,
    -1.5230282014571043043e-15, -9.4574945712912340005e-17, 1.2102371892242789923e-16,
)  # fmt: skip
IN_FLOAT32 = 12
"""Terms of it that tell in float32: all others together are 2e-8."""


@kernel(elementwise=True, flops=93)
def normal_cdf(x: Array) -> Array:
    """The probability that a standard normal number is below x: erfc(-x / sqrt(2)) / 2.

    The standard has no erf. For large negative x the relative accuracy stays, where 1 + erf would cancel.
    """
    xp = namespace(x)
    half = xp.abs(x) * math.sqrt(0.5)
    t = 2 / (2 + half)
    two_u = 4 * t - 2
    later, last = xp.zeros_like(x), xp.zeros_like(x)
    for c in ERFC[:0:-1]:  # Clenshaw's recurrence
        later, last = two_u * later - last + c, later
    series = 0.5 * (ERFC[0] + two_u * later) - last
    tail = 0.5 * t * xp.exp(series - half * half)
    return xp.where(x < 0, tail, 1 - tail)


@kernel(elementwise=True, flops=94)
def gelu(x: Array) -> Array:
    """Return x times `normal_cdf(x)`. [Hendrycks & Gimpel 2016]"""
    return x * normal_cdf(x)


@kernel(elementwise=True, flops=100)
def gelu_backward(dy: Array, x: Array) -> Array:
    """dx = dy (cdf(x) + x pdf(x)), pdf(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    density = namespace(x).exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (normal_cdf(x) + x * density)


SLOPE, CUBE = math.sqrt(2 / math.pi), 0.044715


@kernel(elementwise=True, flops=9)
def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, the approximation of GELU in its paper."""
    return 0.5 * x * (1 + namespace(x).tanh(SLOPE * (x + CUBE * x * x * x)))


@kernel(elementwise=True, flops=19)
def gelu_tanh_backward(dy: Array, x: Array) -> Array:
    """With t the tanh: dx = dy ((1 + t) / 2 + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2) / 2)."""
    t = namespace(x).tanh(SLOPE * (x + CUBE * x * x * x))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (SLOPE * (1 + 3 * CUBE * x * x)))


@kernel(elementwise=True, flops=3)
def elu(x: Array, alpha: float) -> Array:
    """Return x where x > 0, alpha (exp(x) - 1) elsewhere, alpha > 0. [Clevert, Unterthiner, Hochreiter 2016]"""
    xp = namespace(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


@kernel(elementwise=True, flops=2)
def elu_backward(dy: Array, y: Array, alpha: float) -> Array:
    """Pass dy where y > 0, dy (y + alpha) elsewhere: y + alpha = alpha exp(x)."""
    return namespace(y).where(y > 0, dy, dy * (y + alpha))


@kernel(elementwise=True, flops=4)
def silu(x: Array) -> Array:
    """Return x sigmoid(x), also called swish. [Elfwing, Uchibe, Doya 2018]"""
    return x * sigmoid(x)


@kernel(elementwise=True, flops=8)
def silu_backward(dy: Array, x: Array) -> Array:
    """With s = sigmoid(x): dx = dy s (1 + x (1 - s))."""
    s = sigmoid(x)
    return dy * (s * (1 + x * (1 - s)))


@kernel(elementwise=True, flops=4)
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    xp = namespace(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@kernel(elementwise=True, flops=4)
def softplus_backward(dy: Array, x: Array) -> Array:
    """dx = dy sigmoid(x)."""
    return dy * sigmoid(x)


@kernel(elementwise=True, flops=6)
def mish(x: Array) -> Array:
    """Return x tanh(softplus(x)). [Misra 2020]"""
    return x * namespace(x).tanh(softplus(x))


@kernel(elementwise=True, flops=14)
def mish_backward(dy: Array, x: Array) -> Array:
    """With t = tanh(softplus(x)): dx = dy (t + x sigmoid(x) (1 - t^2))."""
    t = namespace(x).tanh(softplus(x))
    return dy * (t + x * sigmoid(x) * (1 - t * t))


@kernel(elementwise=True, flops=5)
def hardswish(x: Array) -> Array:
    """Return x min(max(x + 3, 0), 6) / 6. [Howard et al. 2019]"""
    xp = namespace(x)
    return x * xp.minimum(xp.maximum(x + 3, 0), 6) * (1 / 6)


@kernel(elementwise=True, flops=4)
def hardswish_backward(dy: Array, x: Array) -> Array:
    """dx is 0 where x <= -3, dy where x >= 3, dy (2 x + 3) / 6 between."""
    xp = namespace(x)
    return xp.where(x <= -3, 0, xp.where(x >= 3, dy, dy * ((2 * x + 3) * (1 / 6))))


@kernel(flops=lambda x: 5 * size(x) + n_rows(x))
def log_softmax(x: Array) -> Array:
    """Return x - log(sum(exp(x))) over the last axis, after subtracting the maximum. x : (..., C), C >= 1"""
    xp = namespace(x)
    z = x - xp.max(x, axis=-1, keepdims=True)
    return z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))


@kernel(flops=4)
def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dx_i = dy_i - softmax_i sum_j dy_j, softmax = exp(y). dy, y : (..., C)"""
    xp = namespace(y)
    return dy - xp.exp(y) * xp.sum(dy, axis=-1, keepdims=True)


@kernel(flops=1)
def prelu(x: Array, a: Array) -> Array:
    """Return x where x > 0, a x elsewhere. x : (..., C); a : (C,) or (1,) [He et al. 2015]"""
    return namespace(x).where(x > 0, x, a * x)


@kernel(flops=lambda dy, x, a: 3 * size(x) + (x.shape[-1] if a.shape == (1,) else 0))
def prelu_backward(dy: Array, x: Array, a: Array) -> tuple[Array, Array]:
    """dx = dy where x > 0, a dy elsewhere; da = sum of dy x over the elements that a scaled."""
    xp = namespace(x)
    dx = xp.where(x > 0, dy, a * dy)
    scaled = xp.where(x > 0, 0, dy * x)
    da = xp.sum(scaled, axis=tuple(range(x.ndim - 1)))
    return dx, xp.reshape(xp.sum(da), (1,)) if a.shape == (1,) else da


@kernel(flops=2)
def glu(x: Array) -> Array:
    """The first half of the last axis times the sigmoid of the second: (..., 2 C) -> (..., C). [Dauphin et al. 2017]"""
    half = x.shape[-1] // 2
    return x[..., :half] * sigmoid(x[..., half:])


@kernel(flops=8)
def glu_backward(dy: Array, x: Array) -> Array:
    """With halves a, b and s = sigmoid(b): da = dy s, db = dy a s (1 - s)."""
    half = x.shape[-1] // 2
    s = sigmoid(x[..., half:])
    return namespace(x).concat((dy * s, dy * x[..., :half] * (s * (1 - s))), axis=-1)


@kernel(flops=100)
def gelu_with_slope(x: Array) -> tuple[Array, Array]:
    """`gelu`, and its derivative cdf(x) + x pdf(x), which shares most of the work: dx = dy times that."""
    cdf = normal_cdf(x)
    return x * cdf, cdf + x * (namespace(x).exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


@kernel(flops=21)
def gelu_tanh_with_slope(x: Array) -> tuple[Array, Array]:
    """`gelu_tanh`, and its derivative (1 + t) / 2 + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2) / 2, t the tanh."""
    t = namespace(x).tanh(SLOPE * (x + CUBE * x * x * x))
    y = 0.5 * x * (1 + t)
    return y, 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (SLOPE * (1 + 3 * CUBE * x * x))


@kernel(flops=lambda x: 5 * size(x) // 2)
def swiglu(x: Array) -> Array:
    """`silu` of the first half of the last axis times the second: (..., 2 C) -> (..., C). [Shazeer 2020]"""
    half = x.shape[-1] // 2
    return silu(x[..., :half]) * x[..., half:]


@kernel(flops=11)
def swiglu_backward(dy: Array, x: Array) -> Array:
    """With halves a, b and s = sigmoid(a): da = dy b s (1 + a (1 - s)), db = dy a s."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    s = sigmoid(a)
    return namespace(x).concat((dy * b * (s * (1 + a * (1 - s))), dy * (a * s)), axis=-1)
