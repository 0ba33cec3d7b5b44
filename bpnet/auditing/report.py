"""What an audit found, as a table, as JSON values, and as HTML."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpnet.auditing.parting import Parting

HEADINGS = ("where", "what", "error", "ratio", "how", "verdict")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    where     : the path and class of a layer, the loss, "model and loss", or a kernel
    what      : "dx", the path of a parameter, "promises", or what was compared
    passed    : whether nothing is wrong
    error     : the largest deviation as a part of the largest right value; None where nothing was compared
    ratio     : of what was computed to what is right, where one is a multiple of the other
    diagnosis : what is wrong, in words; '' where nothing is
    kinks     : how many kinks were stepped around
    how       : what was compared: "Jacobian, 20 x 15", "16 directions", "12 calls"
    """

    where: str
    what: str
    passed: bool
    error: float | None = None
    ratio: float | None = None
    diagnosis: str = ""
    kinks: int = 0
    how: str = ""

    @property
    def verdict(self) -> str:
        """The last column of the table."""
        around = f" ({self.kinks} {'kink' if self.kinks == 1 else 'kinks'} stepped around)" if self.kinks else ""
        note = f": {self.diagnosis}" if self.diagnosis else ""
        return f"{'ok' if self.passed else 'WRONG'}{note}{around}"

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        error = "" if self.error is None else f"{self.error:.1e}"
        ratio = "" if self.ratio is None or self.passed else f"{self.ratio:.4g}"
        return self.where, self.what, error, ratio, self.how, self.verdict


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    subject  : what was audited, where, and with how many samples
    rows     : every Row, inner layers before those that hold them; failures are those that did not pass
    notes    : what could not be looked at, and why
    parting  : with `against`, the first tensor in which the two sides part; None where they agree
    """

    subject: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    parting: Parting | None = None

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    @property
    def kinks(self) -> int:
        """How many kinks were stepped around."""
        return sum(row.kinks for row in self.rows)

    def json(self) -> dict[str, Any]:
        """The report as values that JSON can hold; a number that is not finite is None."""
        rows = [
            {name: _finite(value) for name, value in asdict(row).items()} | {"verdict": row.verdict}
            for row in self.rows
        ]
        return {
            "subject": self.subject,
            "passed": self.passed,
            "kinks": self.kinks,
            "notes": list(self.notes),
            "rows": rows,
            "parting": None if self.parting is None else {k: _finite(v) for k, v in asdict(self.parting).items()},
        }

    def __str__(self) -> str:
        table = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        text = [self.subject, "", *lines, ""]
        if self.parting is not None:
            text.append(str(self.parting))
        text += [f"note: {note}" for note in self.notes]
        return "\n".join([*text, self.conclusion])

    @property
    def conclusion(self) -> str:
        """One line: "passed: 23 rows, 2 kinks stepped around"."""
        around = f", {self.kinks} {'kink' if self.kinks == 1 else 'kinks'} stepped around" if self.kinks else ""
        if self.passed:
            return f"passed: {len(self.rows)} rows{around}"
        first, n = self.failures[0], len(self.failures)
        look = f"look first at {first.where}, {first.what}: {first.diagnosis}"
        return f"FAILED: {n} of {len(self.rows)} rows{around}; {look}"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows
        )
        below = [*([] if self.parting is None else [str(self.parting)]), *self.notes, self.conclusion]
        return (
            f"<p>{html.escape(self.subject)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + "".join(f"<p>{html.escape(line)}</p>" for line in below)
        )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
