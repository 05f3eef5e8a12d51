"""The public modules, and the check that every public name has a docstring. `make docs` and the tests run it."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

PUBLIC_MODULES = (
    "svgdx",
    "svgdx.ops",
    "svgdx.reference",
    "svgdx.densities",
    "svgdx.losses",
    "svgdx.activations",
    "svgdx.samplers",
    "svgdx.distributed",
    "svgdx.gflownets",
    "svgdx.rl",
)


def missing_docstrings(module: ModuleType) -> list[str]:
    """Returns the public names without a docstring of their own: the module, its functions, classes and methods.

    Constants have no docstring and are not checked.
    """
    missing = [] if module.__doc__ else [module.__name__]
    for name in module.__all__:
        member = getattr(module, name)
        path = f"{module.__name__}.{name}"
        if inspect.isclass(member):
            missing += _missing_in_class(member, path)
        elif inspect.isroutine(member) or inspect.ismodule(member):
            missing += [] if member.__doc__ else [path]
    return missing


def all_missing_docstrings() -> list[str]:
    """Returns the public names without a docstring, of all public modules."""
    return [name for module in PUBLIC_MODULES for name in missing_docstrings(importlib.import_module(module))]


def _missing_in_class(cls: type, path: str) -> list[str]:
    # A dataclass without a docstring gets its signature as one.
    documented = cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")
    missing = [] if documented else [path]
    for name, member in vars(cls).items():
        is_method = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
        # A method that overrides a documented one inherits its docstring.
        if is_method and not name.startswith("_") and not inspect.getdoc(getattr(cls, name)):
            missing.append(f"{path}.{name}")
    return missing
