"""The learnt sampler: its density, its gradients through attached and detached steps, its step-size bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svgdx import reference
from svgdx.samplers import LearntSVGD
from svgdx.samplers.met_svgd import LEAKY_SLOPE, score_and_hvp, step_bound

B, M, D, L = 2, 5, 3, 4


def log_density(x: Tensor) -> Tensor:
    return -0.25 * x.pow(4).sum(-1) - x.square().sum(-1) + torch.sin(x).prod(-1)


def sampler(bound: str = "none", eps: float = 0.5) -> LearntSVGD:
    made = LearntSVGD(torch.zeros(D), torch.ones(D), L, sigma=1.3, eps=eps, bound=bound)
    return made.double()


def draw(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_chain(model: LearntSVGD) -> tuple[Tensor, Tensor]:
    """The same chain from the reference formulas, every step attached, no bound."""
    generator = draw()
    noise = torch.randn(B, M, D, generator=generator, dtype=torch.float64)
    x = model.mean + model.log_std.exp() * noise
    log_q = torch.distributions.Normal(model.mean, model.log_std.exp()).log_prob(x).sum(-1)
    for step in range(L):
        probe = torch.empty_like(noise).bernoulli_(0.5, generator=generator) * 2 - 1
        (score,) = torch.autograd.grad(log_density(x).sum(), x, create_graph=True)
        (hvp,) = torch.autograd.grad((score * probe).sum(), x, create_graph=True)
        phi, trace = reference.svgd_phi_trace(x, score, model.log_sigma[step].exp())
        eps = model.log_eps[step].exp()
        log_q = log_q - eps * (trace + (hvp * probe).sum(-1) / M)
        x = x + eps * phi
    return x, log_q


def test_chain_and_its_gradients_are_those_of_the_formulas() -> None:
    model = sampler()
    chain = model(log_density, B, M, draw(), attached=frozenset(range(L)))
    x, log_q = plain_chain(model)
    torch.testing.assert_close(chain.x, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(chain.log_q, log_q, rtol=1e-10, atol=1e-10)
    parameters = list(model.parameters())
    found = torch.autograd.grad((chain.log_q - log_density(chain.x)).mean(), parameters)
    wanted = torch.autograd.grad((log_q - log_density(x)).mean(), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_detached_steps_give_the_same_numbers_and_only_the_identity_path() -> None:
    model = sampler()
    attached = model(log_density, B, M, draw(), attached=frozenset(range(L)))
    detached = model(log_density, B, M, draw())
    torch.testing.assert_close(attached.x, detached.x)
    torch.testing.assert_close(attached.log_q, detached.log_q)
    mean, log_std, sigma, eps = torch.autograd.grad(
        detached.x.sum() + detached.log_q.sum(), list(model.parameters()), allow_unused=True
    )
    torch.testing.assert_close(mean, torch.full((D,), float(B * M), dtype=torch.float64))
    assert log_std is not None
    assert sigma is None
    assert eps is None


def test_only_attached_steps_have_gradients_to_sigma_and_eps() -> None:
    model = sampler()
    chain = model(log_density, B, M, draw(), attached=frozenset({1}))
    sigma, eps = torch.autograd.grad(chain.log_q.sum(), [model.log_sigma, model.log_eps])
    assert (sigma != 0).tolist() == [step == 1 for step in range(L)]
    assert (eps != 0).tolist() == [step == 1 for step in range(L)]


@pytest.mark.parametrize("bound", ["leaky", "clamp"])
def test_eps_is_held_under_its_bound_for_each_batch_row(bound: str) -> None:
    model = sampler(bound, eps=1e4)
    limits = torch.tensor([0.5, 2e4], dtype=torch.float64)
    held = model._bounded(model.log_eps[0].exp(), limits)
    slope = LEAKY_SLOPE if bound == "leaky" else 0.0
    wanted = torch.tensor([0.5 + slope * (1e4 - 0.5), 1e4], dtype=torch.float64)
    torch.testing.assert_close(held, wanted, rtol=1e-6, atol=0)  # the parameters were set in float32
    (gradient,) = torch.autograd.grad(held[0], model.log_eps)
    assert bool(gradient[0] != 0) == (bound == "leaky")


def test_bound_is_the_inverse_of_the_largest_jacobian() -> None:
    x = torch.randn(B, M, D, dtype=torch.float64, generator=draw())
    sigma = torch.tensor(0.9, dtype=torch.float64)

    def phi_of_one(own: Tensor, row: int, index: int) -> Tensor:
        moved = torch.cat([x[row, :index], own[None], x[row, index + 1 :]])
        points = moved.detach().clone()
        points[index] = own
        score = torch.func.grad(lambda p: log_density(p).sum())(points)
        return reference.svgd_phi(points, score, sigma)[index]

    # With the mean over all 2^D probes the estimate is exact: the bound from each probe scatters around it.
    norms = torch.zeros(B, M, dtype=torch.float64)
    for row in range(B):
        for index in range(M):
            jacobian = torch.autograd.functional.jacobian(lambda p, r=row, i=index: phi_of_one(p, r, i), x[row, index])
            norms[row, index] = jacobian.square().sum()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * D)
    estimates = []
    for sign in signs:
        probe = sign.expand(B, M, D).contiguous()
        score, hvp = score_and_hvp(log_density, x, probe, graph=False)
        estimates.append(reference.svgd_jacobian_sqnorm(x, score, sigma, probe, hvp))
        limit = step_bound(x, score, sigma, probe, hvp)
        torch.testing.assert_close(limit, estimates[-1].amax(-1).clamp_min(1e-12).rsqrt())
    torch.testing.assert_close(torch.stack(estimates).mean(0), norms)


def test_nan_in_one_batch_row_stays_there() -> None:
    model = sampler("leaky")

    def broken(x: Tensor) -> Tensor:
        factor = torch.ones(B, 1, dtype=x.dtype)
        factor[0] = math.nan
        return log_density(x) * factor

    chain = model(broken, B, M, draw())
    assert chain.x[0].isnan().all()
    assert chain.x[1].isfinite().all()


@pytest.mark.parametrize("wrong", [{"bound": "hard"}, {"sigma": 0.0}, {"eps": -1.0}, {"steps": 0}])
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    settings = {"steps": L, "sigma": 1.0, "eps": 1.0, "bound": "leaky"} | wrong
    with pytest.raises(ValueError, match="LearntSVGD"):
        LearntSVGD(torch.zeros(D), torch.ones(D), **settings)  # type: ignore[arg-type]
