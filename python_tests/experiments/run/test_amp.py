"""--amp bf16: networks under autocast, which samplers and svgdx's ops do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

for package in ("sklearn", "gymnasium", "stable_baselines3", "zuko"):
    pytest.importorskip(package, reason="these trainers need the packages of svgdx[rl]")

import torch  # noqa: E402
from experiments.small_runs import command, records, run_folder  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

from svgdx import cli  # noqa: E402
from svgdx.densities import MLPLogDensity  # noqa: E402
from svgdx.experiments.ebm.config import EBMConfig  # noqa: E402
from svgdx.experiments.run.compute.amp import lower  # noqa: E402
from svgdx.experiments.run.errors import UsageError  # noqa: E402

BF16 = torch.bfloat16


class Dtypes(TorchDispatchMode):
    """Collects the dtypes of floating tensors that products of torch and ops of svgdx are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.of_products: set[torch.dtype] = set()
        self.of_ours: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and x.is_floating_point()]
        name = func._schema.name
        if name in ("aten::mm", "aten::addmm", "aten::convolution"):
            self.of_products |= {x.dtype for x in tensors}
        if name.startswith("svgdx"):
            self.of_ours |= {x.dtype for x in tensors}
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[Dtypes]:
    with Dtypes() as dtypes:
        yield dtypes


def test_a_lowered_network_multiplies_in_bfloat16_and_returns_float32() -> None:
    network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(5, 3)
    exact = network(x)
    lower(network, "none")
    assert torch.equal(network(x), exact)
    lower(network, "bf16")
    with watched() as dtypes:
        rounded = network(x)
    assert rounded.dtype == torch.float32
    assert BF16 in dtypes.of_products
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(rounded, exact)
    rounded.sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in network.parameters()
    )


def test_a_lowered_density_keeps_its_float32_derivatives() -> None:
    torch.manual_seed(0)
    density, x = MLPLogDensity(3, 8, 2), torch.randn(5, 3)
    exact = density.score_hvp(x, torch.ones(5, 3))
    lower(density, "bf16")
    assert all(
        torch.equal(one, other) for one, other in zip(density.score_hvp(x, torch.ones(5, 3)), exact, strict=True)
    )
    assert not torch.equal(density(x), exact[0])


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ebm": ("ebm", {"steps": 3, "eval_every": 3}),
    "ebm, conv": ("ebm", {"steps": 2, "eval_every": 2, "energy": "conv", "width": 2, "config": "langevin"}),
    "eb-gfn": ("eb-gfn", {"iterations": 3, "loss": "db"}),
    "rl stein": ("rl", {"steps": 60, "algo": "stein"}),
    "rl sac": ("rl", {"steps": 60, "algo": "sac"}),
    "rl sac-nf": ("rl", {"steps": 60, "algo": "sac-nf"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_multiplies_in_bfloat16_and_calls_our_ops_in_float32(tmp_path: Path, name: str) -> None:
    experiment, changes = RUNS[name]
    with watched() as dtypes:
        assert cli.main(command(experiment, tmp_path / "run", device="cpu", amp="bf16", **changes)) == 0
    assert BF16 in dtypes.of_products
    assert BF16 not in dtypes.of_ours
    assert "amp: bf16" in (run_folder(experiment, tmp_path / "run") / "config.yaml").read_text()
    assert records(run_folder(experiment, tmp_path / "run"))[-1]["step"] == next(iter(changes.values()))


REFUSED = {"glow": ({"config": "glow"}, "trains a flow"), "mh": ({"config": "met-svgd-mh"}, "rounded in two ways")}


@pytest.mark.parametrize("name", REFUSED)
def test_what_autocast_would_spoil_is_refused(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(UsageError, match=rf"--amp bf16: .*{message}"):
        EBMConfig.from_options(changes | {"amp": "bf16"})
