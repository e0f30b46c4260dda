"""scripts/bench_torch.py keeps what each run measured and makes docs/benchmarks.md of it; README says what it says."""

import json
import re
from pathlib import Path

import bench_torch as script
import pytest
from pages import history
from pages.speed import compare, page
from rivals.settings import SETTINGS

ROOT = Path(__file__).parents[2]
KEPT, PAGE = history.read(ROOT / "docs" / "benchmarks.json"), (ROOT / "docs" / "benchmarks.md").read_text()
TABLES = [part.split("\n", 1) for part in PAGE.split("\n## ")[1:] if "| metarun |" in part]


def rows(table: str) -> dict[str, tuple[float, str]]:
    """Name -> milliseconds, and how many times metarun's as it is printed."""
    found = re.findall(r"^\| (metarun|PyTorch[^|]*) \| ([\d.]+) \| [^|]* \| ([\d.]+) \|", table, re.MULTILINE)
    return {name: (float(ms), times) for name, ms, times in found}


# The page as it stands


def test_the_page_is_what_is_kept_and_nothing_by_hand():
    assert page(KEPT) == PAGE


def test_every_table_of_the_page_is_one_that_the_script_makes():
    titles = {setting.key: setting.title for setting in SETTINGS}
    for run in KEPT:
        assert {key: table["title"] for key, table in run["tables"].items()}.items() <= titles.items()


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_a_reader_of_the_page_who_divides_gets_its_ratios(name, table):
    every = rows(table)
    assert len(every) >= 2
    ours = every["metarun"][0]
    assert [times for _, times in every.values()] == [f"{ms / ours:.2f}" for ms, _ in every.values()]
    gflop, share, peak = map(
        float, re.search(r"([\d.]+) GFLOP a meta-step are done, (\d+)% of the (\d+) GFLOP/s", table).groups()
    )
    assert 100 * gflop / (ours / 1000) / peak == pytest.approx(share, abs=1)


def test_maml_tells_its_share_with_what_is_done_and_with_what_the_target_counts():
    (table,) = [table for name, table in TABLES if name == "MAML, 1 inner step, 32 tasks"]
    ours = rows(table)["metarun"][0]
    found = re.search(r"(\d+) GFLOP/s .*; on the (10\.9) GFLOP of the target, .* it is (\d+)%", table)
    peak, target, share = map(float, found.groups())
    assert 100 * target / (ours / 1000) / peak == pytest.approx(share, abs=1)


def test_readme_says_what_the_page_says():
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(
        r"`torch.func.vmap`'s meta-gradient alone takes ([\d.]+) times as long .* over tasks ([\d.]+) times; "
        r"first-order ([\d.]+) and ([\d.]+), with five inner steps ([\d.]+) and ([\d.]+)",
        readme,
    )
    tables = [rows(table) for _, table in TABLES[:3]]
    ways = ("PyTorch, torch.func.vmap", "PyTorch, loop over tasks")
    assert list(said.groups()) == [f"{table[way][0] / table['metarun'][0]:.1f}" for table in tables for way in ways]


