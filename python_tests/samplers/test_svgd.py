"""The SVGD sampler: its density, gradients through attached and detached steps, settings and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

import svgdx
from svgdx import reference, samplers
from svgdx.samplers import RBF, SVGD, Learnt, LearntGaussian, OfState, ScoreTarget, State, TemperedTarget, particles
from svgdx.samplers.targets import Target, as_target
from svgdx.streams import stream_of

B, M, D, L = 2, 5, 3, 4


def log_density(x: Tensor) -> Tensor:
    return -0.25 * x.pow(4).sum(-1) - x.square().sum(-1) + torch.sin(x).prod(-1)


def sampler(eps: float = 0.5, **changes: object) -> SVGD:
    start = LearntGaussian(torch.zeros(D), torch.ones(D))
    model = SVGD(log_density, start, RBF(Learnt(1.3, L)), Learnt(eps, L), **changes)  # type: ignore[arg-type]
    return model.double()


def draw(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(model: SVGD, **changes: object) -> samplers.Chain:
    return model.run(M, L, batch=(B,), generator=draw(), **changes)  # type: ignore[arg-type]


def sigma_of(model: SVGD) -> Tensor:
    return model.get_parameter("kernel.bandwidth.raw")


def eps_of(model: SVGD) -> Tensor:
    return model.get_parameter("step_size.raw")


def plain_chain(model: SVGD) -> tuple[Tensor, Tensor]:
    """The same chain by the reference formulas, with every step attached and no bound."""
    stream = stream_of("plain_chain", draw(), torch.device("cpu"))
    noise = stream.normal((B, M, D), torch.float64)
    stream = stream.split()
    mean, std = model.get_parameter("initial.mean"), model.get_parameter("initial.log_std").exp()
    x = mean + std * noise
    log_q = Normal(mean, std).log_prob(x).sum(-1)
    for step in range(L):
        probe = stream.signs(noise)
        (score,) = torch.autograd.grad(log_density(x).sum(), x, create_graph=True)
        (hvp,) = torch.autograd.grad((score * probe).sum(), x, create_graph=True)
        phi, trace = reference.svgd_phi_trace(x, score, sigma_of(model)[step].exp())
        eps = eps_of(model)[step].exp()
        log_q = log_q - eps * (trace + (hvp * probe).sum(-1) / M)
        x = x + eps * phi
    return x, log_q


def test_chain_and_its_gradients_equal_the_formulas() -> None:
    model = sampler()
    chain = run(model)
    x, log_q = plain_chain(model)
    assert chain.log_q is not None
    torch.testing.assert_close(chain.x, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(chain.log_q, log_q, rtol=1e-10, atol=1e-10)
    parameters = list(model.parameters())
    assert len(parameters) == 4
    grads = torch.autograd.grad((chain.log_q - log_density(chain.x)).mean(), parameters)
    expected = torch.autograd.grad((log_q - log_density(x)).mean(), parameters)
    for grad, value in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, value, rtol=1e-8, atol=1e-9)


def test_exact_density_is_the_change_of_variables() -> None:
    """Checks one step, because the Jacobian of a particle's path holds the other particles fixed within a step only."""
    model = sampler(eps=0.8, hessian="exact", density="logdet")
    chain = model.run(M, 1, batch=(B,), generator=draw())
    x, log_q = model.initial.draw(M, (B,), draw())
    score = as_target(log_density).derivatives(x).score
    for b in range(B):
        for i in range(M):

            def step(particle: Tensor, b: int = b, i: int = i) -> Tensor:
                points = torch.cat([x[b, :i], particle[None], x[b, i + 1 :]]).detach()
                points[i] = particle
                scores = score[b].clone()
                scores[i] = torch.func.grad(log_density)(particle)
                return particle + 0.8 * reference.svgd_phi(points, scores, 1.3)[i]

            jacobian = torch.func.jacfwd(step)(x[b, i].detach())
            expected = log_q[b, i] - torch.linalg.slogdet(jacobian).logabsdet
            assert chain.log_q is not None
            torch.testing.assert_close(chain.log_q[b, i], expected, rtol=1e-6, atol=1e-6)


