"""The directive `.. public:: GROUP`, which documents every public name of a group of `public_api`.

A name of a module that no group has, one without a docstring, and one that no page shows are errors. References in
annotations are resolved here too: a public class links to its entry, whatever its module.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from public_api import HIDDEN_MEMBERS, canonical, entries, group_of, members, missing_extras, public_bases
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


def directive_for(full: str) -> list[str]:
    """The lines of reStructuredText that document one public object."""
    value = entries()[full][2]
    if not callable(value):
        return [f".. autodata:: {full}", "   :no-value:", ""]
    if not inspect.isclass(value):
        return [f".. autofunction:: {full}", ""]
    kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
    hidden = ", ".join(sorted(HIDDEN_MEMBERS))
    lines = [f".. {kind}:: {full}", "   :members:", "   :special-members: __call__", f"   :exclude-members: {hidden}"]
    if public_bases(value):
        lines.append("   :show-inheritance:")
    return [*lines, ""]


class Public(SphinxDirective):
    """`.. public:: GROUP`: the documentation of every public name of the group."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Expand to autodoc's directives."""
        self.env.note_reread()  # it depends on all of bpnet
        group = self.arguments[0]
        names = members(group)
        if not names:
            return [nodes.paragraph("", "This version has nothing here.")]
        lines = [line for full in names for line in directive_for(full)]
        content = nodes.container()
        self.state.nested_parse(StringList(lines, source=f"public names of {group}"), self.content_offset, content)
        return content.children


def check_groups(app: Sphinx) -> None:
    """Refuse to build a reference that would leave out a public name."""
    for name, reason in missing_extras().items():
        raise ExtensionError(f"the reference cannot show bpnet.{name}: {reason}")
    for full, (part, _, value) in entries().items():
        if group_of(part) is None:
            raise ExtensionError(f"{full} is of bpnet.{part}, which has no group; add it to GROUPS of public_api.py")
        if not inspect.getdoc(value):
            raise ExtensionError(f"{full} has no docstring")


def check_shown(app: Sphinx, env: Any) -> None:
    """Refuse to finish without an entry for every public name."""
    missing = sorted(set(entries()) - set(env.get_domain("py").objects))
    if missing:
        raise ExtensionError(f"no page of the reference shows {', '.join(missing)}")


def resolve(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Link a class in an annotation to its entry; leave names from outside, and private ones, as text."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    name = target.rpartition(".")[2]
    domain = env.get_domain("py")
    full = canonical(name)
    if full in domain.objects:
        entry = domain.objects[full]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content])
    return content if _is_no_entry(target) else None


def _is_no_entry(target: str) -> bool:
    """Whether an annotation names something that the reference rightly has no entry for."""
    outside = (
        "np.",
        "numpy.",
        "collections.",
        "contextlib.",
        "typing.",
        "pathlib.",
        "os.",
        "sklearn.",
        "torch.",
        "types.",
    )
    if target.startswith(outside) or hasattr(builtins, target):
        return True
    return re.fullmatch(r"(bpnet\.[\w.]+\.)?_?[A-Z]\w*", target) is not None and canonical(target) is None


def show_bases(app: Sphinx, name: str, cls: Any, options: Any, bases: list[Any]) -> None:
    """Show the bases that a reader can look up."""
    bases[:] = public_bases(cls)


def show_aliases_by_name() -> None:
    """Write `Array | None`, where Sphinx would write TypeAliasForwardRef('Array') | None; only looks depend on it."""
    with contextlib.suppress(ImportError):
        from sphinx.util.inspect import TypeAliasForwardRef

        TypeAliasForwardRef.__repr__ = lambda self: str(self.name)  # type: ignore[method-assign]


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the methods that scikit-learn gives its estimators for routing metadata."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def link_literals(app: Sphinx, doctree: nodes.document) -> None:
    """Make literals such as `Dense(64, 128)` and `bp.ops.relu` on any page links to the reference."""
    for node in list(doctree.findall(nodes.literal)):
        match = re.fullmatch(r"(?:bp\.|bpnet\.)?([\w.]+)(?:\(.*\))?", node.astext())
        if match is None or isinstance(node.parent, (nodes.reference, addnodes.pending_xref, nodes.title)):
            continue
        full = canonical(match[1])
        if full is None or not ("." in node.astext() or re.match(r"[A-Z]\w*[a-z]", match[1])):
            continue
        link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=full, refdoc=app.env.docname)
        node.replace_self(link)
        link += node


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and the links."""
    show_aliases_by_name()
    app.add_directive("public", Public)
    app.connect("builder-inited", check_groups)
    app.connect("env-check-consistency", check_shown)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", link_literals)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-bases", show_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