def test_so_does_readme_of_the_gpus():
    kept = history.read(ROOT / "docs" / "benchmarks-gpu.json")
    assert page(kept) == (ROOT / "docs" / "benchmarks-gpu.md").read_text()
    table = history.newest(kept, "maml")["tables"]["maml"]["rows"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(r"MAML takes ([\d.]+) ms, `torch.func.vmap` (\d+) times and the loop (\d+) times as long", readme)
    ways = (table[f"PyTorch, {way}"]["times"] for way in ("torch.func.vmap", "loop over tasks"))
    assert list(said.groups()) == [str(table["metarun"]["ms"]), *(f"{times:.0f}" for times in ways)]


# What the script makes of times


def test_the_ratio_is_that_of_the_medians_as_printed_and_its_spread_that_of_the_rounds():
    rounds = {"metarun": [0.1, 0.2004, 0.3], "other": [0.4, 0.3, 0.9]}  # of the rounds' ratios the median is 3
    found = compare(rounds)
    assert found["metarun"] == {"ms": 200, "ms_half": [150, 250], "times": 1, "times_half": [1, 1]}
    assert found["other"] == {"ms": 400, "ms_half": [350, 650], "times": 2, "times_half": [2.25, 3.5]}


CPU = {"cpu": "A", "cores": 2}


GPU = CPU | {"gpu": "NVIDIA H100"}


def run(day: int, *, machine: dict = CPU, changed: bool = False, **tables: dict) -> history.Entry:
    return {
        "commit": {"id": f"{day:08}" + 32 * "0", "changed": changed},
        "date": f"2026-01-{day:02}",
        "machine": machine,
        "versions": {"jax": "1", "torch": "2+cpu"},
        "tables": tables,
    }


def table(ms: float, times: float = 2.0, half: float | None = 0.01, **more: object) -> history.Entry:
    """One in which the middle halves reach by so much to either side."""

    def row(ms: float, times: float) -> dict:
        ends = [None, None] if half is None else [[x * (1 - half), x * (1 + half)] for x in (ms, times)]
        return {"ms": ms, "ms_half": ends[0], "times": times, "times_half": ends[1]}

    every = {"metarun": row(ms, 1.0), "PyTorch, slow": row(9 * ms, 9.0), "PyTorch, fast": row(times * ms, times)}
    how = {"rounds": 8, "agree": True, "others": 0.01, "task_chunk": 1, "gflop": 10.0, "target_gflop": None}
    return {"title": "T", "product_gflop_per_s": 200.0, **how, "rows": every} | more


def lines(runs: list[history.Entry], keys: list[str], times: bool = False) -> list[list[str]]:
    """The cells of the table by commit, without its head."""
    figure = history.beside_torch if times else history.ours
    return [line.strip("| ").split(" | ") for line in history.by_commit(runs, keys, figure, times)[2:]]


def test_by_commit_the_newest_comes_first_with_the_change_against_the_one_before():
    runs = [run(1, a=table(100)), run(2, a=table(103), changed=True), run(3, a=table(51.5))]
    assert lines(runs, ["a"]) == [
        ["00000003", "2026-01-03", "51.5 (−50 %)", "1, 2", "2 cores of A"],
        ["00000002 and changes", "2026-01-02", "103 (+3 %)", "1, 2", "2 cores of A"],
        ["00000001", "2026-01-01", "100", "1, 2", "2 cores of A"],
    ]
    assert [cells[2] for cells in lines(runs, ["a"], times=True)] == ["2 (+0 %)", "2 (+0 %)", "2"]


@pytest.mark.parametrize(
    ("before", "after", "bold"),
    [
        (table(100), table(110), True),
        (table(100), table(104), False),  # no more than a twentieth
        (table(100), table(90), False),  # a gain
        (table(100, half=0.06), table(110, half=0.06), False),  # within what the rounds of both vary
        (table(100, half=None), table(110), True),  # as far as is known
    ],
)
def test_a_loss_is_bold_where_it_is_clear(before, after, bold):
    assert ("**" in lines([run(1, a=before), run(2, a=after)], ["a"])[0][2]) == bold


@pytest.mark.parametrize(("before", "after", "bold"), [(2.0, 1.8, True), (2.0, 1.95, False), (2.0, 2.5, False)])
def test_beside_pytorch_less_is_a_loss(before, after, bold):
    runs = [run(1, a=table(100, before)), run(2, a=table(100, after))]
    assert ("**" in lines(runs, ["a"], times=True)[0][2]) == bold
    assert "**" not in lines(runs, ["a"])[0][2]


def test_what_was_not_measured_is_empty_and_another_machine_is_no_one_before():
    other = {"cpu": "B", "cores": 8}
    runs = [run(1, a=table(100)), run(2, b=table(7)), run(3, machine=other, a=table(10)), run(4, a=table(101))]
    assert [cells[2:4] for cells in lines(runs, ["a", "b"])] == [
        ["101 (+1 %)", ""], ["10", ""], ["", "7"], ["100", ""],
    ]  # fmt: skip


def test_a_table_stays_on_the_page_until_it_is_measured_again_and_says_of_when_it_is():
    runs = [
        run(1, a=table(100, title="A"), b=table(50, title="B")) | {"note": "Noted."},
        run(2, b=table(55, title="B")),
    ]
    parts = {part.split("\n")[0]: part for part in page(runs).split("\n## ")}
    assert "Measured on 2026-01-01, from commit 00000001. Noted." in parts["A"]
    assert "| metarun | 100 | 99 to 101 | 1.00 |  |" in parts["A"]
    assert "Measured on" not in parts["B"]
    assert "| metarun | 55 |" in parts["B"]
    assert list(parts)[1:] == ["A", "B", "By commit"]
    assert "Noted." in page(runs[:1]).split("\n## ")[0]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "8 rounds, which agree; others took 1% of the cores."),
        ({"agree": False}, "8 rounds, which do not agree within 3%; others took 1% of the cores."),
        ({"others": 0.4}, "8 rounds, which agree; **the machine was busy, others took 40% of the cores**."),
        ({"agree": None, "others": None}, "8 rounds; what others took of the cores is not known."),
    ],
)
def test_the_page_says_how_a_table_was_made(how, says):
    assert says in page([run(1, a=table(100, **how))])


