"""--device: what it resolves to, what refuses it, what config.yaml says, and the generators of a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

import yaml
from experiments.small_runs import command, resume
from pretended.gpu import pretended_cuda

from svgdx import _library, cli, doctor
from svgdx.experiments.eb_gfn.config import EBGFNConfig
from svgdx.experiments.run import parallel
from svgdx.experiments.run.compute import device, generators
from svgdx.experiments.run.errors import UsageError


def test_auto_takes_cuda_if_torch_sees_a_gpu_and_the_library_is_loaded() -> None:
    with pretended_cuda():
        assert device.resolved("auto") == "cuda"
        assert device.torch_device("auto") == torch.device("cuda:0")
        assert device.automatic().reason == "torch sees pretended GPU, and svgdx's CUDA library is loaded"
        assert tuple(map(device.resolved, ("cuda", "cuda:0", "cpu"))) == ("cuda", "cuda:0", "cpu")
    if not torch.cuda.is_available():
        assert device.automatic().name == "cpu"


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="torch sees no GPU, with CUDA_VISIBLE_DEVICES=''; pass --device cpu"):
        device.resolved("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_refusal_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=f"--device {name}: CUDA cannot be used: {re.escape(reason)}; pass"):
            device.resolved(name)
    with pretended_cuda(), monkeypatch.context() as patch:
        patch.setattr(_library.libraries["cuda"], "loaded", False)
        patch.setattr(_library.libraries["cuda"], "reason", "it was not built")
        assert device.automatic() == ("cpu", "svgdx's CUDA library is not loaded: it was not built")
        with pytest.raises(UsageError, match="it was not built"):
            device.resolved("cuda")
    for name in ("gpu", "cuda:", "cuda:-1", "cpu:0"):
        with pytest.raises(UsageError, match=f"--device: must be one of auto, cpu, cuda, cuda:N, but is '{name}'"):
            device.resolved(name)


def test_a_gpu_that_the_library_was_not_built_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"cuda": {"built": True, "architectures": ["80-real", "90-real", "120-virtual"]}}
    monkeypatch.setattr(_library, "build_facts", lambda: facts)
    is_built_for = {(8, 6): True, (9, 0): True, (12, 1): True, (7, 0): False, (10, 0): False}
    assert {capability: device.built_for(capability) for capability in is_built_for} == is_built_for
    with pretended_cuda(), monkeypatch.context() as patch:
        patch.setattr(device, "built_for", lambda capability: capability != (9, 0))
        reason = "svgdx's CUDA library was not built for pretended GPU (sm_90)"
        assert device.automatic() == ("cpu", reason)
        for name in ("cuda", "cuda:0"):
            with pytest.raises(UsageError, match=f"--device {name}: CUDA cannot be used: {re.escape(reason)}; pass"):
                device.resolved(name)


def test_each_process_of_torchrun_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_cuda(), monkeypatch.context() as patch:
        with pytest.raises(UsageError, match="no GPU for cuda:1, because torch sees only 1"):
            device.resolved("cuda:1")
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("LOCAL_RANK", "1")
        assert device.torch_device("cuda") == torch.device("cuda:1")
        with pytest.raises(UsageError, match="torchrun gives each process a GPU of its own; pass --device cuda"):
            device.resolved("cuda:0")
        patch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UsageError, match="no GPU for process 2 of this machine, because torch sees only 2"):
            device.resolved("cuda")


def test_ranks_with_a_gpu_exchange_its_tensors_by_nccl_and_objects_by_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    taken: list[int] = []
    with pretended_cuda(), monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setattr(torch.cuda, "set_device", taken.append)
        assert parallel._backend() == "cpu:gloo,cuda:nccl"
    assert taken == [1]
    if not torch.cuda.is_available():
        assert parallel._backend() == "gloo"


def test_the_doctor_says_which_device_a_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    name, reason = device.automatic()
    assert f"{name}, as --device auto takes it: {reason}" in capsys.readouterr().out


def test_config_yaml_holds_what_was_resolved_and_resuming_may_change_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pretended_cuda():
        assert cli.main(command("eb-gfn", out, iterations=2)) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["device"] == "cuda"
    if not torch.cuda.is_available():
        assert resume("eb-gfn", out) == 2
    assert resume("eb-gfn", out, "--iterations=4", "--device=cpu") == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["device"] == "cpu"


def test_runs_of_older_versions_computed_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("".join(line for line in EBGFNConfig().to_yaml().splitlines(True) if not line.startswith("device")))
    assert EBGFNConfig.from_yaml(path).device == "cpu"


def test_generators_of_the_gpu_are_seeded_restored_and_saved() -> None:
    gpu = torch.device("cuda:0")
    with pretended_cuda():
        torch.manual_seed(5)
        of_cpu, of_gpu = torch.get_rng_state(), torch.cuda.get_rng_state()
        with generators.seeded(1):
            torch.randn(2)
            assert torch.equal(torch.cuda.get_rng_state(), of_gpu)
        with generators.seeded(1, gpu):
            first = torch.randn(2, device=gpu)
        assert torch.equal(torch.get_rng_state(), of_cpu)
        assert torch.equal(torch.cuda.get_rng_state(), of_gpu)
        with generators.seeded(1, gpu):
            assert torch.equal(torch.randn(2, device=gpu).cpu(), first.cpu())
        saved = generators.states(gpu)
        drawn = torch.randn(2, device=gpu), torch.randn(2)
        generators.restore(saved, gpu)
        assert torch.equal(torch.randn(2, device=gpu).cpu(), drawn[0].cpu())
        assert torch.equal(torch.randn(2), drawn[1])
        # A run that was on the CPU, or is there now, has no state of a GPU to put back.
        generators.restore(generators.states(torch.device("cpu")), gpu)
        generators.restore(saved, torch.device("cpu"))
