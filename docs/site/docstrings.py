"""Griffe extension: turns the Sphinx roles of docstrings, such as :func:`svgdx.ops.svgd_phi`, into links."""

from __future__ import annotations

import re
from typing import Any

import griffe
from checks import PUBLIC_MODULES

ROLE = re.compile(r":(?:mod|func|class|meth|attr|data):`~?([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each role to a cross-reference if its target is public, and to code if not."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites the docstrings of a package once all of it is loaded."""
        _fill_reference(pkg)
        _rewrite(pkg, pkg)


def _fill_reference(package: griffe.Module) -> None:
    """Gives svgdx.reference the references of all ops, which it takes from their rooms at run time."""
    reference = package["reference"]
    reference.exports = []
    for room in package["ops"].modules.values():
        for name in map(str, room.exports or ()):
            if f"{name}_reference" in room.members:
                reference.set_member(name, griffe.Alias(name, room.members[f"{name}_reference"], parent=reference))
                reference.exports.append(name)


def _rewrite(obj: griffe.Object, package: griffe.Module) -> None:
    if obj.docstring:
        obj.docstring.value = ROLE.sub(lambda role: _link(role[1], obj, package), obj.docstring.value)
    for member in obj.members.values():
        if not member.is_alias:
            _rewrite(member, package)


def _link(name: str, obj: griffe.Object, package: griffe.Module) -> str:
    """A link to a name that is absolute, of the docstring's public module, or of its class."""
    module = ".".join(obj.module.path.split(".")[:2])
    owner = obj if obj.is_class else obj.parent
    candidates = [name, f"{module}.{name}"]
    if owner is not None and owner.is_class:
        candidates.append(f"{module}.{owner.name}.{name}")
    target = next((path for path in candidates if _is_public(path, package)), None)
    return f"[`{name}`][{target}]" if target else f"`{name}`"


def _is_public(path: str, package: griffe.Module) -> bool:
    """Whether the path is a public module, a name that one exports, or a member of such a class."""
    if path in PUBLIC_MODULES:
        return True
    for public in PUBLIC_MODULES:
        names = path.removeprefix(f"{public}.").split(".")
        module = package if public == package.path else package[public.removeprefix(f"{package.path}.")]
        if path.startswith(f"{public}.") and names[0] in (module.exports or ()):
            member: Any = module.members[names[0]]
            return len(names) == 1 or (len(names) == 2 and names[1] in member.members)
    return False
