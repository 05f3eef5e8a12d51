"""Glow, assembled from the layers of normflows: its density, its samples, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from svgdx import Stream, cli
from svgdx.experiments.run.errors import UsageError


def new_glow(shape: tuple[int, int, int]) -> torch.nn.Module:
    pytest.importorskip("normflows", reason="Glow needs the packages of svgdx[flow]")
    from svgdx.experiments.ebm.glow import Glow

    torch.manual_seed(0)
    glow = Glow(shape, 2, 4, torch.randn(32, shape[0] * shape[1] * shape[2])).double()
    for parameter in glow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return glow


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (1, 6, 10)])
def test_log_density_is_that_of_the_change_of_variables(shape: tuple[int, int, int]) -> None:
    glow = new_glow(shape)
    dim = shape[0] * shape[1] * shape[2]
    x = torch.randn(1, dim, dtype=torch.float64)

    def latent(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([z.flatten() for z in glow.flow.inverse_and_log_det(x.view(-1, *shape))[0]])

    jacobian = torch.autograd.functional.jacobian(latent, x).reshape(dim, dim)
    bases = [
        base.log_prob(z)
        for base, z in zip(glow.flow.q0, glow.flow.inverse_and_log_det(x.view(-1, *shape))[0], strict=False)
    ]
    expected = sum(bases) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(glow.log_prob(x), expected, rtol=1e-9, atol=1e-9)


def test_samples_depend_on_the_generator_alone() -> None:
    glow = new_glow((1, 8, 8))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (glow.sample(5, Stream(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (5, 64)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(UsageError, match="even sides longer than 2, but are 7x8"):
        new_glow((1, 7, 8))


def test_without_normflows_the_run_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "normflows", None)
    assert cli.main(["train", "ebm", "--config", "glow", "--out", str(tmp_path / "run")]) == 2
    assert "svgdx[flow]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
