"""Parameter groups: parts of a model that learn at their own rate, or decay by their own amount."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from bpnet.checks import at_least_0, positive
from bpnet.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """The parameters whose path matches `pattern`, as the shell matches file names: "0.*", "*.bias".

    learning_rate_scale : times the optimizer's learning rate; above 0 (`layer.freeze()` keeps parameters as they are)
    weight_decay        : in the place of the optimizer's; None leaves that. As everywhere, it spares parameters without
                          `decay`, which biases are.
    Where several groups match, the first counts.
    """

    pattern: str
    learning_rate_scale: float = field(default=1.0, kw_only=True)
    weight_decay: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise ConfigError(f"a Group's pattern is text, as '0.*' or '*.bias', got {self.pattern!r}")
        object.__setattr__(self, "learning_rate_scale", positive("learning_rate_scale", self.learning_rate_scale))
        if self.weight_decay is not None:
            object.__setattr__(self, "weight_decay", at_least_0("weight_decay", self.weight_decay))

    def matches(self, path: str) -> bool:
        """Whether the parameter at `path` belongs to the group, unless an earlier one has it."""
        return fnmatchcase(path, self.pattern)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return asdict(self)


def as_groups(name: str, groups: Any) -> tuple[Group, ...]:
    """A sequence of Groups as a tuple; ConfigError for anything else."""
    if groups is None:
        return ()
    if not isinstance(groups, (list, tuple)) or not all(isinstance(each, Group) for each in groups):
        raise ConfigError(
            f"{name} must be a list of Groups, as in [Group('0.*', learning_rate_scale=0.1)], got {groups!r}"
        )
    return tuple(groups)
