"""The build: what pip installs, what the libraries depend on, and the messages if something is missing."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from svgdx import _library

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARIES = sorted(_library.FOLDER.glob("*.so"))


def tool(name: str) -> str:
    """Path of a tool beside this Python or in PATH; skips the test if there is none."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# ---- The installed package -------------------------------------------------------------------------------------------


def test_the_wheel_serves_every_python_3() -> None:
    tags = re.findall(r"^Tag: (.*)$", importlib.metadata.distribution("svgdx").read_text("WHEEL") or "", re.MULTILINE)
    assert tags
    assert all(tag.startswith("py3-none-") for tag in tags)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_need_no_python_and_only_the_stable_abi(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    undefined = run(tool("nm"), "-D", "-C", "--undefined-only", library, cwd=tmp_path).stdout
    names = re.findall(r"^\s+[Uw] (.*)$", undefined, re.MULTILINE)
    assert any(name.startswith("aoti_torch_") for name in names)
    forbidden = re.compile(r"_?Py[A-Z_]|pybind11|at::|c10::|torch::(?!stable|headeronly)|omp_|GOMP_|cudart")
    # The settings of csrc/common/cuda/precision.h are not in the stable ABI; their functions may be missing.
    settings = {
        "at::globalContext()",
        "at::Context::float32Precision(at::Float32Backend, at::Float32Op) const",
        "at::Context::allowTF32CuBLAS() const",
    }
    weak = set(re.findall(r"^\s+w (.*)$", undefined, re.MULTILINE))
    assert [name for name in names if forbidden.match(name) and name not in settings & weak] == []


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_hold_no_path_of_the_machine_that_built_them(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    dynamic = run(tool("readelf"), "-d", library, cwd=tmp_path).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert ("libtorch_cuda.so" in needed) == (library.name == "libsvgdx_cuda.so")
    assert not re.search("R(UN)?PATH", dynamic)


# ---- setup.py, on a project of one small op --------------------------------------------------------------------------

SMALL_OP = """
#include <torch/csrc/stable/library.h>
STABLE_TORCH_LIBRARY(svgdx, m) { m.def("answer() -> int"); }
namespace svgdx { namespace SIMD { int64_t answer(); } int64_t answer() { return SIMD::answer(); } }
STABLE_TORCH_LIBRARY_IMPL(svgdx, CompositeExplicitAutograd, m) { m.impl("answer", TORCH_BOX(&svgdx::answer)); }
"""


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "project"
    for name in ("csrc/small/cpu", "svgdx"):
        (folder / name).mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "svgdx/_library.py"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "cmake", folder / "cmake")
    (folder / "README.md").write_text("A project of one small op.\n")
    (folder / "svgdx/__init__.py").write_text('__version__ = "1.2.3"\nfrom svgdx import _library\n_library.load()\n')
    (folder / "csrc/small/ops.cpp").write_text(SMALL_OP.replace("SIMD", "baseline"))
    kernel = "#include <cstdint>\nnamespace svgdx::SVGDX_ISA { int64_t answer() { return 42; } }\n"
    (folder / "csrc/small/cpu/answer_kernel.cpp").write_text(kernel)
    return folder


def pip(python: str | pathlib.Path, *arguments: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> str:
    tool("g++")
    options = ("--no-build-isolation", "--no-deps")
    result = run(python, "-m", "pip", *arguments, *options, cwd=cwd, SVGDX_CUDA="off", **environment)
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_pip_wheel(project: pathlib.Path) -> None:
    pip(sys.executable, "wheel", "-w", "dist", ".", cwd=project)
    (wheel,) = (project / "dist").iterdir()
    assert re.fullmatch(r"svgdx-1\.2\.3-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if name.startswith("svgdx/")}
        facts = json.loads(archive.read("svgdx/lib/build.json"))
    modules = {"svgdx/__init__.py", "svgdx/_library.py"}
    assert files == modules | {"svgdx/lib/libsvgdx_cpu.so", "svgdx/lib/build.json"}
    assert facts["version"] == "1.2.3"
    assert facts["cuda"]["built"] is False
    assert facts["cuda"]["reason"] == "SVGDX_CUDA=off"


RECENT_SYMBOLS = """
#include <cmath>
#include <memory>
#include <sstream>
namespace svgdx::SVGDX_ISA {
int64_t answer() {
  std::ostringstream text;  // GLIBCXX_3.4.26
  text << std::make_shared<std::stringstream>()->good();  // GLIBC_2.32 and GLIBCXX_3.4.26
  return int64_t(std::exp(double(text.str().size())));  // GLIBC_2.29
}
}
"""


def test_manylinux_needs_no_newer_system(project: pathlib.Path) -> None:
    (project / "csrc/small/cpu/answer_kernel.cpp").write_text(RECENT_SYMBOLS)
    pip(sys.executable, "wheel", "-w", "dist", ".", cwd=project, SVGDX_MANYLINUX="on")
    (wheel,) = (project / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract("svgdx/lib/libsvgdx_cpu.so", project)
    table = run(tool("readelf"), "--wide", "--dyn-syms", library, cwd=project).stdout
    needed = re.findall(r"UND (exp|\w*ostringstream\w*C1Ev|__libc_single_threaded)?.*@(\w+)_([\d.]+)", table)
    assert "exp" in {name for name, _, _ in needed}
    assert {name for name, _, _ in needed} <= {"exp", ""}  # the library defines the others itself
    for family, newest in {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}.items():
        versions = [tuple(map(int, number.split("."))) for _, word, number in needed if word == family]
        assert max(versions) <= newest, family


def other_environment(folder: pathlib.Path) -> pathlib.Path:
    """A virtual environment with everything that this Python has (torch, the build tools), except svgdx."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/*/site-packages")
    packages = [path for entry in sys.path if entry.endswith("site-packages") for path in pathlib.Path(entry).iterdir()]
    for package in packages:
        if "svgdx" not in package.name and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    return folder / "bin/python"


def test_pip_install_editable_rebuilds_what_changed(project: pathlib.Path, tmp_path: pathlib.Path) -> None:
    python = other_environment(tmp_path / "venv")
    script = "import svgdx, torch; print(svgdx.__file__, torch.ops.svgdx.answer())"
    for answer in ("42", "43"):
        kernel = project / "csrc/small/cpu/answer_kernel.cpp"
        kernel.write_text(kernel.read_text().replace("42", answer))
        pip(sys.executable, "--python", python, "install", "-e", ".", cwd=project)
        result = run(python, "-c", script, cwd=tmp_path)
        assert result.stdout.split() == [str(project / "svgdx/__init__.py"), answer]


def test_missing_tool_says_where_it_was_looked_for(project: pathlib.Path) -> None:
    tools = str(project / "no tools")
    script = f"import runpy, sysconfig; sysconfig.get_path = lambda name: {tools!r}; runpy.run_path('setup.py')"
    result = run(sys.executable, "-c", script, "build_ext", cwd=project, PATH=tools)
    assert result.returncode == 1
    assert f"svgdx is built with cmake, which was not found in: {tools}" in result.stdout
    assert "pip install cmake" in result.stdout


# ---- .ci/release -----------------------------------------------------------------------------------------------------


def program(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_release_is_checked_built_and_tagged(tmp_path: pathlib.Path) -> None:
    checkout, tools = tmp_path / "checkout", tmp_path / "tools"
    program(tools / "make", 'echo "$@" > made')
    program(checkout / ".venv/bin/python", "exit 0")
    for name in (".ci/release", ".gitignore", "CITATION.cff", "CHANGELOG.md", "svgdx/__init__.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    with (checkout / ".gitignore").open("a") as file:
        file.write("/made\n")

    def commit() -> None:
        for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "A commit.")):
            run(tool("git"), "-c", "user.name=a", "-c", "user.email=a@b", *command, cwd=checkout)

    def release(version: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tools), os.environ["PATH"]])
        names = {f"GIT_{role}_{what}": "a" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return run(checkout / ".ci/release", version, cwd=tmp_path, PATH=path, **names)

    def write(name: str, before: str, after: str) -> None:
        text = (checkout / name).read_text()
        assert before in text
        (checkout / name).write_text(text.replace(before, after))

    commit()
    steps = [
        ("svgdx/__init__.py", f'"{_library.VERSION}"', '"12.3.4"'),
        ("CITATION.cff", f"version: {_library.VERSION}", "version: 12.3.4"),
        ("CHANGELOG.md", "## [Unreleased]", f"## [Unreleased]\n\n## [12.3.4] - {datetime.date.today()}"),
    ]
    for name, before, after in steps:
        assert f"release: {name} " in release("12.3.4").stdout
        write(name, before, after)
        assert "changes that are not committed" in release("12.3.4").stdout
        commit()
    assert not (checkout / "made").exists()
    result = release("12.3.4")
    assert result.returncode == 0, result.stdout
    assert (checkout / "made").read_text().split()[-3:] == ["SVGDX_CUDA=on", "wheel", "check-wheel"]
    assert run(tool("git"), "tag", cwd=checkout).stdout == "v12.3.4\n"
    assert "the tag v12.3.4 exists already" in release("12.3.4").stdout


# ---- CMake's finds ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One build folder shared by all tests, since CMake's compiler detection takes most of the time."""
    tool("g++")
    return tmp_path_factory.mktemp("build")


def configure(build: pathlib.Path, *options: str, python: str = sys.executable, **environment: str) -> tuple[int, str]:
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    result = run(
        tool("cmake"), "-S", ROOT, *generator, f"-DPython_EXECUTABLE={python}", *options, cwd=build, **environment
    )
    return result.returncode, " ".join(result.stdout.split())


def fake_nvcc(folder: pathlib.Path, *files: str) -> pathlib.Path:
    """A CUDA toolkit with the given files, whose nvcc only reports its own location."""
    (folder / "bin").mkdir(parents=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    nvcc = folder / "bin/nvcc"
    nvcc.write_text(f"#!/bin/sh\necho '#$ _HERE_={folder}/bin'\necho '#$ TOP={folder}/bin/..'\n")
    nvcc.chmod(0o755)
    return folder


def fake_torch(folder: pathlib.Path, version: str, *files: str) -> str:
    for file in (f"torch-{version}.dist-info/METADATA", "torch/__init__.py", *files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return str(folder)


def test_unknown_cuda_option(build: pathlib.Path) -> None:
    status, output = configure(build, "-DSVGDX_CUDA=maybe")
    assert status
    assert "SVGDX_CUDA must be auto, on or off, but is 'maybe'" in output


def test_no_nvcc(build: pathlib.Path, tmp_path: pathlib.Path) -> None:
    home = {"CUDA_HOME": str(tmp_path), "CUDACXX": ""}
    status, output = configure(build, "-DSVGDX_CUDA=on", **home)
    assert status
    assert f"nvcc was not found; looked in CUDA_HOME and CUDA_PATH, {tmp_path}" in output
    assert "SVGDX_CUDA=off" in output
    status, output = configure(build, "-DSVGDX_CUDA=auto", **home)
    assert status == 0, output
    cuda = json.loads((build / "build.json").read_text())["cuda"]
    assert cuda["built"] is False
    assert str(tmp_path) in cuda["reason"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "looked for include/cuda_runtime.h"),
        (["include/cuda_runtime.h"], "libcudart_static.a was not found in"),
        (["include/cuda_runtime.h", "lib/libcudart_static.a"], "nv/target of CUDA's C++ libraries was not found in"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_incomplete_toolkit(
    mode: str, files: list[str], message: str, build: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    home = fake_nvcc(tmp_path / "cuda", *files)
    status, output = configure(build, f"-DSVGDX_CUDA={mode}", CUDA_HOME=str(home), CUDACXX="")
    assert status
    assert message in output
    assert str(home) in output
    assert "SVGDX_CUDA=off" in output


@pytest.mark.parametrize(
    ("version", "files", "message"),
    [
        ("2.9.1", [], "svgdx needs PyTorch 2.10 or newer, but {folder}/torch is 2.9.1"),
        ("2.10.0", [], "incomplete: {folder}/torch/lib/libtorch_cpu.so is missing"),
        ("2.10.0", ["torch/lib/libtorch_cpu.so"], "stable/library.h is missing"),
    ],
)
def test_unusable_torch(
    version: str, files: list[str], message: str, build: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    status, output = configure(build, "-DSVGDX_CUDA=off", PYTHONPATH=fake_torch(tmp_path, version, *files))
    assert status
    assert message.format(folder=tmp_path) in output


def test_no_torch(build: pathlib.Path, tmp_path: pathlib.Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv/bin/python")
    status, output = configure(build, "-DSVGDX_CUDA=off", python=python)
    assert status
    assert f"Looked for the Python package 'torch' with {python}" in output
    assert f"{python} -m pip install" in output


def test_the_harness_is_a_part_of_the_build(build: pathlib.Path) -> None:
    status, output = configure(build, "-DSVGDX_CUDA=off", "-DSVGDX_TESTS=ON")
    assert not status, output
    assert "svgdx_simt_ops" in (build / "build.ninja").read_text()


# ---- CUDA architectures ----------------------------------------------------------------------------------------------

KNOWN = "75;80;86;89;90;100;103;120;121"


def architectures(requested: str, tmp_path: pathlib.Path, known: str = KNOWN) -> str:
    script = tmp_path / "choose.cmake"
    script.write_text(
        f'cmake_minimum_required(VERSION 3.22)\ninclude("{ROOT}/cmake/SvgdxCudaArchitectures.cmake")\n'
        f'svgdx_choose_cuda_architectures(chosen "{requested}" "{known}")\nmessage("${{chosen}}")\n'
    )
    return " ".join(run(tool("cmake"), "-P", script, cwd=tmp_path).stdout.split())


@pytest.mark.parametrize(
    ("requested", "chosen"),
    [
        ("", "80-real;86-real;89-real;90-real;100-real;120-real;120-virtual"),
        ("8.0", "80-real"),
        ("8.0;9.0+PTX", "80-real;90-real;90-virtual"),
        ("8.0 9.0a", "80-real;90a-real"),
        ("8.6, 8.6", "86-real"),
        ("12.0f", "120f-real"),
        ("Hopper", "90-real;90-virtual"),
        ("Ampere;Ada", "80-real;86-real;86-virtual;89-real;89-virtual"),
        ("Blackwell", "100-real;103-real;120-real;121-real;121-virtual"),
    ],
)
def test_architectures(requested: str, chosen: str, tmp_path: pathlib.Path) -> None:
    assert architectures(requested, tmp_path) == chosen


def test_architectures_of_an_older_compiler(tmp_path: pathlib.Path) -> None:
    assert architectures("", tmp_path, known="75;80;86;89;90") == "80-real;86-real;89-real;90-real;90-virtual"


@pytest.mark.parametrize(
    ("requested", "known", "message"),
    [
        ("Hoper", KNOWN, "'Hoper' is neither a number such as 9.0 or 9.0+PTX nor a name"),
        ("90", KNOWN, "'90' is neither a number"),
        ("9.0+ptx", KNOWN, "'9.0+ptx' is neither a number"),
        ("8.0;3.5", KNOWN, "this nvcc cannot compile for 3.5; it knows 75;80"),
        ("", "60;70", "but only 60;70"),
    ],
)
def test_wrong_architectures(requested: str, known: str, message: str, tmp_path: pathlib.Path) -> None:
    assert message in architectures(requested, tmp_path, known)
