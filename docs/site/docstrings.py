"""Griffe extension: turns the Sphinx roles of docstrings, such as :func:`svgdx.ops.svgd_phi`, into links."""

from __future__ import annotations

import re
from typing import Any

import griffe
from checks import PUBLIC_MODULES

ROLE = re.compile(r":(?:mod|func|class|meth|attr|data):`~?([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each role to a cross-reference if its target is public, and to code if not."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda role: _link(role[1], obj), obj.docstring.value)


def _link(name: str, obj: griffe.Object) -> str:
    for module in PUBLIC_MODULES:
        if name == module or (name.startswith(module + ".") and name.count(".") == module.count(".") + 1):
            return f"[`{name}`][{name}]"
    # A bare name stands for one of the package that the docstring is in.
    package = ".".join(obj.module.path.split(".")[:2])
    if "." not in name and package in PUBLIC_MODULES:
        return f"[`{name}`][{package}.{name}]"
    return f"`{name}`"
