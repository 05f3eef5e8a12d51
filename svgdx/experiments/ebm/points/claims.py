"""The published claims on the configurations, and what runs on points say about them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from svgdx.experiments.ebm.runs import EBMRun, Groups

# The measures in which rows are compared: quantity, whether more is better, and decimals.
MEASURES = {
    "energy_log_likelihood": (True, 3),
    "sampler_log_likelihood": (True, 3),
    "energy_distance": (False, 4),
}
# Standard errors by which a mean must differ from 0.
CLEAR = 2.0


class Order(NamedTuple):
    """A claim that one row is better than another, or no worse if `equal`."""

    text: str
    published: str
    better: str
    worse: str
    equal: bool = False


class Diverges(NamedTuple):
    """A claim that the runs of a row diverge."""

    text: str
    published: str
    row: str


# FID on CIFAR-10 of the best iteration, read off the plots of Messaoud et al., Particles Don't Care About Z, ICML 2026.
CLAIMS: tuple[Order | Diverges, ...] = (
    Order("MET-SVGD trains a better energy than Langevin dynamics", "FID 23 against 34", "met-svgd", "langevin"),
    Order(
        "a learnt bandwidth and the full trace beat P-SVGD", "FID 34 against 114", "met-svgd-sigma", "p-svgd"
    ),
    Order("a learnt step size beats a fixed one", "FID 23 against 34", "met-svgd", "met-svgd-sigma"),
    Order("stopping by L_c costs nothing", "FID 22.9 against 23", "met-svgd-lc", "met-svgd", equal=True),
    Diverges("without Tr H training diverges", "diverges", "met-svgd-no-trace"),
    Diverges("without eps_UB training diverges", "diverges", "met-svgd-no-bound"),
    Diverges("with Metropolis-Hastings training diverges", "diverges", "met-svgd-mh"),
)  # fmt: skip


class Difference(NamedTuple):
    """The mean difference of two rows over data sets and seeds, its standard error, and the number of pairs."""

    mean: float
    error: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.mean:+.3g} ± {self.error:.2g}" if self.pairs else "–"


def difference(groups: dict[str, Groups], one: str, other: str, quantity: str) -> Difference:
    """One row minus the other in the last value of a quantity, paired by data set and seed."""
    pairs = []
    for rows in groups.values():
        values = [_by_seed(rows.get(name, []), quantity) for name in (one, other)]
        pairs += [values[0][seed] - values[1][seed] for seed in values[0].keys() & values[1].keys()]
    if len(pairs) < 2:
        return Difference(math.nan, math.nan, 0)
    return Difference(statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs)), len(pairs))


def _by_seed(runs: Iterable[EBMRun], quantity: str) -> dict[int, float]:
    values = {run.config.seed: run.last(quantity) for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def _excess(runs: list[EBMRun]) -> str:
    """By how much the samplers' claimed entropies exceed the exact ones on average, as words; empty if not measured."""
    entropies = [(run.last("claimed_entropy"), run.last("sampler_entropy")) for run in runs]
    gaps = [claimed - exact for claimed, exact in entropies if claimed is not None and exact is not None]
    return f"; claimed minus exact entropy {statistics.fmean(gaps):+.2f} nats" if gaps else ""


def verdict(claim: Order | Diverges, groups: dict[str, Groups]) -> tuple[str, str]:
    """The verdict on a claim, and the numbers that it rests on.

    An order is shown, or refuted, if the energies' log-likelihoods differ by CLEAR standard errors; equality is refuted
    if the row is clearly worse. A divergence is shown if more than half of the runs diverge, refuted if none does.
    """
    if isinstance(claim, Diverges):
        runs = [run for rows in groups.values() for run in rows.get(claim.row, [])]
        count = sum(run.divergence("energy_distance") is not None for run in runs)
        if not runs:
            return "cannot be seen here", "no run"
        word = "shown" if 2 * count > len(runs) else "refuted" if count == 0 else "cannot be seen here"
        return word, f"{count} of {len(runs)} runs diverged{_excess(runs)}"
    measures = {name: difference(groups, claim.better, claim.worse, name) for name in MEASURES}
    gain = measures["energy_log_likelihood"]
    evidence = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in measures.items())
    clear = bool(gain.pairs) and abs(gain.mean) > CLEAR * gain.error
    if clear and gain.mean < 0:
        return "refuted", evidence
    return ("shown" if gain.pairs and (clear or claim.equal) else "cannot be seen here"), evidence
