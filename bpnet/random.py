"""Random numbers drawn on the host: the same on every backend, machine and NumPy version.

Every use has its own Philox stream, keyed by (seed, purpose). Uniform and normal numbers are made from its raw bits by
additions, products, quotients and square roots alone, which IEEE 754 rounds the same everywhere.
"""

from __future__ import annotations

import hashlib
import math
import operator
from typing import Any

import numpy as np

from bpnet.errors import ConfigError

MAX_SEED = (1 << 64) - 1


def check_seed(seed: Any) -> int:
    """Return `seed` as an int; ConfigError when it is no integer in 0 ... 2^64 - 1."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise ConfigError(f"a seed must be an integer, got {seed!r}") from None
    if not 0 <= value <= MAX_SEED:
        raise ConfigError(f"a seed must lie in 0 ... 2^64 - 1, got {value}")
    return value


def stream_key(seed: int, purpose: str) -> tuple[int, int]:
    """The Philox key of a stream: the seed, and 64 bits of the purpose's BLAKE2b digest."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    return check_seed(seed), int.from_bytes(digest, "little")


class HostStream:
    """Raw bits, uniform and normal numbers of one (seed, purpose), drawn one after the other.

    purpose : any text, such as "init/0.weight"; equal texts give equal numbers
    """

    def __init__(self, seed: int, purpose: str) -> None:
        key = np.array(stream_key(seed, purpose), dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=np.zeros(4, dtype=np.uint64))

    def words(self, n: int) -> Any:
        """(n,) uint64."""
        return np.asarray(self._bits.random_raw(n), dtype=np.uint64)

    def uniform(self, shape: tuple[int, ...]) -> Any:
        """Float64 numbers strictly between 0 and 1: the odd multiples of 2^-53."""
        words = self.words(math.prod(shape))
        return (((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Float64 numbers of mean 0 and standard deviation 1, by the inverse of the distribution function."""
        p = self.uniform(shape).reshape(-1)
        for start in range(0, p.size, 65536):  # parts that stay in the cache
            part = p[start : start + 65536]
            part[...] = normal_quantile(part)
        return p.reshape(shape)

    def permutation(self, n: int) -> Any:
        """The numbers 0 ... n - 1 in random order, int64."""
        return np.argsort(self.words(n), kind="stable")


# The coefficients of algorithm AS 241 (PPND16), constant term first. [Wichura 1988, Applied Statistics 37, 477-484]
_CENTRE = (
    (3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
     45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    (1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
     21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852545925),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
     1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4),
    (1.0, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
     0.14810397642748007459, 0.0151986665636164571966, 5.475938084995344946e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR_TAIL = (
    (6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
     0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
     7.868691311456132591e-4, 1.8463183175100546818e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


_LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(12))


def _log(x: Any) -> Any:
    """The natural logarithm: x = m 2^e with m near 1, log m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172.

    Not numpy.log, whose last bit depends on the processor.
    """
    m, e = np.frexp(x)
    low = m < math.sqrt(0.5)
    m = np.where(low, 2 * m, m)
    e = np.where(low, e - 1, e)
    s = (m - 1) / (m + 1)
    return s * _polynomial(_LOG_SERIES, s * s) + e * 0.6931471805599453


def normal_quantile(p: Any) -> Any:
    """The z for which a standard normal number is below z with probability p, 0 < p < 1, to about 1e-15.

    p : (n,) float64
    """
    q = p - 0.5
    z = q * _ratio(_CENTRE, 0.180625 - q * q)
    tail = np.abs(q) > 0.425
    side = q[tail]
    r = np.sqrt(-_log(np.where(side < 0, p[tail], 1 - p[tail])))
    far = r > 5
    magnitude = _ratio(_TAIL, r - 1.6)
    magnitude[far] = _ratio(_FAR_TAIL, r[far] - 5)
    z[tail] = np.where(side < 0, -magnitude, magnitude)
    return z
