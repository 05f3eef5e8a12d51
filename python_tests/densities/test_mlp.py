"""MLPLogDensity: its derivatives agree with autograd, with and without a graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import svgdx
from svgdx import _library
from svgdx.activations import SMOOTH
from svgdx.densities import MLPLogDensity


def density(activation: str = "silu", depth: int = 2) -> MLPLogDensity:
    torch.manual_seed(0)
    return MLPLogDensity(5, 12, depth, activation, confinement=0.3).double()


def autograd(model: MLPLogDensity, x: Tensor, probe: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    value = model(x)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (hvp,) = torch.autograd.grad(score, x, probe)
    return [value.detach(), score.detach(), hvp]


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5)], ids=str)
@pytest.mark.parametrize("activation", SMOOTH)
def test_derivatives(activation: str, shape: tuple[int, ...]) -> None:
    model, x, probe = density(activation), torch.randn(shape).double(), torch.randn(shape).double()
    expected = autograd(model, x, probe)
    for create_graph in (False, True):
        derivatives = model.score_hvp(x, probe, create_graph)
        torch.testing.assert_close([derivative.detach() for derivative in derivatives], expected)
        assert all(derivative.requires_grad == create_graph for derivative in derivatives)
    value, score, trace = model.laplacian(x)
    torch.testing.assert_close([value, score], expected[:2])
    torch.testing.assert_close(trace, svgdx.hessian_trace(model, x, method="exact").trace)


def test_hessian_trace_uses_score_hvp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are those of autograd; with create_graph, autograd computes them."""
    model, x = density(), torch.randn(4, 3, 5).double()
    fast = svgdx.hessian_trace(model, x, generator=torch.Generator().manual_seed(2))
    slow = svgdx.hessian_trace(lambda x: model(x), x, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(fast, slow, equal_nan=True)
    assert not any(value.requires_grad for value in fast)
    monkeypatch.setattr(MLPLogDensity, "forward", lambda self, x: pytest.fail("autograd was used"))
    svgdx.hessian_trace(model, x)
    with pytest.raises(pytest.fail.Exception):
        svgdx.hessian_trace(model, x, create_graph=True)


def test_a_subclass_with_another_forward_has_its_own_derivatives() -> None:
    class Tempered(MLPLogDensity):
        def forward(self, x: Tensor) -> Tensor:
            return 0.25 * super().forward(x)

    tempered = Tempered(5, 12, 2).double()
    x, probe = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    derivatives = tempered.score_hvp(x, probe)
    assert not any(derivative.requires_grad for derivative in derivatives)
    torch.testing.assert_close(list(derivatives), autograd(tempered, x, probe))
    h = svgdx.hessian_trace(tempered, x)
    torch.testing.assert_close(list(h[:2]), autograd(tempered, x, probe)[:2])


def test_state_dict_keys() -> None:
    """Existing checkpoints load: the keys are those of earlier versions."""
    names = [f"layers.{i}.{name}" for i in (0, 2, 4) for name in ("weight", "bias")]
    assert list(density().state_dict()) == names


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        MLPLogDensity(2, 3, 1, "sine")
    with pytest.raises(ValueError, match="at least 1"):
        MLPLogDensity(2, 0, 1)


def test_a_chain_packs_the_parameters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing does not change the numbers, and changes between chains take effect."""
    if _library.disabled():
        pytest.skip("with SVGDX_DISABLE the reference reads the layers directly")
    model, packs = density(), []
    initial = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    sampler = svgdx.SVGD(model, initial, step_size=0.1)

    def sample() -> Tensor:
        return sampler.sample_with_log_prob(6, 3, generator=torch.Generator().manual_seed(1))[1]

    expected = sample()
    pack = MLPLogDensity._pack
    monkeypatch.setattr(MLPLogDensity, "_pack", lambda self: packs.append(1) or pack(self))
    assert torch.equal(sample(), expected)
    assert len(packs) == 1
    with torch.no_grad():
        model.layers[0].weight.mul_(3)
    assert not torch.equal(sample(), expected)
    assert len(packs) == 2
