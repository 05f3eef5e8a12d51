"""`svgdx report` for runs of `svgdx train rl`: a table and figures for each environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svgdx.experiments.metrics.returns import RESAMPLES, interval, iqm
from svgdx.experiments.rl import plots
from svgdx.experiments.rl.groups import Group, RLRun, final_step, grouped
from svgdx.experiments.rl.models import command
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.report import make_folder, spread, table

INTRODUCTION = f"""The score of a run is the mean return of an evaluation with the actions used for testing \
(`--eval-episodes`). IQM is the interquartile mean of the scores over seeds, which for fewer than four seeds is their \
mean; brackets hold its 95 % percentile interval from {RESAMPLES:,} stratified bootstrap resamples of the seeds \
(Agarwal et al., NeurIPS 2021). A run that diverged keeps the score of its last evaluation. The other columns are mean \
± standard deviation over seeds of the last logged value. Steps per second count steps of the environment since the \
first update and leave out evaluations. The target is the density that SVGD moves the particles to, and the norm is \
that of its score: `max-entropy` is exp(Q/α) of the action, `s2ac` has the gradient of Q alone, without α and tanh."""


def run(paths: list[Path], out: Path) -> int:
    """Writes report.md and figures.png into a folder, which is created if it does not exist.

    Runs without an evaluation are left out, with a message.

    Raises:
        UsageError: no run has an evaluation, or two seeds of one algorithm differ in another setting.
    """
    runs = [RLRun(path) for path in paths]
    evaluated = [run for run in runs if run.returns]
    for run in runs:
        if not run.returns:
            print(f"{run.path}: left out, because it has no evaluation yet", file=sys.stderr)
    if not evaluated:
        raise UsageError("no run has an evaluation yet")
    environments = grouped(evaluated)
    report = text(environments)
    make_folder(out)
    plots.figures(out / "figures.png", environments)
    write_atomically(out / "report.md", report.encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}")
    return 0


def text(environments: dict[str, list[Group]]) -> str:
    """The report as Markdown."""
    lines = ["# Maximum-entropy reinforcement learning", "", INTRODUCTION, ""]
    lines.append("![Returns, final IQM, norm of the score, steps per second](figures.png)")
    for name, groups in environments.items():
        lines += ["", f"## {name}", "", *_section(groups)]
    lines += ["", "## Commands", "", *(f"    {line}" for line in commands(environments))]
    return "\n".join(lines) + "\n"


def commands(environments: dict[str, list[Group]]) -> list[str]:
    """The commands that repeat all runs, their evaluations and the report, for a shell."""
    lines, folders, evaluated = [], [], []
    for name, groups in environments.items():
        for group in groups:
            seeds = [str(run.config.seed) for run in group.runs]
            folder = re.sub(r"[^a-z0-9]+", "-", f"{name} {group.name}".lower())
            lines.append(f"{command(group.runs[0].config)} --seeds {','.join(seeds)} --out {folder}")
            folders.append(folder)
            if group.shares() is not None:
                evaluated += [f"{folder}/seed-{seed}" for seed in seeds]
    if evaluated:
        lines.append(f"for run in {' '.join(evaluated)}; do svgdx eval rl $run; done")
    return [*lines, f"svgdx report {' '.join(folders)} --out report"]


def _section(groups: list[Group]) -> list[str]:
    last = final_step(groups)
    head = ["algorithm", "target", "seeds", "diverged at step", f"IQM at step {last:,}", "mean"]
    head += ["norm of the score", "entropy", "MH rejection", "steps/s"]
    rows = []
    for group in groups:
        scores = group.scores(last)
        diverged = ", ".join(str(run.diverged[0]) for run in group.runs if run.diverged) or "none"
        cells = [group.name, group.runs[0].config.target or "–", str(len(group.runs)), diverged]
        cells += [with_interval(scores), spread(list(scores[:, 0]), 1)]
        cells += [spread([run.last(name) for run in group.runs]) for name in ("score_norm", "entropy", "mh_rejection")]
        rows.append([*cells, spread([run.speed for run in group.runs], 1)])
    return [*table(head, rows), *_goals(groups)]


def with_interval(scores: NDArray[np.float64]) -> str:
    """The IQM of scores (runs, tasks) and its interval."""
    bounds = interval(scores)
    return f"{iqm(scores):.1f} " + ("(one seed)" if bounds is None else f"[{bounds[0]:.1f}, {bounds[1]:.1f}]")


def _goals(groups: list[Group]) -> list[str]:
    """The table of goal shares, if the environment has goals."""
    if groups[0].runs[0].config.goals is None:
        return []
    missing = [str(run.path) for group in groups for run in group.runs if (run.evaluation or {}).get("goals") is None]
    if missing:
        return ["", f"There are no shares of goals: `svgdx eval rl` has not been run on {', '.join(missing)}."]
    rows, count = [], 0
    for group in groups:
        shares = group.shares()
        assert shares is not None
        count = shares.shape[1]
        cells = [spread(list(100 * shares[:, goal]), 1) for goal in range(count)]
        rows.append([group.name, *cells, spread(list(100 - 100 * shares.sum(1)), 1), f"{100 * shares.min():.1f}"])
    rollouts = sorted({_rollouts(run) for group in groups for run in group.runs})
    head = ["algorithm", *(f"goal {goal + 1}" for goal in range(count)), "none", "lowest of all seeds"]
    title = f"Percentage of rollouts that reach each goal, over seeds; {'; '.join(rollouts)}:"
    return ["", title, "", *table(head, rows)]


def _rollouts(run: RLRun) -> str:
    assert run.evaluation is not None
    settings = run.evaluation["settings"]
    return f"{settings['episodes']} rollouts with {settings['actions']} actions after {run.evaluation['step']:,} steps"