# The script, with tables made up


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Its command line, writing in a directory of its own; the tables that it measures are counted."""
    monkeypatch.setattr(script, "PAGES", {name: tmp_path / f"{name}.md" for name in script.PAGES})
    monkeypatch.setattr(script.machine, "look", lambda seconds: 0.0)
    count = iter(range(1, 10))
    monkeypatch.setattr(script, "begun", lambda hardware: run(next(count), machine=CPU if hardware == "cpu" else GPU))
    measured = []

    def measure(setting, most, hardware):
        measured.append((setting.key, most))
        if setting.key == "lstm":
            raise AssertionError("PyTorch: not the same")
        return table(100, title=setting.title)

    monkeypatch.setattr(script, "table", measure)

    def call(*words: str) -> list[tuple[str, int]]:
        measured.clear()
        script.main(list(words))
        return measured

    call.measured, call.directory = measured, tmp_path
    return call


def test_some_rows_are_added_to_what_is_kept_and_the_page_is_made_anew(bench):
    assert bench("--rows", "mann,protonet") == [("protonet", 30), ("mann", 30)]
    bench("--rows", "maml", "--rounds", "9")
    assert bench.measured == [("maml", 9)]
    kept = history.read(bench.directory / "cpu.json")
    assert [list(each["tables"]) for each in kept] == [["protonet", "mann"], ["maml"]]
    assert (bench.directory / "cpu.md").read_text() == page(kept)


def test_what_a_gpu_measures_has_a_page_of_its_own(bench):
    bench("--rows", "maml")
    bench("--hardware", "gpu", "--rows", "mann,growth")  # how it grows is measured on the CPU alone
    text = (bench.directory / "gpu.md").read_text()
    assert text.startswith("# Speed beside PyTorch, on a GPU\n\n`python scripts/bench_torch.py --hardware gpu` was run")
    assert "on one NVIDIA H100 beside " in text
    assert "## MAML" not in text
    assert [list(each["tables"]) for each in history.read(bench.directory / "cpu.json")] == [["maml"]]


def test_a_run_that_ends_early_leaves_what_it_has_measured(bench):
    bench("--rows", "maml")
    with pytest.raises(AssertionError, match="not the same"):
        bench("--rows", "mann,lstm,attention")
    assert [list(each["tables"]) for each in history.read(bench.directory / "cpu.json")] == [["maml"], ["mann"]]
    assert "MANN" in (bench.directory / "cpu.md").read_text()


def test_a_quick_look_writes_nothing(bench, monkeypatch, capsys):
    monkeypatch.setattr(script.machine, "look", lambda seconds: 0.9)
    assert bench("--quick", "--rows", "mann") == [("mann", 2)]
    assert list(bench.directory.iterdir()) == []
    assert "## MANN" in capsys.readouterr().out


def test_a_busy_machine_is_refused_unless_one_insists(bench, monkeypatch):
    monkeypatch.setattr(script.machine, "look", lambda seconds: 0.3)
    with pytest.raises(SystemExit, match="the machine is busy: others took 30% of the cores; wait until it is idle"):
        bench("--rows", "mann")
    assert bench.measured == []
    assert bench("--busy", "--rows", "mann") == [("mann", 30)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rows", "mann,nosuch"), "--rows nosuch: no such row; allowed: maml, fomaml,"),
        (("--rounds", "0"), "at least 1"),
    ],
)
def test_what_the_script_is_not_asked_rightly_it_refuses(bench, capsys, words, says):
    with pytest.raises(SystemExit):
        bench(*words)
    assert says in capsys.readouterr().err
    assert bench.measured == []


def test_rounds_are_made_in_turn_until_they_agree(monkeypatch):
    """A setting's table with sides made up: metarun's time doubles half way, and PyTorch's with it."""
    order = []

    def timer(name, seconds):
        times = iter(seconds)

        def call():
            order.append(name)
            return next(times)

        return call

    class Ours:
        seconds, mesh, task_chunk, gflop = staticmethod(timer("metarun", [0.1, 0.1, 0.1, 0.2, 0.2, 0.2])), None, 4, 3.0

    setting = SETTINGS[0]
    monkeypatch.setattr(type(setting), "rival", property(lambda self: None))
    monkeypatch.setattr(script, "run_of", lambda *_, **__: None)
    monkeypatch.setattr(script, "must_be_the_same", lambda *_: None)
    monkeypatch.setattr(script, "metarun", lambda _: Ours)
    monkeypatch.setattr(script, "theirs", lambda *_: {"PyTorch": timer("PyTorch", [0.3, 0.3, 0.3, 0.6, 0.6, 0.6])})
    monkeypatch.setattr(script, "matrix_product", lambda *_: order.append("product") or 100.0)
    monkeypatch.setattr(script.machine, "taken_by_others", lambda *_: 0.02)
    found = script.table(setting, 30, "cpu")
    assert order == ["product", "metarun", "PyTorch"] * 6
    assert (found["rounds"], found["agree"], found["others"], found["product_gflop_per_s"]) == (6, True, 0.02, 100)
    assert found["rows"]["PyTorch"]["times_half"] == [3, 3]
    assert json.loads(json.dumps(found)) == found
