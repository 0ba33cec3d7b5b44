"""Sample arguments for every kernel: what the generic tests call reference and variants with."""

from bpnet.testing.cases import arrays, counts, losses, recurrences, updates
from bpnet.testing.cases.common import Cases

CASES: dict[str, Cases] = arrays.CASES | losses.CASES | updates.CASES | counts.CASES | recurrences.CASES

__all__ = ["CASES", "Cases"]
