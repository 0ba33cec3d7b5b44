"""The command `bpnet`: looks for what the command line needs, then hands over to `bpnet.commands`.

Not called `cli`: the genomics package of the same import name has a folder `bpnet/cli`, which would win over a module.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (those of the process by default).

    Exit codes: 0; 1 for a failed run; 2 for wrong use, a backend that cannot be used, or a missing extra.
    """
    try:
        try:
            import pydantic  # noqa: F401
            import typer  # noqa: F401
        except ImportError as error:
            print(f'bpnet: the command line needs more ({error}): pip install "bpnet-xp[cli]"', file=sys.stderr)
            return 2
        from bpnet.commands import app

        app(arguments, prog_name="bpnet")
    except KeyboardInterrupt:  # imports are the first thing that Ctrl-C can meet
        print("bpnet: interrupted", file=sys.stderr)
        return 1
    return 0
