"""Links where Sphinx sees none: code in single backticks, and names without their module.

Docstrings say `Scope` and mean a class; most of what stands in backticks is code, and no link.
"""

import builtins
import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain, PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

ROLE = "backticks"
# What may be looked for without its module: a class of ours, or a member of one.
CLASS = re.compile(r"[A-Z]\w+(\.\w+)?(\(\))?")


class _BackticksRole(PyXRefRole):
    """`py:obj` that may be in vain."""

    def result_nodes(
        self, document: nodes.document, env: BuildEnvironment, node: nodes.Element, is_ref: bool
    ) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Marks the node; Sphinx calls it."""
        node["refdomain"], node["reftype"], node[ROLE] = "py", "obj", True
        return super().result_nodes(document, env, node, is_ref)


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Element | None:
    """The one object of ours with that name, whatever its module; else code, if it may be."""
    target = node.get("reftarget", "").lstrip("~.")
    domain = env.domains["py"]
    if node.get("refdomain") != "py" or not isinstance(domain, PythonDomain):
        return None
    if CLASS.fullmatch(target):
        found = domain.find_obj(env, "", "", target.removesuffix("()"), None, searchmode=1)
        places = {(place.docname, place.node_id): name for name, place in found}
        if len(places) == 1:
            (place, name) = places.popitem()
            return make_refnode(app.builder, node["refdoc"], *place, shown, name)
    return shown if node.get(ROLE) else None


def _leave_builtins(_: Sphinx, document: nodes.document) -> None:
    """`bytes` in an annotation is the type, and no field of that name that a class has."""
    for node in list(document.findall(pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, node.get("reftarget", "")):
            node.replace_self(node.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role(ROLE, _BackticksRole())
    app.connect("missing-reference", _resolve)
    app.connect("doctree-read", _leave_builtins)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
