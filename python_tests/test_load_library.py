"""The CPU library in other programs, which load it by its path and do not import svgdx."""

from __future__ import annotations

import ctypes
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import forkserver
import pretended.tensors
import pytest
import torch
from pretended.gpu import pretended_cuda

from svgdx import _library, doctor, ops

LIBRARY = _library.libraries["cpu"].path

PYTHON_PROGRAM = """
import math, sys, torch
torch.ops.load_library(sys.argv[1])
x, score = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.25], [-0.5]])
kappa = math.exp(-0.5)
expected = torch.tensor([[(0.25 - 1.5 * kappa) / 2], [(-0.5 + 1.25 * kappa) / 2]])
for bandwidth in (torch.tensor(1.0), 1.0):
    torch.testing.assert_close(torch.ops.svgdx.svgd_phi(x, score, bandwidth), expected)
assert not any(name.split(".")[0] == "svgdx" for name in sys.modules)
print(torch.ops.svgdx.svgd_phi.default)
"""

CPP_PROGRAM = """
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdio>

int main(int, char** argv) {
  if (dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::printf("%s\\n", dlerror());
    return 1;
  }
  const at::Tensor x = at::tensor({0.0, 1.0}).view({2, 1}), score = at::tensor({0.25, -0.5}).view({2, 1});
  const double kappa = std::exp(-0.5);
  const at::Tensor expected = at::tensor({(0.25 - 1.5 * kappa) / 2, (-0.5 + 1.25 * kappa) / 2}).view({2, 1});
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("svgdx::svgd_phi", "")
                      .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>();
  const at::Tensor phi = op.call(x, score, at::scalar_tensor(1.0, x.options()));
  std::printf("error %g\\n", phi.sub(expected).abs().max().item<double>());
  try {
    op.call(x, score.view({1, 2}), at::scalar_tensor(1.0, x.options()));
  } catch (const std::exception& error) {
    std::printf("refused: %s\\n", error.what());
  }
}
"""


def test_python_program(tmp_path: pathlib.Path) -> None:
    result = forkserver.run(["-c", PYTHON_PROGRAM, str(LIBRARY)], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "svgdx.svgd_phi.default\n"


@pytest.mark.slow
def test_cpp_program(tmp_path: pathlib.Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    root = pathlib.Path(torch.__file__).parent
    (tmp_path / "main.cpp").write_text(CPP_PROGRAM)
    abi = int(torch.compiled_with_cxx11_abi())
    command = [compiler, "-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f"-I{root}/include", "main.cpp", "-o", "main"]
    link = [f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", f"-Wl,-rpath-link,{root}/lib", "-ltorch_cpu", "-lc10", "-ldl"]
    built = subprocess.run([*command, *link], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    result = subprocess.run([tmp_path / "main", LIBRARY], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    error, refusal = result.stdout.splitlines()[:2]
    assert float(error.split()[1]) < 1e-6
    assert refusal.startswith("refused: ")
    assert "score must have the shape of x, (2, 1), but has (1, 2)" in refusal


@pytest.mark.parametrize(("version", "is_used"), [(_library.VERSION, True), ("0.0.1", False)])
def test_a_checkout_uses_the_installed_libraries_of_its_version(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, version: str, is_used: bool
) -> None:
    checkout, site = tmp_path / "checkout" / "svgdx", tmp_path / "site"
    checkout.mkdir(parents=True)
    (site / "svgdx" / "lib").mkdir(parents=True)
    (site / f"svgdx-{version}.dist-info").mkdir()
    (site / f"svgdx-{version}.dist-info" / "METADATA").write_text(f"Name: svgdx\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(site)])
    # Without setup.py it is no checkout, but an installation whose libraries are gone.
    assert _library.folder_of(checkout) == checkout / "lib"
    (checkout.parent / "setup.py").touch()
    assert _library.folder_of(checkout) == (site / "svgdx" / "lib" if is_used else checkout / "lib")
    monkeypatch.setattr(_library, "FOLDER", checkout / "lib")
    assert f"This folder hides svgdx {version} in {site}" in _library._not_built("cpu")
    # A checkout that was built uses its own.
    (checkout / "lib").mkdir()
    assert _library.folder_of(checkout) == checkout / "lib"


@pytest.mark.parametrize(
    ("toolkit", "driver", "problem"),
    [
        (
            "13.0.88",
            (12, 8),
            "it was built with CUDA 13.0, but this driver supports 12.8: rebuild with your own nvcc of CUDA 12",
        ),
        ("13.2.1", (13, 0), None),  # minor versions of a runtime run on every driver of its major version
        ("12.6.3", (13, 0), None),
        ("13.0.88", None, None),
    ],
)
def test_a_driver_that_is_older_than_the_toolkit_is_named(
    monkeypatch: pytest.MonkeyPatch, toolkit: str, driver: tuple[int, int] | None, problem: str | None
) -> None:
    cuda = _library.Library("cuda", pathlib.Path("libsvgdx_cuda.so"))
    monkeypatch.setattr(_library, "libraries", _library.libraries | {"cuda": cuda})
    monkeypatch.setattr(_library, "build_facts", lambda: {"cuda": {"built": True, "nvcc": toolkit, "reason": ""}})
    monkeypatch.setattr(_library, "driver_version", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    if problem is None:
        _library.load()
        assert "libsvgdx_cuda.so does not exist" in cuda.reason
    else:
        with pytest.warns(UserWarning, match=problem):
            _library.load()
        assert problem in cuda.reason
    assert not cuda.loaded


def test_the_first_launch_and_the_doctor_name_the_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "it was built with CUDA 13.0, but this driver supports 12.8: rebuild with your own nvcc of CUDA 12"
    cuda = _library.Library("cuda", pathlib.Path("libsvgdx_cuda.so"), reason=reason)
    with pretended_cuda():
        x = torch.zeros(2, 1, device="cuda")
        monkeypatch.setattr(pretended.tensors, "has_cuda_kernel", lambda func: False)
        monkeypatch.setattr(_library, "libraries", _library.libraries | {"cuda": cuda})
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        with pytest.raises(RuntimeError, match=f"svgdx::svgd_phi: svgdx's CUDA library is not loaded: {reason}"):
            ops.svgd_phi(x, x, 1.0)
        with pytest.raises(ValueError, match="bandwidth"):  # wrong arguments are named first
            ops.svgd_phi(x, x, -1.0)
        (problem,) = (text for text in doctor.examine()["problems"] if "not loaded" in text)
    assert problem == f"torch is built with CUDA, but the CUDA library is not loaded: {reason}"


def test_the_driver_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuDriverGetVersion(self, version: Any) -> int:
            version._obj.value = 12080
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert _library.driver_version() == (12, 8)
