"""`svgdx doctor` on this installation and on broken copies of it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import forkserver
import pytest
import torch

import svgdx
from svgdx import _library, doctor


def run(cwd: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return forkserver.run(arguments, cwd, os.environ | environment)


@pytest.fixture
def broken(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a copy of the installed package, which a Python started there imports."""
    shutil.copytree(
        pathlib.Path(svgdx.__file__).parent, tmp_path / "svgdx", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def examine(folder: pathlib.Path, status: int, **environment: str) -> dict[str, Any]:
    result = run(folder, "-m", "svgdx.doctor", "--json", **environment)
    assert result.returncode == status, result.stdout + result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert bool(report["problems"]) == bool(status)
    return report


def test_this_installation_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == []
    assert report["libraries"]["cpu"]["loaded"]
    assert report["build"]["version"] == report["svgdx"]["version"]
    assert report["simd"] in report["build"]["simd_levels"]
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert report["products"]["route"] in ("torch", "onednn")


def test_text_reports_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    report = doctor.examine()
    for word in (svgdx.__version__, torch.__version__, report["simd"], report["libraries"]["cpu"]["path"]):
        assert str(word) in text
    assert text.rstrip().endswith("none")


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--yaml"])
    assert stop.value.code == 2
    assert "--yaml" in capsys.readouterr().err


def test_cuda_library_follows_torch() -> None:
    """With a CUDA build of torch the library loads with all kernels, even without a GPU; otherwise it does not."""
    library, expected = _library.libraries["cuda"], bool(os.environ.get("SVGDX_EXPECT_CUDA"))
    if torch.version.cuda is None:
        assert not expected, f"SVGDX_EXPECT_CUDA is set, but torch {torch.__version__} is built without CUDA"
        assert not library.loaded
        assert "without CUDA" in library.reason
        return
    facts = _library.build_facts()
    assert facts is not None
    if not facts["cuda"]["built"] and not expected:
        pytest.skip(f"the CUDA library was not built: {facts['cuda']['reason']}")
    assert library.loaded, library.reason
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx::")]
    on_cpu = [name for name in names if has(name, "CPU")]
    assert "svgdx::svgd_phi" in on_cpu
    assert [name for name in on_cpu if not has(name, "CUDA")] == []


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_simd_level_can_be_lowered(level: str, tmp_path: pathlib.Path) -> None:
    levels = ["baseline", "avx2", "avx512"]
    highest = doctor.examine()["build"]["simd_levels"][-1]
    simd = examine(tmp_path, 0, SVGDX_ISA=level)["simd"]
    assert levels.index(simd) <= min(levels.index(level), levels.index(highest))
    assert level != "baseline" or simd == "baseline"


def test_unknown_simd_level_and_route(tmp_path: pathlib.Path) -> None:
    assert examine(tmp_path, 1, SVGDX_ISA="sse9", SVGDX_PRODUCTS="mkl")["problems"] == [
        "SVGDX_ISA must be baseline, avx2 or avx512, but is 'sse9'",
        "SVGDX_PRODUCTS must be torch or onednn, but is 'mkl'",
    ]


def test_nothing_built(broken: pathlib.Path) -> None:
    shutil.rmtree(broken / "svgdx/lib")
    report = examine(broken, 1)
    assert report["build"] is None
    assert "nothing was built here" in report["problems"][0]
    assert "pip install" in run(broken, "-m", "svgdx.doctor").stdout


def test_library_removed(broken: pathlib.Path) -> None:
    (broken / "svgdx/lib/libsvgdx_cpu.so").unlink()
    report = examine(broken, 1)
    assert "libsvgdx_cpu.so does not exist: it was built but has been removed" in report["problems"][0]
    assert "needs the CPU library" in report["libraries"]["cuda"]["reason"] or torch.version.cuda is None


def test_library_damaged(broken: pathlib.Path) -> None:
    (broken / "svgdx/lib/libsvgdx_cpu.so").write_text("no library")
    assert "file too short" in examine(broken, 1)["problems"][0]


def test_broken_installation_raises_with_the_reason_when_ops_are_used(broken: pathlib.Path) -> None:
    shutil.rmtree(broken / "svgdx/lib")
    for script in ("import svgdx.ops", "from svgdx import ops", "import svgdx; svgdx.ops"):
        result = run(broken, "-c", script)
        assert result.returncode == 1, script
        assert result.stderr.splitlines()[-1].startswith("ImportError: svgdx's CPU library is not loaded:"), script
    result = run(broken, "-c", "import svgdx; svgdx.nonsense")
    assert "AttributeError: module 'svgdx' has no attribute 'nonsense'" in result.stderr


def test_reference_runs_without_libraries(broken: pathlib.Path) -> None:
    shutil.rmtree(broken / "svgdx/lib")
    script = "import torch, svgdx; x = torch.ones(2, 1); print(svgdx.ops.svgd_phi(x, x, 1.0).flatten().tolist())"
    result = run(broken, "-c", script, SVGDX_DISABLE="1")
    assert result.stdout == "[1.0, 1.0]\n", result.stderr
    assert examine(broken, 1, SVGDX_DISABLE="1")["disabled"]


def test_libraries_of_another_version(broken: pathlib.Path) -> None:
    facts = broken / "svgdx/lib/build.json"
    facts.write_text(facts.read_text().replace(f'"version": "{svgdx.__version__}"', '"version": "0.0.9"'))
    assert "the libraries were built for svgdx 0.0.9" in examine(broken, 1)["problems"][0]


def test_wrong_results_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.svgdx, "svgd_phi", lambda x, score, bandwidth: x)
    assert any("svgd_phi on cpu returns [0.0, 1.0] instead of" in problem for problem in doctor.examine()["problems"])


