"""What one update of every trainer costs on a GPU is what budgets.json says: launches, waits, copies from the host.

Updates are counted as they are without CUDA graphs; test_captured.py has those that are replayed.

    python -m pretended.test_budgets NAME...

in python_tests lowers these budgets, or all of them, to what is counted now. A budget may only fall, and a test fails
until it has fallen.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("sklearn", "gymnasium", "stable_baselines3", "zuko"):
    pytest.importorskip(package, reason="these trainers need the packages of svgdx[rl]")

from pretended.counts import Counts  # noqa: E402
from pretended.gpu import pretended_cuda  # noqa: E402

from svgdx.experiments.eb_gfn import train as eb_gfn  # noqa: E402
from svgdx.experiments.eb_gfn.config import EBGFNConfig  # noqa: E402
from svgdx.experiments.ebm import train as ebm  # noqa: E402
from svgdx.experiments.ebm.config import EBMConfig  # noqa: E402
from svgdx.experiments.rl import environment, models  # noqa: E402
from svgdx.experiments.rl.config import RLConfig  # noqa: E402
from svgdx.rl import PRESETS  # noqa: E402

BUDGETS = Path(__file__).with_name("budgets.json")
GFN = {"data": "ising", "side": 4, "samples": 50, "batch": 8, "hidden": 16, "energy_hidden": 16}
EBM = ("met-svgd", "met-svgd-mh", "met-svgd-lc", "p-svgd", "langevin")
LOSSES = ("score", "sliced", "denoising", "energy-discrepancy")
STEIN = ("met-svgd", "met-svgd-mh", "met-svgd-lc", "p-svgd", "met-svgd-sigma-no-trace")


def of_trainer(trainer: Any, updates: int) -> Callable[[], object]:
    """The update that follows some others."""
    for _ in range(updates):
        trainer.update()
    return lambda: trainer.update()


def ebm_update(name: str, updates: int = 1, **changes: Any) -> Callable[[], object]:
    options = {"config": name, "device": "cuda", "graph": "off", "particles": 8, "hidden": 16} | changes
    config = EBMConfig.from_options(options)
    return of_trainer(ebm.trainer_of(config, ebm.load_task(config)), updates)


def gfn_update(**changes: Any) -> Callable[[], object]:
    config = EBGFNConfig.from_options(GFN | {"device": "cuda", "graph": "off"} | changes)
    return of_trainer(eb_gfn.trainer_of(config, eb_gfn.load_task(config)), 1)


def stein_model(preset: str) -> Any:
    options = {"env": "svgdx/Multigoal-v0", "hidden": 16, "preset": preset, "device": "cuda", "batch": 8, "buffer": 50}
    options["graph"] = "off"
    config = models.resolved(RLConfig.from_options(options | {"update_after": 10, "random_steps": 50, "updates": 1}))
    model = models.make(config, environment.make(config))
    model.learn(50)
    return model


def stein_update(preset: str) -> Callable[[], object]:
    model = stein_model(preset)
    return lambda: model.update(model.replay_buffer.sample(8))


def acting() -> Callable[[], object]:
    model = stein_model("met-svgd")
    return lambda: model.predict(np.zeros((1, 2), np.float32))


UPDATES: dict[str, Callable[[], Callable[[], object]]] = {
    **{f"ebm {name}": lambda name=name: ebm_update(name) for name in EBM},
    "ebm met-svgd with an update of the sampler": lambda: ebm_update("met-svgd", 4),
    **{f"ebm by {loss}": lambda loss=loss: ebm_update("langevin", loss=loss) for loss in LOSSES},
    "eb-gfn K = 1": lambda: gfn_update(k_schedule="fixed", k=1, sweeps=1),
    "eb-gfn K = D": lambda: gfn_update(k_schedule="fixed", k=16, sweeps=1),
    "eb-gfn pcd-gibbs": lambda: gfn_update(sampler="pcd-gibbs"),
    "eb-gfn pcd-gwg": lambda: gfn_update(sampler="pcd-gwg", flips=4),
    **{f"rl {name}": lambda name=name: stein_update(name) for name in STEIN},
    "rl met-svgd, acting": acting,
}
assert set(STEIN) <= PRESETS.keys()


def counted(name: str) -> Counts:
    with pretended_cuda() as counts:
        update = UPDATES[name]()
        counts.clear()
        update()
        return counts


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_costs_its_budget(name: str) -> None:
    budget = json.loads(BUDGETS.read_text())[name]
    counts = counted(name)
    over = {sort: count for sort, count in counts.totals().items() if count > budget[sort]}
    assert not over, f"{name}: the budget is {budget}\n{counts}"
    command = f"cd python_tests && python -m pretended.test_budgets {shlex.quote(name)}"
    assert counts.totals() == budget, f"{name} costs less than its budget; lower it with {command}"


def test_every_budget_has_its_update() -> None:
    assert json.loads(BUDGETS.read_text()).keys() == UPDATES.keys()


def main(names: list[str]) -> None:
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    for name in names or UPDATES:
        totals = counted(name).totals()
        budgets[name] = {sort: min(count, budgets.get(name, totals)[sort]) for sort, count in totals.items()}
    lines = [f'  "{name}": {json.dumps(budgets[name])}' for name in UPDATES if name in budgets]
    BUDGETS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
