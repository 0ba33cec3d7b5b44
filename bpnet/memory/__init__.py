"""What training takes of memory, found before anything is allocated: `model.memory(batch_size)`.

The step that trains is made on arrays that have a shape and no memory, and what it would hold is written in a ledger.

    ledger.py     what is held, and the most that was
    outline.py    the arrays
    rules.py      what NumPy's functions give of them
    bodies.py     what makes kernels, stores and plans of them
    rehearsal.py  a step of a copy of the model, eager and planned
    estimate.py   the report made of such steps
    report.py     the report itself
"""

from bpnet.memory.estimate import estimate
from bpnet.memory.report import MemoryReport, MemoryRow, RecomputeRow

__all__ = ["MemoryReport", "MemoryRow", "RecomputeRow", "estimate"]
