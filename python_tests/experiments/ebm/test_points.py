"""Energy-based models of points: exact densities of samplers, log-likelihoods, and the report on the claims."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.processes import printed_commands
from experiments.small_runs import records

from svgdx import cli
from svgdx.experiments.data.points import DIGITS, POINT_SETS, load_points
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.points.claims import CLAIMS, Diverges, Order, verdict
from svgdx.experiments.ebm.points.flow import SamplerFlow
from svgdx.experiments.ebm.runs import EBMRun, grouped
from svgdx.experiments.metrics.likelihood import annealed_log_z, energy_distance, grid_log_z
from svgdx.experiments.run.folder import RunFolder
from svgdx.samplers import RBF, SVGD, LearntGaussian, SteinStop
from svgdx.streams import Stream

SMALL = [
    "--steps=2", "--particles=8", "--svgd-steps=3", "--attached-steps=1", "--sampler-every=1", "--hidden=8",
    "--eval-samples=16", "--eval-every=2", "--log-every=1", "--checkpoint-every=2", "--quiet",
]  # fmt: skip


def mixture(x: torch.Tensor) -> torch.Tensor:
    """Two Gaussians at (-1, 0) and (1, 0) with variance 1/2, whose log Z is log 2 pi."""
    return torch.logaddexp(*(-(x - torch.tensor([centre, 0.0])).square().sum(-1) for centre in (-1.0, 1.0)))


def mixture_flow(chains: int = 3, **options: object) -> SamplerFlow:
    start = LearntGaussian(torch.tensor([0.2, 0.5]), torch.tensor([1.2, 0.8]))
    sampler = SVGD(mixture, start, RBF(1.0), 0.4, **options)  # type: ignore[arg-type]
    return SamplerFlow(sampler, 12, 5, chains, Stream.of_seed(1))


@pytest.mark.parametrize("stop", [None, SteinStop(1e12, least=2)])
def test_the_density_of_a_sampler_integrates_to_one_and_agrees_on_both_ways(stop: SteinStop | None) -> None:
    flow = mixture_flow(stop=stop)
    assert len(flow.steps) == (5 if stop is None else 2)
    x, log_q, folded = flow.sample(50, Stream.of_seed(2))
    assert not bool(folded.any())
    one = SamplerFlow.__new__(SamplerFlow)
    one.__dict__.update(flow.__dict__, steps=[step._replace(**{
        name: getattr(step, name)[:1] for name in step._fields
    }) for step in flow.steps])  # fmt: skip
    log_prob, path = one.log_prob(x[0])
    assert bool(path.reached.all())
    torch.testing.assert_close(log_prob, log_q[0], rtol=0, atol=2e-3)
    ticks = (torch.arange(40) + 0.5) * 0.25 - 5
    log_prob, path = flow.log_prob(torch.cartesian_prod(ticks, ticks))
    assert float(log_prob.exp().sum()) * 0.25**2 == pytest.approx(1, abs=0.01)


def test_the_chains_of_a_flow_are_those_of_the_sampler() -> None:
    start = LearntGaussian(torch.zeros(2), 1.0)
    sampler = SVGD(mixture, start, RBF(1.0), 0.4)
    flow = SamplerFlow(sampler, 12, 5, 2, Stream.of_seed(1))
    assert sampler.callbacks == []
    step, following = flow.steps[:2]
    assert step.x.shape == (2, 11, 2)
    # The particles of the chain are M - 1 and feel one another alone.
    score = torch.func.grad(lambda x: mixture(x).sum())(step.x)
    kernel = (-0.5 * torch.cdist(step.x, step.x).square()).exp()
    phi = (kernel @ score + kernel.sum(-1, keepdim=True) * step.x - kernel @ step.x) / 11
    torch.testing.assert_close(following.x, step.x + 0.4 * phi, rtol=0, atol=1e-5)


def test_log_z_of_a_known_density() -> None:
    exact = math.log(2 * math.pi)
    log_z, outside = grid_log_z(mixture, 12.0, 1.0)
    assert log_z == pytest.approx(exact, abs=1e-3)
    assert 0.2 < outside < 0.8
    covariance = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    value, error = annealed_log_z(mixture, torch.tensor([0.3, 0.5]), covariance, 60, 1000, Stream.of_seed(0))
    assert error < 0.1
    assert value == pytest.approx(exact, abs=max(0.05, 4 * error))
    shifted = annealed_log_z(lambda x: mixture(x) + 3, torch.zeros(2), covariance, 60, 1000, Stream.of_seed(0))
    assert shifted.value == pytest.approx(exact + 3, abs=max(0.1, 4 * shifted.error))


def test_energy_distance() -> None:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-12)
    # For two points at a distance of 2 it is 2 * 2 - 0 - 0.
    assert energy_distance(torch.zeros(1, 1), 2 * torch.ones(1, 1)) == pytest.approx(4)
    assert energy_distance(x, x + 1) > 10 * energy_distance(x[:200], x[200:])


@pytest.mark.parametrize("name", POINT_SETS)
def test_point_sets_are_the_same_every_time(name: str) -> None:
    points = load_points(name)
    assert points.shape == (1, 1, 8 if name == DIGITS else 2)
    assert torch.equal(points.held_out, load_points(name).held_out)
    assert points.train.shape[1] == points.held_out.shape[1] == points.shape[2]
    assert (points.entropy is None) == (name == DIGITS)
    if name == "8gaussians":
        # Eight Gaussians that hardly overlap: log 8 + log(2 pi e s^2), s = .5 / 1.414.
        assert points.entropy == pytest.approx(math.log(8) + math.log(2 * math.pi * math.e / 8), abs=0.01)


@pytest.mark.parametrize(
    ("data", "config"), [("moons", "met-svgd"), (DIGITS, "p-svgd"), ("moons", "langevin"), (DIGITS, "glow")]
)
def test_runs_of_points_log_their_likelihoods(tmp_path: Path, data: str, config: str) -> None:
    if config == "glow":
        pytest.importorskip("normflows", reason="Glow needs the packages of svgdx[flow]")
    out = tmp_path / "run"
    assert cli.main(["train", "ebm", f"--data={data}", f"--config={config}", f"--out={out}", *SMALL]) == 0
    last = records(out)[-1]
    energy = {"energy_log_likelihood", "energy_log_z", "energy_outside" if data == "moons" else "energy_log_z_error"}
    sampler = {"sampler_log_likelihood", "sampler_unreached", "sampler_folded", "sampler_entropy", "importance_log_z"}
    expected = {"energy_distance"}
    expected |= energy if config != "glow" else {"sampler_log_likelihood"}
    expected |= sampler if config.endswith("svgd") else set()
    assert expected <= last.keys()
    assert not (last.keys() & sampler) - expected
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    if data == "moons" and config == "met-svgd":
        # After two updates the energy is nearly flat but for its confinement, and the sampler is near its start.
        assert last["importance_log_z"] == pytest.approx(last["energy_log_z"], abs=1.0)


@pytest.mark.parametrize(("arguments", "named"), [
    (["--data=moons", "--energy=conv"], "--energy conv: needs images"),
    (["--data=moons", "--inception-weights=x"], "--inception-weights: needs images"),
    (["--density=logdet", "--hessian=exact"], "--density logdet: needs at most 16 dimensions"),
    (["--data=moons", "--density=logdet"], "--density logdet: needs the Hessian in full"),
])  # fmt: skip
def test_what_points_do_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert cli.main(["train", "ebm", f"--out={tmp_path / 'run'}", *arguments]) == 2
    assert named in capsys.readouterr().err


def run_folder(root: Path, config: str, data: str, seed: int, likelihood: float, **quantities: float) -> Path:
    """A run folder with this log-likelihood of the energy at its only evaluation."""
    settings = EBMConfig.from_options({"config": config, "data": data, "seed": seed, "steps": 10, "hidden": 8})
    folder = RunFolder.create(root / f"{config}-{data}-{seed}", settings.to_yaml())
    folder.append_metrics({"step": 0, "energy_distance": 0.5})
    folder.append_metrics({"step": 10, "energy_log_likelihood": likelihood, "energy_distance": 0.1} | quantities)
    return folder.path


def test_claims_get_the_verdict_of_paired_differences(tmp_path: Path) -> None:
    sets = ("moons", "circles")
    values = {"langevin": -3.0, "p-svgd": -2.0, "met-svgd-sigma": -2.5, "met-svgd": -2.5, "met-svgd-lc": -2.5}
    paths = [
        # The data sets differ by more than the rows, which pairs cancel; met-svgd differs in sign between seeds.
        run_folder(tmp_path, name, data, seed, value - 5 * place + 0.1 * seed * (-1) ** place * (name == "met-svgd"))
        for name, value in values.items()
        for place, data in enumerate(sets)
        for seed in (0, 1)
    ]
    wrong = {"entropy_excess": 2.0, "claimed_entropy": 9.0, "sampler_entropy": 2.5}
    paths += [run_folder(tmp_path, "met-svgd-no-trace", data, 0, -2.5, **wrong) for data in sets]
    paths += [run_folder(tmp_path, "met-svgd-no-bound", data, 0, -2.5) for data in sets]
    runs = [EBMRun(path) for path in paths]
    groups = {data: grouped([run for run in runs if run.config.data == data]) for data in sets}
    verdicts = {
        claim.row if isinstance(claim, Diverges) else (claim.better, claim.worse): verdict(claim, groups)[0]
        for claim in CLAIMS
    }
    assert verdicts == {
        ("met-svgd", "langevin"): "shown",
        ("met-svgd-sigma", "p-svgd"): "refuted",
        ("met-svgd", "met-svgd-sigma"): "cannot be seen here",
        ("met-svgd-lc", "met-svgd"): "shown",
        "met-svgd-no-trace": "shown",
        "met-svgd-no-bound": "refuted",
        "met-svgd-mh": "cannot be seen here",
    }
    assert verdict(Diverges("", "", "met-svgd-no-trace"), groups)[1] == (
        "2 of 2 runs diverged; claimed minus exact entropy +6.50 nats"
    )
    worse = Order("", "", "met-svgd-lc", "p-svgd", equal=True)
    assert verdict(worse, groups)[0] == "refuted"


def test_the_report_on_points_has_all_sets_and_its_commands_repeat_the_runs(tmp_path: Path) -> None:
    paths = [
        run_folder(tmp_path, config, data, 3, -2.5, sampler_log_likelihood=-2.75, sampler_entropy=1.5)
        for config in ("langevin", "met-svgd")
        for data in ("moons", DIGITS)
    ]
    assert cli.main(["report", *map(str, paths), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"| configuration | moons | {DIGITS} |" in text
    assert f"| highest possible | {-load_points('moons').entropy:.2f} | – |" in text
    assert "| met-svgd | -2.50 | -2.50 |" in text
    assert text.count("| met-svgd | -2.75 | -2.75 |") == 1
    *trainings, report = printed_commands(text)
    assert report[0] == "report"
    assert [words[-1] for words in trainings] == [path.name for path in paths]
    for picture in ("figures.png", "densities.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
