"""What lies on the GPU and what moves: samplers nobody moved, evaluations, resumed runs, values that are not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

for package in ("sklearn", "gymnasium", "stable_baselines3"):
    pytest.importorskip(package, reason="these runs need the packages of svgdx[rl]")

from experiments.small_runs import assert_same_run, checkpoints, command, records, resume, run_folder  # noqa: E402
from pretended.gpu import pretended_cuda  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributions import MultivariateNormal  # noqa: E402

from svgdx import SVGD, cli  # noqa: E402
from svgdx.experiments.run import loop  # noqa: E402
from svgdx.experiments.run.compute import graph  # noqa: E402
from svgdx.experiments.run.compute.adam import descend  # noqa: E402
from svgdx.experiments.run.compute.guard import Quantities, floats  # noqa: E402
from svgdx.experiments.run.errors import DivergedError, require_finite_tensors  # noqa: E402
from svgdx.experiments.run.folder import RunFolder  # noqa: E402
from svgdx.experiments.run.loop import Trainer  # noqa: E402
from svgdx.experiments.run.recorder import Record  # noqa: E402
from svgdx.samplers import RBF  # noqa: E402


@pytest.mark.parametrize("bound", ["none", "leaky"])
def test_a_sampler_that_learns_nothing_follows_its_target(bound: str) -> None:
    def sampled(device: str) -> Tensor:
        eye = torch.eye(2, device=device)
        target, start = MultivariateNormal(torch.zeros(2, device=device), eye), MultivariateNormal(2 * eye[0], eye)
        torch.manual_seed(0)
        return SVGD(target, start, RBF(1.0), 0.5, bound=bound).sample(8, 3)

    with pretended_cuda():
        x = sampled("cuda")
        assert x.is_cuda
        assert torch.allclose(x.cpu(), sampled("cpu"))


def test_a_run_resumed_on_the_gpu_equals_an_unbroken_one(tmp_path: Path) -> None:
    with pretended_cuda():
        for name, first in (("whole", 80), ("halves", 40)):
            words = command("rl", tmp_path / name, algo="sac", device="cuda", steps=first, eval_every=40)
            assert cli.main(words) == 0
        # Other draws in between must not matter.
        torch.randn(5, device="cuda")
        assert resume("rl", tmp_path / "halves", "--steps=80") == 0
    assert_same_run(run_folder("rl", tmp_path / "whole"), run_folder("rl", tmp_path / "halves"), "rl")


def test_captured_updates_resume_in_the_middle_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With persistent chains and a learning rate that changes at every update."""
    monkeypatch.setattr(graph, "WARM_UP", 1)
    with pretended_cuda():
        for name in ("whole", "halves"):
            changes = {"sampler": "pcd-gibbs", "lr_decay": "linear", "checkpoint_every": 3, "iterations": 6}
            words = command("eb-gfn", tmp_path / name, device="cuda", graph="on", eval_every=6, **changes)
            assert cli.main(words) == 0
        middle = checkpoints(tmp_path / "halves")[1]
        assert middle.name == "step-00000003.safetensors"
        assert resume("eb-gfn", tmp_path / "halves", f"--checkpoint={middle}") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "halves", "eb-gfn")


def test_evaluations_on_the_gpu_equal_those_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(command("eb-gfn", out, device="cpu", iterations=2)) == 0
    options = [
        "--points=10",
        "--paths=2",
        "--z-samples=20",
        "--ais-temperatures=0",
        "--mmd-samples=10",
    ]

    def figures(device: str) -> list[float]:
        assert cli.main(["eval", "eb-gfn", str(out), f"--device={device}", *options]) == 0
        evaluation = json.loads((out / "evaluation.json").read_text())
        assert evaluation["settings"]["device"] == device
        return [figure["value"] for figure in evaluation["figures"]]

    on_cpu = figures("cpu")
    with pretended_cuda():
        assert figures("cuda") == pytest.approx(on_cpu, rel=1e-4)


@pytest.mark.parametrize("experiment", ["eb-gfn", "rl"])
def test_a_run_that_had_to_capture_is_evaluated_on_any_device(tmp_path: Path, experiment: str) -> None:
    length = {"eb-gfn": {"iterations": 4}, "rl": {"algo": "stein", "steps": 60}}[experiment]
    with pretended_cuda():
        assert cli.main(command(experiment, tmp_path / "run", device="cuda", graph="on", **length)) == 0
        run = run_folder(experiment, tmp_path / "run")
        few = {
            "eb-gfn": ["--points=10", "--paths=2", "--z-samples=20", "--ais-temperatures=0", "--mmd-samples=0"],
            "rl": ["--episodes=2"],
        }
        assert cli.main(["eval", experiment, str(run), "--device=cuda", *few[experiment]]) == 0
    assert cli.main(["eval", experiment, str(run), "--device=cpu", *few[experiment]]) == 0


