"""The audit: every derivative of a model held to differences, every promise of its layers, every kernel of its backend.

    report = bp.audit(model, loss, x, y)       # or bpnet audit RECIPE
    report.passed, print(report)
    bp.audit(model, loss, x, y, against="torch").parting
    audit_shipped(backend="numpy").passed      # everything that bpnet ships, or bpnet audit --all

The audited model is left as it is: everything happens on a copy in float64.
"""

from bpnet.auditing.audit import audit
from bpnet.auditing.parting import Parting
from bpnet.auditing.report import AuditReport, Row
from bpnet.auditing.shipped import audit_shipped

__all__ = ["AuditReport", "Parting", "Row", "audit", "audit_shipped"]