@pytest.mark.parametrize(
    ("capability", "architecture", "runs"),
    [
        (80, "80-real", True),
        (86, "80-real", True),
        (89, "80-real", True),
        (80, "86-real", False),
        (90, "80-real", False),
        (90, "90a-real", True),
        (100, "90a-real", False),
        (103, "100-real", True),
        (103, "100f-real", True),
        (120, "100f-virtual", False),
        (120, "90-virtual", True),
        (80, "90-virtual", False),
        (121, "120-real", True),
    ],
)
def test_which_gpu_runs_which_code(capability: int, architecture: str, runs: bool) -> None:
    assert doctor.runs_on(capability, architecture) is runs


def report_with(device: int | None, architectures: list[str], cuda_loaded: bool = True) -> dict[str, Any]:
    """The report of a machine with a GPU of this capability and a library for these architectures."""
    report = doctor.examine()
    report["build"]["cuda"] = {
        "built": bool(architectures),
        "architectures": architectures,
        "nvcc": "",
        "reason": "off",
    }
    report["torch"]["cuda"] = "13.0"
    report["torch"]["devices"] = [] if device is None else [{"name": "A GPU", "capability": device}]
    report["libraries"]["cuda"].update(loaded=cuda_loaded, reason="" if cuda_loaded else "removed")
    report["libraries"]["cuda"]["ops"] = report["libraries"]["cpu"]["ops"]
    return report


@pytest.mark.parametrize(
    ("device", "architectures", "loaded", "message"),
    [
        (90, ["80-real", "90-real"], True, None),
        (100, ["90-real", "90-virtual"], True, None),
        (70, ["80-real", "90-virtual"], True, "not built for A GPU (sm_70); rebuild it with TORCH_CUDA_ARCH_LIST=7.0"),
        (None, ["80-real"], True, None),
        (None, ["80-real"], False, "the CUDA library is not loaded: removed"),
        (None, [], False, None),
        (90, [], False, "the CUDA library is not loaded: removed"),
    ],
)
def test_problems_with_a_gpu(device: int | None, architectures: list[str], loaded: bool, message: str | None) -> None:
    problems = doctor._problems(report_with(device, architectures, loaded))
    assert problems == [] if message is None else len(problems) == 1 and message in problems[0]


def test_missing_cuda_kernels_are_a_problem() -> None:
    report = report_with(90, ["90-real"])
    report["libraries"]["cuda"]["ops"] -= 1
    assert "ops have CUDA kernels" in doctor._problems(report)[0]
