"""The page: tables, plots and pictures of runs in one HTML file that needs nothing else."""

import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from metarun.config import going_on
from metarun.report import tables
from metarun.report.charts import bars, charts
from metarun.report.episodes import episodes
from metarun.report.experiments import groups
from metarun.report.paths import as_text
from metarun.report.plots import COLOURS
from metarun.report.runs import SavedRun
from metarun.report.searched import searched
from metarun.report.shares import shares
from metarun.run.figures import commit_in_words

CLOSELY = 12  # runs that are shown with classes and episodes, too


def closely(run: SavedRun, whole: bool) -> dict[str, Any]:
    """All that is shown of one run; if not the `whole`, no classes and no episodes."""
    classes = (whole and run.classes) or {"classes": {}, "confusions": []}
    return {
        "run": run,
        "command": run.part("training").get("command") or going_on(as_text(run.path)),
        "classes": tables.by_class(classes["classes"]),
        "confusions": tables.confused(classes["confusions"]),
        "episodes": episodes(run) if whole else [],
        "made": made_by(run),
        "kept": of_it.without({"run"}) if (of_it := tables.kept([run])) else None,
    }


def made_by(run: SavedRun) -> str:
    if run.results is None:
        return ""
    machine, commit = run.part("machine"), run.results.get("commit")
    on = [f"{machine['devices']} {machine['device']} device(s), {machine['system']}"] if machine else []
    jax = [f"jax {run.part('versions')['jax']}"] if "jax" in run.part("versions") else []
    by = f"{'commit ' if commit else ''}{commit_in_words(commit)}"
    return ", ".join([*on, *jax, by, run.results.get("date", "no date")])


def html(runs: list[SavedRun]) -> str:
    """The whole page. Whatever comes from runs is escaped; only the plots are put in as they are."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    together = groups(runs)
    drawn = [*searched(runs), *charts(together), *shares(runs)]
    whole, costs = tables.summary(runs), bars(runs)
    alike = tables.alike(whole)
    return environment.get_template("page.html").render(
        runs=runs,
        summary=whole.without(set(alike)),
        alike=alike,
        lesser=tables.LESSER,
        beside_papers=tables.beside_papers(runs),
        elsewhere=tables.elsewhere(runs),
        tails=tables.tails(runs),
        by_group=tables.by_group(runs),
        over_seeds=tables.over_seeds(together),
        differences=tables.what_differs(runs),
        parts={part: [c for c in drawn if c.part == part] for part in dict.fromkeys(c.part for c in drawn)},
        costs=costs,
        colours=len(COLOURS),
        closely=[closely(run, whole=i < CLOSELY) for i, run in enumerate(runs)],
        whole=CLOSELY,
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
