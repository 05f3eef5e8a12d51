"""Finds and loads the ops libraries, and remembers why one was not loaded."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import torch

FOLDER = pathlib.Path(__file__).parent / "lib"


@dataclasses.dataclass
class Library:
    """One ops library: loaded, or the reason why not."""

    name: str
    path: pathlib.Path
    loaded: bool = False
    reason: str = "not tried yet"

    def load(self) -> None:
        if self.loaded:
            return
        if not self.path.exists():
            self.reason = f"{self.path} does not exist: {_not_built(self.name)}"
            return
        try:
            torch.ops.load_library(self.path)
        except OSError as error:
            self.reason = str(error.__cause__ or error)  # torch hides the linker's words in the cause
            return
        self.loaded, self.reason = True, ""


libraries = {name: Library(name, FOLDER / f"libsvgdx_{name}.so") for name in ("cpu", "cuda")}


def load() -> None:
    """Loads the CPU library, and the CUDA library where torch itself has CUDA (whether or not there is a GPU)."""
    libraries["cpu"].load()
    if torch.version.cuda is None:
        libraries["cuda"].reason = f"torch {torch.__version__} is built without CUDA"
    elif not libraries["cpu"].loaded:
        libraries["cuda"].reason = "it needs the CPU library, which defines the ops"
    else:
        libraries["cuda"].load()


def disabled() -> bool:
    """Whether SVGDX_DISABLE asks for the plain PyTorch reference."""
    return os.environ.get("SVGDX_DISABLE", "") not in ("", "0")


def usable() -> bool:
    return libraries["cpu"].loaded or disabled()


def require() -> None:
    """Stops with the reason where the ops cannot be used."""
    if not usable():
        raise ImportError(
            f"svgdx's CPU library is not loaded: {libraries['cpu'].reason}. 'python -m svgdx.doctor' tells more; "
            "SVGDX_DISABLE=1 runs the plain PyTorch reference instead."
        )


def build_facts() -> dict[str, Any] | None:
    """What CMake wrote beside the libraries, or None where nothing was built."""
    try:
        return json.loads((FOLDER / "build.json").read_text())
    except FileNotFoundError:
        return None


def _not_built(name: str) -> str:
    facts = build_facts()
    if facts is None:
        return "nothing was built here; install svgdx with pip ('pip install .', or 'pip install -e .' to work on it)"
    if name == "cuda" and not facts["cuda"]["built"]:
        return f"the build left it out ({facts['cuda']['reason']})"
    return "it was built, but is gone; install svgdx again"