def test_exact_hessian_is_the_mean_of_all_probes() -> None:
    """A probe estimates trace and squared norm without bias, so the means over all 2^D probes are exact."""
    model = sampler(hessian="exact", bound="clamp", eps=1e4)
    x, _ = model.initial.draw(M, (B,), draw())
    target = Target(log_density)
    exact = target.derivatives(x, "exact")
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * D)
    hessian = torch.func.vmap(torch.func.vmap(torch.func.hessian(log_density)))(x)
    torch.testing.assert_close(exact.hessian, hessian)
    torch.testing.assert_close(exact.trace, hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    norms = []
    for sign in signs:
        probe = sign.expand(B, M, D).contiguous()
        hvp = (hessian @ probe[..., None])[..., 0]
        norms.append(reference.svgd_jacobian_sqnorm(x, exact.score, 1.3, probe, hvp))
    expected = torch.stack(norms).mean(0).amax(-1).rsqrt()
    record = model.run(M, 1, batch=(B,), generator=draw()).steps[0]
    torch.testing.assert_close(record.eps_bound, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(record.eps, expected.detach(), rtol=1e-6, atol=0)


def test_detached_steps_give_the_same_numbers_and_only_the_identity_path() -> None:
    model = sampler(attach_every=0)
    attached = run(model, attached=range(L))
    detached = run(model)
    assert attached.log_q is not None
    assert detached.log_q is not None
    torch.testing.assert_close(attached.x, detached.x)
    torch.testing.assert_close(attached.log_q, detached.log_q)
    parameters = dict(model.named_parameters())
    total = detached.x.sum() + detached.log_q.sum()
    grads = dict(zip(parameters, torch.autograd.grad(total, list(parameters.values()), allow_unused=True), strict=True))
    torch.testing.assert_close(grads["initial.mean"], torch.full((D,), float(B * M), dtype=torch.float64))
    assert grads["initial.log_std"] is not None
    assert grads["kernel.bandwidth.raw"] is None
    assert grads["step_size.raw"] is None


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [True] * 4), (2, [False, True] * 2), (3, [False, False, True, False])]
)
def test_every_kth_step_has_a_gradient(every: int, expected: list[bool]) -> None:
    model = sampler(attach_every=every)
    chain = run(model)
    assert chain.log_q is not None
    sigma, eps = torch.autograd.grad(chain.log_q.sum(), [sigma_of(model), eps_of(model)])
    assert (sigma != 0).tolist() == expected
    assert (eps != 0).tolist() == expected


