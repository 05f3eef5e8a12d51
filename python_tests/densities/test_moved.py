"""The old import paths name the new ones."""

from __future__ import annotations

import importlib

import pytest

import svgdx
from svgdx import densities

CLASSES = {"nn": ("MLPLogDensity", "ConvLogDensity"), "energies": ("DiscreteMLPEnergy", "IsingEnergy")}


@pytest.mark.parametrize("module", CLASSES)
def test_old_modules_name_the_new_classes(module: str) -> None:
    statements = (f"import svgdx.{module}", f"from svgdx.{module} import MLPEnergy", f"from svgdx import {module}")
    for statement in statements:
        with pytest.raises(ImportError, match=f"svgdx.{module} is now svgdx.densities") as error:
            exec(statement, {})
        assert not isinstance(error.value, ModuleNotFoundError)
        for name in CLASSES[module]:
            assert name in str(error.value)
            assert hasattr(densities, name)
    with pytest.raises(AttributeError, match=f"svgdx.{module} is now svgdx.densities"):
        getattr(svgdx, module)
    with pytest.raises(ImportError):
        importlib.import_module(f"svgdx.{module}")


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="module 'svgdx' has no attribute 'nonsense'"):
        svgdx.nonsense  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("svgdx.nonsense")