class Options:
    log_every, eval_every, checkpoint_every, keep_checkpoints = 4, 100, 4, 10


class Regression(Trainer):
    """Fits a line on the GPU; the loss of one update is NaN."""

    def __init__(self, bad_step: int) -> None:
        super().__init__(Options(), 12, "cuda")
        self.bad_step = bad_step
        self.modules["line"] = self.line = nn.Linear(1, 1).to(self.device)
        self.optimisers["adam"] = self.adam = torch.optim.Adam(self.line.parameters(), 0.1, fused=True)
        self.x = torch.ones(3, 1).to(self.device)

    def update(self) -> Quantities:
        self.step += 1
        loss = self.line(self.x).square().mean()
        if self.step == self.bad_step:
            loss = loss * torch.nan
        return {"loss": loss.detach(), "count": 1} | descend(self.step, self.adam, loss, "line", 1.0)

    def evaluate(self, record: Record, folder: RunFolder, check_stop: object) -> tuple[Record, str]:
        return record, ""


def test_a_gradient_that_is_not_finite_is_skipped_on_the_gpu_and_reported_when_something_is_logged(
    tmp_path: Path,
) -> None:
    folder = RunFolder.create(tmp_path / "run", "", "ebm")
    with pretended_cuda():
        trainer = Regression(bad_step=6)
        with pytest.raises(DivergedError, match=r"step 6: loss is nan"):
            loop.run(trainer, folder, False, None, quiet=True)
        assert trainer.step == 8
        assert all(parameter.cpu().isfinite().all() for parameter in trainer.line.parameters())
        # The skipped step does not count for Adam's bias correction.
        assert {state["step"].item() for state in trainer.adam.state.values()} == {7.0}
    assert records(folder.path)[-1] == {"step": 8, "diverged": "step 6: loss is nan"}
    assert [path.name for path in checkpoints(folder.path)] == [
        "step-00000000.safetensors",
        "step-00000004.safetensors",
    ]


def test_the_host_does_not_wait_between_logs(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "", "ebm")
    waits: list[int] = []

    class Watched(Regression):
        def update(self) -> Quantities:
            waits.append(counts.totals()["waits"])
            return super().update()

    with pretended_cuda() as counts:
        assert loop.run(Watched(bad_step=0), folder, False, None, quiet=True)
    # From the update after a line to the next one that is due.
    assert waits[0] == waits[3]
    assert waits[4] == waits[7] > waits[3]


def test_quantities_are_read_in_one_copy_and_keep_their_order() -> None:
    with pretended_cuda() as counts:
        quantities: Quantities = {"a": torch.tensor(0.1, device="cuda"), "b": 2.0, "c": torch.ones((), device="cuda")}
        counts.clear()
        numbers = floats(quantities)
        assert counts.totals()["waits"] == 1
    assert list(numbers.items()) == [("a", torch.tensor(0.1).item()), ("b", 2.0), ("c", 1.0)]


def test_tensors_on_the_gpu_are_checked_with_one_wait() -> None:
    with pretended_cuda() as counts:
        tensors = {"a": torch.ones(3, device="cuda"), "b": torch.full((2, 2), 1e3, device="cuda")}
        counts.clear()
        require_finite_tensors(3, tensors)
        # Its norm overflows, though all of it is finite.
        require_finite_tensors(3, tensors | {"c": torch.full((9,), 3e38, device="cuda")})
        assert counts.totals()["waits"] == 1 + 4
        with pytest.raises(DivergedError, match="step 3: b is not finite"):
            require_finite_tensors(3, tensors | {"b": torch.full((2,), torch.inf, device="cuda")})


def test_an_optimiser_on_the_gpu_must_be_fused() -> None:
    with pretended_cuda():
        line = nn.Linear(1, 1).to("cuda")
        adam = torch.optim.Adam(line.parameters())
        with pytest.raises(ValueError, match="the optimiser of line must be fused on a GPU"):
            descend(1, adam, line(torch.ones(1, 1, device="cuda")).sum(), "line")
