"""Answers to queries in tables for a terminal."""

from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarun.data import Own
from metarun.learned.answered import Answers, Classified, Regressed
from metarun.text import one_line

MOST_ROWS = 30  # queries; all of them are in the files
MOST_CLASSES = 12  # of a confusion table; with more, what was taken for what most often
WIDEST = 60  # characters of a query


def tell(console: Console, query: Own, answers: Answers, curve: dict[int, Answers]) -> None:
    """What each query was taken for and, where it is known what they are, how well that is."""
    if isinstance(answers, Classified):
        console.print(of_classes(query, answers))
        more(console, len(answers.names))
        if answers.accuracy is not None:
            pairs = answers.pairs
            right = sum(label == predicted for label, predicted in pairs)
            console.print(f"accuracy {answers.accuracy:.2%}: {right:,} of {len(pairs):,}")
            if right < len(pairs):
                console.print(confusion(answers) if len(answers.classes) <= MOST_CLASSES else confused(answers))
    else:
        console.print(of_targets(query, answers))
        more(console, len(answers.names))
        if answers.mse is not None:
            each = zip(answers.targets, answers.errors, strict=True)
            by_target = ", ".join(f"{name} {error:.4g}" for name, error in each if error is not None)
            console.print(
                f"mse {answers.mse:.4g}{f' ({by_target})' if len(answers.targets) > 1 else ''}, in the data's units"
            )
    if told := in_steps(curve):
        console.print(told)


def more(console: Console, n: int) -> None:
    if n > MOST_ROWS:
        console.print(f"and {n - MOST_ROWS:,} more; --json and --csv have all")


def cell(text: Any, style: str = "") -> Text:
    """What people gave, as it is: nothing of it is markup."""
    text = one_line(text)
    return Text(text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}...", style)


def called(query: Own, i: int) -> str:
    """A query as people know it: its text, the end of its path, or its row."""
    if query.texts is not None:
        return query.texts[i]
    name = query.names[i]
    return f"row {name}" if isinstance(name, int) else name if len(name) <= WIDEST else f"...{name[3 - WIDEST :]}"


def of_classes(query: Own, answers: Classified) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("query")
    if answers.labels:
        table.add_column("class")
    for head, justify in (("predicted", "left"), ("probability", "right"), ("runner-up", "left"), ("", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for i, p in enumerate(answers.probabilities[:MOST_ROWS]):
        first, second = (-p).argsort(kind="stable")[:2]
        label = answers.labels[i] if answers.labels else None
        wrong = label is not None and label != answers.classes[first]
        table.add_row(
            cell(called(query, i)),
            *([cell(label or "")] if answers.labels else []),
            cell(answers.classes[first], "red" if wrong else ""),
            f"{p[first]:.1%}",
            cell(answers.classes[second]),
            f"{p[second]:.1%}",
        )
    return table


def confusion(answers: Classified) -> Table:
    """A row a class, a column what it was taken for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class, taken for")
    for name in answers.classes:
        table.add_column(cell(name), justify="right")
    for name, row in zip(answers.classes, answers.confusion, strict=True):
        table.add_row(cell(name), *(str(n) if n else "" for n in row))
    return table


def confused(answers: Classified) -> str:
    """The classes that were most often taken for others, in a line."""
    wrong = Counter((label, predicted) for label, predicted in answers.pairs if label != predicted)
    return one_line("most often: " + ", ".join(f"{label} for {one} ({n})" for (label, one), n in wrong.most_common(5)))


def of_targets(query: Own, answers: Regressed) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    head, rows = answers.rows()
    table.add_column("query")
    for name in head[1:]:
        table.add_column(cell(name), justify="right")
    for i, row in enumerate(rows[:MOST_ROWS]):
        table.add_row(cell(called(query, i)), *("" if value == "" else f"{value:.5g}" for value in row[1:]))
    return table


def in_steps(curve: dict[int, Answers]) -> str:
    """How good the answers are after so many inner steps: a line, or nothing where that is not known."""
    figures = []
    for steps, answers in curve.items():
        if isinstance(answers, Classified) and answers.accuracy is not None:
            figures.append(f"{steps}: {answers.accuracy:.2%}")
        elif isinstance(answers, Regressed) and answers.mse is not None:
            figures.append(f"{steps}: {answers.mse:.4g}")
    kind = "accuracy" if any(isinstance(answers, Classified) for answers in curve.values()) else "mse"
    return f"{kind} by inner steps  {', '.join(figures)}" if figures else ""
