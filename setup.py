"""pip's entry point: builds and installs the libraries with CMake and Ninja, as CMakeLists.txt defines. Options are
environment variables: SVGDX_CUDA=auto|on|off, SVGDX_MANYLINUX=on|off, SVGDX_BUILD (the folder to build in),
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CMAKE_ARGS."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    raise SystemExit(
        f"svgdx is built with setuptools 77 or newer, but {sys.executable} has {setuptools.__version__}.\n"
        f"Run '{sys.executable} -m pip install -U setuptools', or leave out --no-build-isolation."
    ) from None

ROOT = pathlib.Path(__file__).resolve().parent


def find_tool(name: str) -> str:
    """Path of a build tool, preferably beside this Python, so that a virtual environment need not be activated."""
    places = [sysconfig.get_path("scripts"), *os.environ.get("PATH", "").split(os.pathsep)]
    tool = shutil.which(name, path=os.pathsep.join(places))
    if tool is None:
        raise SystemExit(
            f"svgdx is built with {name}, which was not found in: {', '.join(places)}.\n"
            f"Install it with '{sys.executable} -m pip install {name}', or leave out --no-build-isolation."
        )
    return tool


class BuildLibraries(build_ext):
    def run(self) -> None:
        package = ROOT / "svgdx" if self.editable_mode else pathlib.Path(self.build_lib).resolve() / "svgdx"
        build = pathlib.Path(os.environ.get("SVGDX_BUILD", ROOT / "build" / "cmake"))
        cmake = find_tool("cmake")
        options = {
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "SVGDX_CUDA": os.environ.get("SVGDX_CUDA", "auto"),
            "SVGDX_MANYLINUX": os.environ.get("SVGDX_MANYLINUX", "off"),
        }
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        for command in (
            ["-S", str(ROOT), "-B", str(build), "-G", "Ninja", *definitions, *extra],
            ["--build", str(build), "--parallel", jobs],
        ):
            self.cmake(cmake, command)
        shutil.rmtree(package / "lib", ignore_errors=True)  # removes libraries that are no longer built
        self.cmake(cmake, ["--install", str(build), "--prefix", str(package)])

    def cmake(self, cmake: str, arguments: list[str]) -> None:
        status = subprocess.run([cmake, *arguments]).returncode
        if status:
            raise SystemExit(f"'{shlex.join([cmake, *arguments])}' failed with status {status}; see its output above.")

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildPython(build_py):
    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # removes modules deleted since the last build
        super().run()


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]  # the libraries do not depend on Python


setup(
    ext_modules=[Extension("svgdx.lib", sources=[])],
    cmdclass={"build_ext": BuildLibraries, "build_py": BuildPython, "bdist_wheel": Wheel},
)
