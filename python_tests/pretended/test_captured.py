"""Trainers with captured updates on the pretended GPU: to the bit the numbers of updates without graphs.

A replay repeats what the capture launched, in the same memory. That its numbers are those of an update without a graph
shows that updates of a kind launch the same work, that what they need from the host are inputs of the graph, and that
what they leave lies in memory that stays. The host cannot wait in a capture, nor copy to the GPU, nor draw from torch's
generators: the pretended GPU refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

for package in ("sklearn", "gymnasium", "stable_baselines3"):
    pytest.importorskip(package, reason="these trainers need the packages of svgdx[rl]")

import torch  # noqa: E402
from pretended.gpu import pretended_cuda  # noqa: E402
from torch import Tensor  # noqa: E402

from svgdx import gflownets  # noqa: E402
from svgdx.experiments.eb_gfn import train as eb_gfn  # noqa: E402
from svgdx.experiments.eb_gfn.config import EBGFNConfig  # noqa: E402
from svgdx.experiments.ebm import train as ebm  # noqa: E402
from svgdx.experiments.ebm.config import EBMConfig  # noqa: E402
from svgdx.experiments.rl import environment, models  # noqa: E402
from svgdx.experiments.rl.config import RLConfig  # noqa: E402
from svgdx.experiments.run.checkpoint import flatten  # noqa: E402
from svgdx.experiments.run.compute import graph  # noqa: E402
from svgdx.experiments.run.compute.guard import floats  # noqa: E402
from svgdx.experiments.run.errors import UsageError  # noqa: E402

# Learning rates that float32 holds exactly, because a captured Adam reads them in it.
EBM: dict[str, Any] = {
    "device": "cuda", "particles": 6, "svgd_steps": 2, "attached_steps": 0, "hidden": 8, "mh_iterations": 1,
    "energy_lr": 2**-8, "sampler_lr": 2**-6, "log_every": 1,
}  # fmt: skip
GFN: dict[str, Any] = {
    "device": "cuda", "data": "ising", "side": 3, "samples": 20, "batch": 4, "hidden": 8, "depth": 2,
    "energy_hidden": 8, "energy_depth": 2, "energy_lr": 2**-8, "policy_lr": 2**-9, "energy_l1": 0.0,
    "lr_decay": "none", "k": 0, "loss": "tb", "negatives": "data", "backward_policy": "learnt", "sweeps": 1,
    "clip": 1.0, "log_every": 1,
}  # fmt: skip
RL: dict[str, Any] = {
    "env": "svgdx/Multigoal-v0", "hidden": 8, "device": "cuda", "batch": 4, "buffer": 50, "update_after": 100,
    "update_every": 10, "random_steps": 10, "steps": 20, "updates": 1, "lr": 2**-8, "particles": 4, "svgd_steps": 2,
    "mh_iterations": 1,
}  # fmt: skip
# Fewer updates before a capture than on a GPU, where they load kernels; and all that are made.
WARM_UP, UPDATES = 1, 3
# A replayed update launches the graph, draws its batch and writes its inputs.
MOST_LAUNCHES = 20


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "WARM_UP", WARM_UP)


def ebm_trainer(**changes: Any) -> Any:
    config = EBMConfig.from_options(EBM | changes)
    return ebm.trainer_of(config, ebm.load_task(config))


EBMS: dict[str, dict[str, Any]] = {
    "met-svgd": {},
    "met-svgd, every step attached": {"attached_steps": 2, "sampler_every": 1},
    "met-svgd-mh": {"config": "met-svgd-mh"},
    "met-svgd-lc": {"config": "met-svgd-lc"},
    "p-svgd": {"config": "p-svgd"},
    "langevin": {"config": "langevin"},
    "langevin, persistent": {"config": "langevin", "chains": "persistent", "buffer": 600},
    "sliced score matching": {"config": "langevin", "loss": "sliced"},
    "score matching": {"config": "langevin", "loss": "score"},
    "energy discrepancy": {"config": "langevin", "loss": "energy-discrepancy"},
    "conv": {"energy": "conv", "width": 2, "gradient_penalty": 0.1},
    "conv, bfloat16": {"energy": "conv", "width": 2, "amp": "bf16"},
}


def gfn_trainer(**changes: Any) -> Any:
    config = EBGFNConfig.from_options(GFN | changes)
    return eb_gfn.trainer_of(config, eb_gfn.load_task(config))


class SteinUpdates:
    """The updates of a SteinSAC, each from a batch of the same replay buffer."""

    def __init__(self, **changes: Any) -> None:
        config = models.resolved(RLConfig.from_options(RL | changes))
        self.model = models.make(config, environment.make(config))
        self.model.learn(10)

    def update(self) -> dict[str, Any]:
        # Stable-Baselines3 draws the batch on the host; its rows are others every time.
        sample, critic, actor = self.model.update(self.model.replay_buffer.sample(4), recorded=True)
        return {"critic": critic, "actor": actor, "x": sample.action.sum(), "steps": len(sample.chain.steps)}

    def tensors(self) -> dict[str, Tensor]:
        self.model._finite_losses()
        optimizers = {"actor": self.model.policy.actor_optimizer, "critic": self.model.policy.critic_optimizer}
        return flatten({"policy": self.model.policy}, optimizers)


RLS: dict[str, dict[str, Any]] = {
    **{name: {"preset": name} for name in ("met-svgd", "met-svgd-mh", "met-svgd-lc", "p-svgd")},
    "s2ac": {"preset": "met-svgd", "target": "s2ac", "hessian": "exact"},
    "truncation, tuned alpha, bfloat16": {"control": "truncation", "alpha_rule": "tuned", "amp": "bf16"},
}
FIXED = {"k_schedule": "fixed", "k": 2}
GFNS: dict[str, dict[str, Any]] = {
    "tb": FIXED,
    "vargrad, persistent": FIXED
    | {"loss": "vargrad", "mh": "barker", "negatives": "persistent", "sweeps": 2, "ema": 0.9},
    "subtb, plane": FIXED | {"loss": "subtb", "data": "2spirals", "backward_policy": "uniform"},
    "scratch, digits": {"negatives": "scratch", "data": "digits", "binarisation": "dynamic", "epsilon": 0.25},
    "pcd-gibbs": {"sampler": "pcd-gibbs", "sweeps": 1},
    "pcd-gibbs, plane": {"sampler": "pcd-gibbs", "sweeps": 1, "data": "2spirals"},
    "pcd-gwg": {"sampler": "pcd-gwg", "flips": 3, "data": "2spirals"},
}
TRAINERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    **{f"ebm {name}": (ebm_trainer, changes) for name, changes in EBMS.items()},
    **{f"eb-gfn {name}": (gfn_trainer, changes) for name, changes in GFNS.items()},
    **{f"rl {name}": (SteinUpdates, changes) for name, changes in RLS.items()},
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINERS)
def test_captured_updates_on_a_gpu_equal_those_without_graphs(name: str) -> None:
    make, changes = TRAINERS[name]

    def trained(mode: str) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        trainer = make(graph=mode, **changes)
        return [floats(trainer.update()) for _ in range(UPDATES)], trainer.tensors()

    (expected, parameters), (captured, tensors) = trained("off"), trained("on")
    for one, other in zip(captured, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    for key, value in parameters.items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-3, atol=1e-4, msg=key)


def trained(name: str, mode: str) -> tuple[list[dict[str, float]], dict[str, Tensor], list[int]]:
    """Quantities of every update, the tensors of the last checkpoint, and the graphs that each update replayed."""
    make, changes = TRAINERS[name]
    quantities, replays = [], []
    with pretended_cuda() as counts:
        trainer = make(graph=mode, **changes)
        for _ in range(UPDATES):
            counts.clear()
            of_update = trainer.update()
            replays.append(sum(count for event, count in counts.launches.items() if event.kind == "a graph"))
            totals = counts.totals()
            assert totals["waits"] == 0, counts
            assert totals["launches"] <= MOST_LAUNCHES or not replays[-1], counts
            quantities.append(floats(of_update))
        return quantities, trainer.tensors(), replays


@pytest.mark.parametrize("name", TRAINERS)
def test_captured_updates_equal_those_without_graphs(name: str) -> None:
    expected, parameters, none = trained(name, "off")
    captured, tensors, replays = trained(name, "on")
    assert sum(none) == 0
    assert replays == [0] * WARM_UP + [1] * (UPDATES - WARM_UP)
    assert captured == expected
    assert tensors.keys() == parameters.keys()
    assert all(torch.equal(tensors[key], value) for key, value in parameters.items())


def test_updates_after_which_something_is_logged_are_a_kind_of_their_own() -> None:
    """So are those that train the sampler, which go through other steps each time and are not captured."""
    with pretended_cuda() as counts:
        trainer = ebm_trainer(attached_steps=1, sampler_every=3, log_every=2, eval_every=100)
        replayed = []
        for _ in range(11):
            counts.clear()
            trainer.update()
            replayed.append(any(event.kind == "a graph" for event in counts.launches))
    #                  1      2      3      4     5     6      7     8     9      10    11
    assert replayed == [False, False, False, True, True, False, True, True, False, True, True]


def test_each_k_is_a_kind_of_its_own() -> None:
    with pretended_cuda() as counts:
        trainer = gfn_trainer(k_schedule="anneal", warmup=27)
        replayed, ks = [], []
        for _ in range(12):
            counts.clear()
            ks.append(trainer.update()["k"])
            replayed.append(any(event.kind == "a graph" for event in counts.launches))
    assert ks == [1] * 5 + [2] * 3 + [3] * 3 + [4]
    assert replayed == [number > WARM_UP for number in (1, 2, 3, 4, 5, 1, 2, 3, 1, 2, 3, 1)]


def test_a_captured_rollout_has_memory_of_its_own() -> None:
    """A later rollout of another size takes that which other rollouts of the policy share."""
    with pretended_cuda():
        policy = gflownets.MLPPolicy(3, 8, 2).to("cuda")
        graphs = graph.Graphs(torch.device("cuda"), [], True)

        def log_prob(seed: int | Tensor, count: int = 2) -> Tensor:
            void = gflownets.void_states(count, 3, torch.device("cuda"))
            trajectories = gflownets.rollout(policy, 3, seed, forward_from=void, record=True)
            return gflownets.trajectory_log_prob(policy, trajectories)[0].detach()

        for seed in range(WARM_UP + 1):
            graphs.run("rollout", log_prob, seed=seed)
        log_prob(0, 5)
        assert torch.equal(graphs.run("rollout", log_prob, seed=7).cpu(), log_prob(7).cpu())


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "glow": (EBMConfig, EBM | {"config": "glow"}, "normflows inverts matrices"),
    "epsilon-greedy": (EBMConfig, EBM | {"control": "epsilon-greedy"}, "decides on the host which steps"),
    "a random K": (EBGFNConfig, GFN | {"k_schedule": "random"}, "gives every update another K"),
    "sac": (RLConfig, {"algo": "sac", "device": "cuda"}, "Stable-Baselines3 makes those of --algo sac"),
    "the CPU": (EBMConfig, EBM | {"device": "cpu"}, "this run computes on the CPU"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_updates_that_cannot_be_captured_are_refused_by_name(name: str) -> None:
    cls, options, message = REFUSED[name]
    with pretended_cuda():
        assert not cls.from_options(options | {"graph": "auto"}).captures()
        with pytest.raises(UsageError, match=rf"--graph on: .*{message}.*; pass --graph auto"):
            cls.from_options(options | {"graph": "on"}).captures()


def test_updates_of_several_processes_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pretended_cuda():
        assert not EBMConfig.from_options(EBM).captures()
        with pytest.raises(UsageError, match=r"--graph on: .* averaged by hooks that a graph does not hold"):
            EBMConfig.from_options(EBM | {"graph": "on"}).captures()
