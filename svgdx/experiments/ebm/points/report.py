"""The report on runs of points: log-likelihoods of energies and samplers, and a verdict on each published claim."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from svgdx.experiments.data.points import POINT_SETS, load_points
from svgdx.experiments.ebm.points import plots
from svgdx.experiments.ebm.points.claims import CLAIMS, CLEAR, verdict
from svgdx.experiments.ebm.runs import EBMRun, Groups, folder_name, grouped
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.report import make_folder, spread, table


def write(runs: list[EBMRun], out: Path) -> None:
    """Writes report.md, figures.png and densities.png into a folder, which is created if necessary."""
    groups = {
        data: grouped([run for run in runs if run.config.data == data])
        for data in POINT_SETS
        if any(run.config.data == data for run in runs)
    }
    make_folder(out)
    plots.figures(out / "figures.png", groups)
    plots.densities(out / "densities.png", groups)
    write_atomically(out / "report.md", text(groups).encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}, {out / 'densities.png'}")


def rows_of(groups: dict[str, Groups]) -> list[str]:
    """The names of all rows, in the order of the first data set that has them."""
    return list(dict.fromkeys(name for rows in groups.values() for name in rows))


def text(groups: dict[str, Groups]) -> str:
    """The report as Markdown."""
    first = next(iter(next(iter(groups.values())).values()))[0].config
    lines = [
        "# Energy-based models of points: what the published claims say where it can be measured",
        "",
        f"{first.steps} updates of {first.batch * first.particles} samples each, all at temperature "
        f"{first.temperature:g}; mean ± standard deviation over seeds. In the plane log Z is a sum over a grid, and "
        "for digits in 8 principal components it is by annealed importance sampling. The highest possible "
        "log-likelihood is minus the entropy of the density that the points are drawn from. A value without a "
        "deviation is that of one seed.",
        "",
        "## The claims",
        "",
        "Differences are means over data sets and seeds, paired, ± their standard errors. An order is shown, or "
        f"refuted, if the log-likelihoods of the energies differ by {CLEAR:g} standard errors; a divergence is shown "
        "if more than half of the runs diverge by the rules of the [report on digits](../ebm/report.md), and refuted "
        "if none does.",
        "",
        *table(
            ["claim", "published", "here", "verdict"],
            [[claim.text, claim.published, *reversed(verdict(claim, groups))] for claim in CLAIMS],
        ),
        "",
        "## Log-likelihood of held-out points under the energy, nats",
        "",
        *_by_data(groups, "energy_log_likelihood"),
        "",
        "## Log-likelihood of held-out points under the sampler, nats",
        "",
        "By the exact Jacobians of the way back, averaged over chains; that of `glow` is its own. `langevin` and "
        "`met-svgd-mh` have no density that could be computed.",
        "",
        *_by_data(groups, "sampler_log_likelihood"),
        "",
        "## What the samplers claim",
        "",
        "At the last evaluation, means over data sets and seeds. The exact entropy is that of a particle in the field "
        "of the others; no sampler has more than the bound. `folded` is the share of particles at which a step was not "
        "one to one. `gap of log Z` is importance sampling from the sampler minus the value that the likelihoods use, "
        "and `weights that count` the effective share of its samples.",
        "",
        *_samplers(groups),
        "",
        "![Log-likelihoods below those of the best row](figures.png)",
        "![Densities of the first seed](densities.png)",
        "",
        "## Commands",
        "",
        *(f"    {command}" for command in commands(groups)),
    ]
    return "\n".join(lines) + "\n"


def _by_data(groups: dict[str, Groups], quantity: str) -> list[str]:
    """A quantity of every row on every data set, below the highest possible log-likelihoods."""
    entropies = [load_points(data).entropy for data in groups]
    rows = [["highest possible", *("–" if entropy is None else f"{-entropy:.2f}" for entropy in entropies)]]
    for name in rows_of(groups):
        cells = [spread([run.last(quantity) for run in group.get(name, [])]) for group in groups.values()]
        if any(cell != "–" for cell in cells):
            rows.append([name, *cells])
    return table(["configuration", *groups], rows)


def _samplers(groups: dict[str, Groups]) -> list[str]:
    head = ["configuration", "runs", "diverged", "energy distance, last", "entropy claimed", "exact", "its bound"]
    head += ["folded", "gap of log Z", "weights that count", "steps per chain", "MH rejection", "seconds per run"]
    rows = []
    for name in rows_of(groups):
        runs = [run for group in groups.values() for run in group.get(name, [])]
        signs = [sign[1] for run in runs if (sign := run.divergence("energy_distance"))]
        rules = ", ".join(f"{signs.count(rule)} {rule}" for rule in sorted(set(signs)))
        gaps = [_gap(run) for run in runs]
        means = {
            quantity: [value for run in runs if (value := run.last(quantity)) is not None]
            for quantity in (
                "energy_distance", "claimed_entropy", "sampler_entropy", "entropy_bound", "sampler_folded",
                "importance_size", "steps", "mh_rejection",
            )
        }  # fmt: skip
        cells = {quantity: f"{statistics.fmean(values):.2f}" if values else "–" for quantity, values in means.items()}
        distances = means["energy_distance"]
        rows.append([
            name, str(len(runs)), rules or "none", f"{statistics.fmean(distances):.4f}" if distances else "–",
            cells["claimed_entropy"], cells["sampler_entropy"], cells["entropy_bound"], cells["sampler_folded"],
            spread(gaps), cells["importance_size"], cells["steps"], cells["mh_rejection"],
            f"{statistics.fmean(run.seconds for run in runs):.0f}",
        ])  # fmt: skip
    return table(head, rows)


def _gap(run: EBMRun) -> float | None:
    """log Z by importance sampling from the sampler minus that of the likelihoods."""
    importance, reference = run.last("importance_log_z"), run.last("energy_log_z")
    return None if importance is None or reference is None else importance - reference


def commands(groups: dict[str, Groups]) -> list[str]:
    """The commands that repeat all runs and the report, for bash."""
    lines, folders = [], []
    for name in rows_of(groups):
        # Data sets with the same seeds share a line.
        by_seeds: dict[tuple[str, ...], list[str]] = {}
        for data, rows in groups.items():
            if name in rows:
                by_seeds.setdefault(tuple(str(run.config.seed) for run in rows[name]), []).append(data)
        folder = folder_name(name)
        for seeds, sets in by_seeds.items():
            config = groups[sets[0]][name][0].config
            command = config.command(without=("seed", "threads")).replace(f"--data {sets[0]}", "--data $data")
            loop = f"{command} --seed $seed --out {folder}-$data-$seed"
            lines.append(f"for data in {' '.join(sets)}; do for seed in {' '.join(seeds)}; do {loop}; done; done")
            folders.append(f"{folder}-{_braced(sets)}-{_braced(seeds)}")
    return [*lines, f"svgdx report {' '.join(folders)} --out report"]


def _braced(words: Sequence[str]) -> str:
    """What bash expands to these words."""
    return words[0] if len(words) == 1 else f"{{{','.join(words)}}}"
