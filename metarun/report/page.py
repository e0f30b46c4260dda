"""The page: tables, plots and pictures of runs in one HTML file that needs nothing else."""

import datetime
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from metarun.report.charts import charts
from metarun.report.episodes import episodes
from metarun.report.runs import SavedRun, as_text, groups
from metarun.report.tables import Cell, Table, beside_papers, number, over_seeds, summary, what_differs
from metarun.run.figures import commit_in_words

CLOSELY = 12  # runs that are shown with classes and episodes, too


def closely(run: SavedRun, whole: bool) -> dict[str, Any]:
    """All that is shown of one run; if not the `whole`, no classes and no episodes."""
    classes = (whole and run.classes) or {"classes": {}, "confusions": []}
    worst = sorted(classes["classes"].items(), key=lambda item: (item[1][0] / max(item[1][1], 1), -item[1][1]))
    return {
        "run": run,
        "command": run.part("training").get("command") or f"metarun {shlex.quote(f'run.dir={as_text(run.path)}')}",
        "classes": Table(
            ["class", "accuracy", "queries"],
            [[Cell(n, n), number(100 * r / max(q, 1), "{:.0f} %"), number(q)] for n, (r, q) in worst],
        ),
        "confusions": Table(
            ["class", "taken for", "times"],
            [[Cell(a, a), Cell(b, b), number(n)] for a, b, n in classes["confusions"][:20]],
        ),
        "episodes": episodes(run) if whole else [],
        "made": made_by(run),
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
    drawn = charts(runs, together)
    return environment.get_template("page.html").render(
        runs=runs,
        summary=summary(runs),
        beside_papers=beside_papers(runs),
        over_seeds=over_seeds(together),
        differences=what_differs(runs),
        parts={part: [c for c in drawn if c.part == part] for part in dict.fromkeys(c.part for c in drawn)},
        closely=[closely(run, whole=i < CLOSELY) for i, run in enumerate(runs)],
        whole=CLOSELY,
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
