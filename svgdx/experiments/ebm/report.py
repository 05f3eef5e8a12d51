"""`svgdx report` for runs of `svgdx train ebm`: a table, figures, and the order of the published comparison."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

from svgdx.experiments.ebm import plots
from svgdx.experiments.ebm.runs import EBMRun, Groups, distance_of, grouped
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.report import make_folder, spread, table

# FID on CIFAR-10 of the best iteration, mean of 5 seeds, and the configurations that diverge, read off the plots of
# Messaoud et al., Particles Don't Care About Z, ICML 2026. Values closer than READING count as equal.
PUBLISHED_FID = {"langevin": 34.0, "p-svgd": 114.0, "met-svgd-sigma": 34.0, "met-svgd": 23.0, "met-svgd-lc": 22.9}
PUBLISHED_DIVERGED = ("met-svgd-no-trace", "met-svgd-no-bound", "met-svgd-mh")
READING = 1.0

_EXPLAINED = {
    "feature_distance": "`feature_distance` is the Fréchet distance in the features of a small classifier that is "
    "trained on the same data with a fixed seed. It is not FID and is comparable only within this table.",
    "fid": "FID is measured by torch-fidelity.",
}


def run(paths: list[Path], out: Path) -> int:
    """Writes report.md, figures.png and samples.png into a folder, which is created if necessary. Returns 0.

    Args:
        paths: run folders of one data set, finished or diverged.
        out: the folder.

    Raises:
        UsageError: a folder holds no run, a run has not ended, the runs are of several data sets, or two runs of a
            configuration differ in more than their seeds.
    """
    groups = grouped([EBMRun(path) for path in paths])
    make_folder(out)
    plots.figures(out / "figures.png", groups)
    plots.sample_sheet(out / "samples.png", groups)
    write_atomically(out / "report.md", text(groups).encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}, {out / 'samples.png'}")
    return 0


def text(groups: Groups) -> str:
    """The report as Markdown."""
    distance = distance_of(groups)
    updates = sorted({run.config.steps for seeds in groups.values() for run in seeds})
    first = next(iter(groups.values()))[0].config
    lines = [
        f"# Energy-based models of {first.data}",
        "",
        f"{', '.join(map(str, updates))} updates of {first.batch * first.particles} samples each; mean ± standard "
        "deviation over seeds. Distances are to held-out images; `best` is the smallest over the evaluations of a run. "
        + _EXPLAINED[distance],
        "",
        *_rows(groups, distance),
        "",
        "![Quantities of training](figures.png)",
        "![Samples](samples.png)",
        "",
        "## Compared with the paper",
        "",
        *compared_with_paper(groups, distance),
        "",
        "## Commands",
        "",
        *(f"    {command}" for command in commands(groups)),
    ]
    return "\n".join(lines) + "\n"


def _rows(groups: Groups, distance: str) -> list[str]:
    """The table of configurations."""
    head = ["configuration", "seeds", "diverged at step", f"{distance}, best", "last", "pixel_distance, last"]
    head += ["norm of grad f", "entropy", "steps per chain", "MH rejection", "seconds per run"]
    rows = []
    for name, runs in groups.items():
        digits = {"score_norm": 2, "entropy": 1, "steps": 1, "mh_rejection": 2}
        rows.append([
            name,
            str(len(runs)),
            ", ".join(str(run.diverged[0]) for run in runs if run.diverged) or "none",
            spread([run.best(distance) for run in runs]),
            spread([run.last(distance) for run in runs]),
            spread([run.last("pixel_distance") for run in runs]),
            *(spread([run.last(quantity) for run in runs], count) for quantity, count in digits.items()),
            spread([run.seconds for run in runs], 0),
        ])  # fmt: skip
    return table(head, rows)


def commands(groups: Groups) -> list[str]:
    """The commands that repeat all runs and the report, for a shell."""
    lines, folders = [], []
    for name, runs in groups.items():
        seeds = [str(run.config.seed) for run in runs]
        command = runs[0].config.command(without=("seed", "threads"))
        lines.append(f"for seed in {' '.join(seeds)}; do {command} --seed $seed --out {name}-$seed; done")
        folders += [f"{name}-{seed}" for seed in seeds]
    return [*lines, f"svgdx report {' '.join(folders)} --out report"]


def compared_with_paper(groups: Groups, distance: str) -> list[str]:
    """Lists the pairs of configurations that are in the published order and those that are not, and who diverges."""
    best = {}
    for name in PUBLISHED_FID:
        values = [value for run in groups.get(name, []) if (value := run.best(distance)) is not None]
        if values:
            best[name] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    verdicts: dict[str, list[str]] = {
        "reproduced": [],
        "not reproduced": [],
        "not distinguishable with these seeds": [],
    }
    for pair in itertools.combinations(best, 2):
        better, worse = sorted(pair, key=lambda name: PUBLISHED_FID[name])
        if PUBLISHED_FID[worse] - PUBLISHED_FID[better] >= READING:
            verdict = _verdict(best[better], best[worse])
            verdicts[verdict].append(f"{better} ({best[better][0]:.1f}) before {worse} ({best[worse][0]:.1f})")
    lines = ["Order of the best distances, compared with FID on CIFAR-10 as read off the paper's plots:", ""]
    lines += [f"- {verdict}: {'; '.join(pairs) or 'no pair'}" for verdict, pairs in verdicts.items()]
    for name in PUBLISHED_DIVERGED:
        runs = groups.get(name, [])
        if runs:
            lines.append(
                f"- {name}, which diverges in the paper: of {len(runs)} runs here, {_count(runs, _ended)} ended with "
                f"numbers that are not finite and {_count(runs, _worse)} ended further from the images than they began"
            )
    return lines


def _count(runs: list[EBMRun], holds: Callable[[EBMRun], bool]) -> int:
    return sum(holds(run) for run in runs)


def _ended(run: EBMRun) -> bool:
    return run.diverged is not None


def _worse(run: EBMRun) -> bool:
    distances = run.values("pixel_distance")
    return bool(distances) and distances[-1][1] > distances[0][1]


def _verdict(better: tuple[float, float], worse: tuple[float, float]) -> str:
    """Compares two (mean, standard deviation); they are distinguishable if further apart than both deviations."""
    if abs(better[0] - worse[0]) <= better[1] + worse[1]:
        return "not distinguishable with these seeds"
    return "reproduced" if better[0] < worse[0] else "not reproduced"