def test_p_svgd_has_no_hessian_term_and_its_own_divisor() -> None:
    start = LearntGaussian(torch.zeros(D), torch.ones(D)).double()
    model = samplers.preset("p-svgd", log_density, start, L, control="none")
    chain = model.run(M, 1, batch=(B,), generator=draw())
    x, log_q = model.initial.draw(M, (B,), draw())
    (score,) = torch.autograd.grad(log_density(x).sum(), x)
    sigma = (reference.median_distance(x) ** 2 / (2 * math.log(M + 1))).sqrt()
    phi, trace = reference.svgd_phi_trace(x, score, sigma)
    torch.testing.assert_close(chain.x, x + 0.1 * phi, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(chain.log_q, log_q - 0.1 * trace * M / (M - 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", samplers.PRESETS)
def test_presets_run(name: str) -> None:
    model = samplers.preset(name, log_density, LearntGaussian(torch.zeros(D), torch.ones(D)), L)
    x, log_q = model.sample_with_log_prob(M, L, batch=(B,))
    assert x.shape == (B, M, D)
    assert log_q.shape == (B, M)
    assert log_q.isfinite().all()
    assert model.sample(M, L).shape == (M, D)


def covariance_of(gaussian: torch.distributions.Distribution) -> Tensor:
    return gaussian.covariance_matrix if isinstance(gaussian, MultivariateNormal) else gaussian.variance.diag()


def test_closed_forms_of_gaussians_equal_autograd() -> None:
    covariance = torch.eye(D, dtype=torch.float64) + 0.3
    mean = torch.arange(D, dtype=torch.float64)
    for gaussian in (MultivariateNormal(mean, covariance), Independent(Normal(mean, covariance[0]), 1)):
        closed, plain = as_target(gaussian), Target(gaussian.log_prob)
        assert type(closed) is not Target
        x = torch.randn(B, M, D, dtype=torch.float64).requires_grad_()
        for hessian in samplers.HESSIANS:
            derivatives, expected = (target.derivatives(x, hessian, True, draw()) for target in (closed, plain))
            names = ("score", "trace", "hessian") if hessian != "hutchinson" else ("score",)
            for name in names:
                torch.testing.assert_close(getattr(derivatives, name), getattr(expected, name))
            if hessian == "hutchinson":
                probe, hvp = derivatives.probe, derivatives.hvp
                torch.testing.assert_close(hvp, -probe @ covariance_of(gaussian).inverse())
                torch.testing.assert_close(derivatives.trace, (probe * hvp).sum(-1))


def test_the_density_of_the_kernel_alone_leaves_the_hessian_to_the_bound() -> None:
    whole, kernel, none = (
        run(sampler(8.0, bound="clamp", **settings)) for settings in ({}, {"density": "kernel"}, {"hessian": "none"})
    )
    assert whole.log_q is not None
    assert kernel.log_q is not None
    assert torch.equal(kernel.x, whole.x)
    assert torch.equal(kernel.history()["eps_bound"], whole.history()["eps_bound"])
    assert not torch.equal(kernel.history()["eps_bound"], none.history()["eps_bound"])
    first = kernel.history()
    torch.testing.assert_close(first["trace"][0], none.history()["trace"][0])
    assert not torch.allclose(kernel.log_q, whole.log_q)


@pytest.mark.parametrize("hessian", ["none", "hutchinson", "exact"])
@pytest.mark.parametrize(
    "target",
    [
        log_density,
        MultivariateNormal(torch.ones(D).double(), 2 * torch.eye(D).double()),
        ScoreTarget(lambda x: -x.pow(3)),
    ],
    ids=["f", "p", "score"],
)
def test_a_tempered_target_is_the_divided_log_density(target: Any, hessian: str) -> None:
    plain, tempered = as_target(target), TemperedTarget(target, 4.0)
    x = torch.randn(B, M, D, dtype=torch.float64, generator=draw()).requires_grad_()
    one, other = (which.derivatives(x, hessian, True, draw()) for which in (plain, tempered))
    for name, value in one._asdict().items():
        expected = value if value is None or name == "probe" else value / 4
        torch.testing.assert_close(getattr(other, name), expected)
    if plain.has_log_prob:
        torch.testing.assert_close(tempered.log_prob(x), plain.log_prob(x) / 4)
    with pytest.raises(ValueError, match="temperature must be positive and finite, but is 0"):
        TemperedTarget(target, 0.0)


def test_a_score_alone_gives_the_same_chain() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.func.grad(lambda p: log_density(p).sum())(x)

    expected = run(sampler(hessian="exact"))
    model = sampler(hessian="exact")
    model.target = as_target(ScoreTarget(score))
    chain = run(model)
    torch.testing.assert_close(chain.x, expected.x)
    torch.testing.assert_close(chain.log_q, expected.log_q)
    with pytest.raises(ValueError, match="score alone"):
        model.fit(M, L, 1)


class Spread(torch.nn.Module):
    """A bandwidth computed from the state: softplus of a learnt multiple of the particles' spread."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, state: State) -> Tensor:
        return torch.nn.functional.softplus(self.factor * state.x.std(-2).mean(-1))


def test_modules_of_the_state_are_learnt_and_among_the_parameters() -> None:
    start = LearntGaussian(torch.zeros(D), torch.ones(D))
    model = SVGD(log_density, start, RBF(Spread()), OfState(Spread()), bound="leaky").double()
    chain = run(model)
    assert chain.log_q is not None
    assert chain.history()["sigma"].shape == (L, B)
    gradients = torch.autograd.grad(chain.log_q.sum(), list(model.parameters()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_a_module_as_target_is_not_trained() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(D, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1), torch.nn.Flatten(-2))
    model = SVGD(module, LearntGaussian(torch.zeros(D), torch.ones(D)))
    assert len(list(model.parameters())) == 2
    assert model.sample(M, L).shape == (M, D)


def test_initial_distribution_with_its_own_batch() -> None:
    start = Independent(Normal(torch.tensor([[0.0] * D, [100.0] * D]), torch.ones(2, D)), 1)
    x, log_q = SVGD(log_density, start).sample_with_log_prob(M, 0, batch=(4,), generator=draw())
    assert x.shape == (4, 2, M, D)
    assert x[:, 0].mean().abs() < 1
    assert (x[:, 1].mean() - 100).abs() < 1
    torch.testing.assert_close(log_q[:, 1], start.log_prob(x.movedim(1, -2))[..., 1])


def test_a_nan_stays_in_its_problem() -> None:
    factor = torch.tensor([[math.nan], [1.0]], dtype=torch.float64)
    model = sampler(bound="leaky")
    model.target = as_target(lambda x: log_density(x) * factor)
    chain = run(model)
    assert chain.x[0].isnan().all()
    assert chain.x[1].isfinite().all()


def test_equal_generators_give_equal_chains() -> None:
    one, other = run(sampler()), run(sampler())
    assert torch.equal(one.x, other.x)
    start = Independent(Normal(torch.zeros(D), torch.ones(D)), 1)
    model = SVGD(log_density, start)
    assert torch.equal(model.sample(M, L, generator=draw()), model.sample(M, L, generator=draw()))


@pytest.mark.parametrize("control", samplers.CONTROLS)
def test_samples_equal_those_of_a_recorded_chain(control: str) -> None:
    model = sampler(control=control, bound="leaky")
    chain = run(model)
    x, log_q = model.sample_with_log_prob(M, L, batch=(B,), generator=draw())
    assert len(chain.steps) == L
    assert torch.equal(chain.length, torch.full((B,), L))
    assert torch.equal(x, chain.x)
    assert chain.log_q is not None
    assert torch.equal(log_q, chain.log_q)


def test_fit_lowers_the_reverse_kl() -> None:
    target = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.4], [0.4, 0.5]]))
    model = samplers.preset("met-svgd", target, LearntGaussian(torch.full((2,), 2.0), torch.ones(2)), 10)
    rates: list[float] = []
    losses = model.fit(
        20,
        10,
        40,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        scheduler=lambda adam: torch.optim.lr_scheduler.LambdaLR(adam, lambda epoch: rates.append(epoch) or 1.0),
        generator=draw(),
    )
    assert rates == list(range(41))
    assert len(losses) == 40
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    assert model.progress == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bound": "hard"}, "none, clamp, leaky"),
        ({"hessian": "diagonal"}, "none, hutchinson, exact"),
        ({"density": "second-order"}, "first-order, logdet"),
        ({"divisor": "N"}, "M, M-1"),
        ({"control": "clip"}, "none, truncation, metropolis-hastings, epsilon-greedy"),
        ({"density": "logdet"}, "a probe does not give the determinant"),
        ({"attach_every": -1}, "attach_every"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**settings)  # type: ignore[arg-type]


def test_bad_requests_are_refused() -> None:
    model = sampler()
    with pytest.raises(ValueError, match="4 that are learnt"):
        model.run(M, L + 1)
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0, L)
    with pytest.raises(ValueError, match="svgd, p-svgd, met-svgd"):
        samplers.preset("svgd2", log_density, LearntGaussian(torch.zeros(D), torch.ones(D)), L)
    with pytest.raises(ValueError, match="over vectors"):
        SVGD(Normal(0.0, 1.0), LearntGaussian(torch.zeros(D), torch.ones(D)))
    with pytest.raises(TypeError, match="target"):
        SVGD(3, LearntGaussian(torch.zeros(D), torch.ones(D)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must map"):
        SVGD(lambda x: x, LearntGaussian(torch.zeros(D), torch.ones(D))).sample(M, L)
    with pytest.raises(ValueError, match="nothing is learnt"):
        SVGD(log_density, Independent(Normal(torch.zeros(D), torch.ones(D)), 1)).fit(M, L, 1)
    assert svgdx.SVGD is SVGD


def test_process_group_without_the_distributed_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particles, "_sharded", None)
    with pytest.raises(RuntimeError, match=r"process_group needs svgdx\.distributed"):
        sampler(process_group=object())


def test_target_and_initial_of_different_dimensions_are_refused() -> None:
    target = MultivariateNormal(torch.zeros(3), torch.eye(3))
    for initial in (LearntGaussian(torch.zeros(2), torch.ones(2)), MultivariateNormal(torch.zeros(2), torch.eye(2))):
        with pytest.raises(ValueError, match=r"initial must be over \(3,\) as the target, but is over \(2,\)"):
            SVGD(target, initial)
