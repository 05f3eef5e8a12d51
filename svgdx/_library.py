"""Finds and loads the ops libraries, and records why a library was not loaded."""

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import warnings
from importlib import metadata
from typing import Any, NamedTuple

import torch

# Read as text: the module that holds it imports this one.
VERSION = re.findall(
    '^__version__ = "(.*)"$', (pathlib.Path(__file__).parent / "__init__.py").read_text(), re.MULTILINE
)[0]


def folder_of(package: pathlib.Path) -> pathlib.Path:
    """The folder of the libraries: the package's own, or that of the installed svgdx if this is a bare checkout.

    In the root of a checkout, `python -m` finds the checkout's package before the installed one. An installed package
    without libraries is broken, and is not mended by another.
    """
    own = package / "lib"
    is_bare_checkout = (package.parent / "setup.py").exists() and not own.is_dir()
    return (is_bare_checkout and installed_folder()) or own


def installed_folder() -> pathlib.Path | None:
    """The folder of the libraries of the installed svgdx; None if none is installed, or it is of another version."""
    try:
        distribution = metadata.distribution("svgdx")
    except metadata.PackageNotFoundError:
        return None
    folder = pathlib.Path(str(distribution.locate_file("svgdx/lib")))
    return folder if distribution.version == VERSION and folder.is_dir() else None


FOLDER = folder_of(pathlib.Path(__file__).parent)


@dataclasses.dataclass
class Library:
    """An ops library, and the reason if it is not loaded."""

    name: str
    path: pathlib.Path
    loaded: bool = False
    reason: str = "loading has not been attempted"

    def load(self) -> None:
        """Loads the library, or sets the reason why that is not possible."""
        if self.loaded:
            return
        if not self.path.exists():
            self.reason = f"{self.path} does not exist: {_not_built(self.name)}"
            return
        try:
            torch.ops.load_library(self.path)
        except OSError as error:
            self.reason = str(error.__cause__ or error)  # torch hides the linker's message in the cause
            return
        self.loaded, self.reason = True, ""


libraries = {name: Library(name, FOLDER / f"libsvgdx_{name}.so") for name in ("cpu", "cuda")}


def load() -> None:
    """Loads the CPU library, and the CUDA library if torch is built with CUDA, whether or not there is a GPU."""
    libraries["cpu"].load()
    if torch.version.cuda is None:
        libraries["cuda"].reason = f"torch {torch.__version__} is built without CUDA"
    elif not libraries["cpu"].loaded:
        libraries["cuda"].reason = "it needs the CPU library, which defines the ops, and that is not loaded"
    elif problem := driver_problem():
        libraries["cuda"].reason = problem
        warnings.warn(f"svgdx's CUDA library is not loaded: {problem}", stacklevel=2)
    else:
        libraries["cuda"].load()


def driver_problem() -> str | None:
    """Why the driver cannot run the CUDA library; None if it can, or if there is no driver or no library.

    The library is linked with the static runtime of its toolkit, which needs a driver of the toolkit's major version or
    of a newer one, whatever runtime torch comes with.
    """
    facts = build_facts()
    if facts is None or not facts["cuda"]["built"]:
        return None
    toolkit, driver = facts["cuda"]["nvcc"].split("."), driver_version()
    if driver is None or driver[0] >= int(toolkit[0]):
        return None
    return (
        f"it was built with CUDA {toolkit[0]}.{toolkit[1]}, but this driver supports {driver[0]}.{driver[1]}: rebuild "
        f"with your own nvcc of CUDA {driver[0]}, or update the driver"
    )


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA, (major, minor), that the GPU's driver supports; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def disabled() -> bool:
    """Whether SVGDX_DISABLE selects the plain PyTorch reference."""
    return os.environ.get("SVGDX_DISABLE", "") not in ("", "0")


def usable() -> bool:
    """Whether the ops can run, compiled or as the reference."""
    return libraries["cpu"].loaded or disabled()


def require() -> None:
    """Raises ImportError, with the reason, if the ops cannot be used."""
    if not usable():
        raise ImportError(
            f"svgdx's CPU library is not loaded: {libraries['cpu'].reason}. Run 'python -m svgdx.doctor' for a full "
            "report, or set SVGDX_DISABLE=1 to run the plain PyTorch reference instead."
        )


class ProductFacts(NamedTuple):
    """The route of large float32 products, and what one thread reaches on each route."""

    route: str
    """"torch" or "onednn"."""
    torch: float
    """GFLOP/s."""
    onednn: float
    """GFLOP/s; 0 if this torch has no oneDNN."""
    exact: bool
    """Whether oneDNN's results are those of float32 arithmetic."""


def product_facts() -> ProductFacts:
    """Measures both routes, in about 10 ms."""
    onednn, torch_rate, onednn_rate, exact = torch.ops.svgdx_inner.product_facts().tolist()
    return ProductFacts("onednn" if onednn else "torch", torch_rate, onednn_rate, bool(exact))


def build_facts() -> dict[str, Any] | None:
    """Returns what CMake recorded beside the libraries, or None if nothing was built."""
    try:
        return json.loads((FOLDER / "build.json").read_text())
    except FileNotFoundError:
        return None


def _not_built(name: str) -> str:
    facts = build_facts()
    if facts is None:
        reason = "nothing was built here; install svgdx with 'pip install .', or with 'pip install -e .' to develop it"
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed = metadata.distribution("svgdx")
            reason += f". This folder hides svgdx {installed.version} in {installed.locate_file('')}; this is {VERSION}"
        return reason
    if name == "cuda" and not facts["cuda"]["built"]:
        return f"it was not built ({facts['cuda']['reason']})"
    return "it was built but has been removed; reinstall svgdx"
