"""Sample arguments for every kernel: what the generic tests call reference and variants with."""

from bpnet.testing.cases import arrays, bfloat16, counts, images, losses, recurrent, sequences, updates
from bpnet.testing.cases.common import Cases

CASES: dict[str, Cases] = arrays.CASES | losses.CASES | updates.CASES | counts.CASES | images.CASES | sequences.CASES
CASES |= recurrent.CASES | bfloat16.CASES

__all__ = ["CASES", "Cases"]
