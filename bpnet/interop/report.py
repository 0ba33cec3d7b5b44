"""What a loading of weights has done, or would have done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from bpnet.errors import did_you_mean


class Match(NamedTuple):
    """One parameter of ours that was loaded.

    ours : its path; theirs : the tensors it was made of; shape : ours; done : what was done to them, in words
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    done: str


@dataclass
class LoadReport:
    """What `load_state_dict` did with every parameter and every tensor.

    matched    : what was loaded, each a (ours, theirs, shape, done)
    missing    : our path, and the names of PyTorch's that the source lacks for it
    left_over  : the source's tensors that no parameter of ours took, with their shapes
    ignored    : the source's tensors that are no parameters, or were to be ignored, each with the reason
    kept       : our parameters that were to stay as they are, each with the reason
    mismatched : what cannot be loaded although it is there, in words: of another shape, not finite
    """

    source: str
    matched: list[Match] = field(default_factory=list, init=False)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)
    left_over: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)
    ignored: dict[str, str] = field(default_factory=dict, init=False)
    kept: dict[str, str] = field(default_factory=dict, init=False)
    mismatched: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def complete(self) -> bool:
        """Whether every parameter was loaded, or was to be kept, and every tensor taken, or was to be ignored."""
        return not (self.missing or self.left_over or self.mismatched)

    def __str__(self) -> str:
        taken = {name for match in self.matched for name in match.theirs}
        n = len(self.matched) + len(self.missing) + len(self.mismatched) + len(self.kept)
        lines = [f"{self.source}: {len(taken)} tensors for {len(self.matched)} of {n} parameters"]
        lines += [f"  wrong: {ours}: {why}" for ours, why in self.mismatched.items()]
        for place, (ours, theirs) in enumerate(self.missing.items()):
            looked = theirs if place < 10 else ()  # it takes a while
            near = next(filter(None, (did_you_mean(name, self.left_over) for name in looked)), "")
            lines.append(f"  missing: {' and '.join(map(repr, theirs))} for {ours}{near}")
        lines += [f"  left over: {name!r} {shape}" for name, shape in self.left_over.items()]
        width = max((len(match.ours) for match in self.matched), default=0)
        lines += [
            f"  {match.ours:<{width}}  <- {' + '.join(match.theirs) or 'nothing'}  {match.shape}, {match.done}"
            for match in self.matched
        ]
        lines += [f"  ignored: {name!r}, {why}" for name, why in self.ignored.items()]
        lines += [f"  kept: {ours}, {why}" for ours, why in self.kept.items()]
        return "\n".join(lines)
