"""scripts/ablate_trials.py departs in what its rows say, and its page tells what came of each."""

import json

import ablate_trials as script
import pytest
from support import composed

from metarun.config.conf import flat


@pytest.mark.parametrize("part", script.PARTS)
def test_a_row_departs_from_the_first_in_what_it_says(part):
    common, departures = script.PARTS[part]
    base = flat(composed(*common))
    assert departures[0] == ""
    for departure in departures:
        here = flat(composed(*common, *departure.split()))
        changed = {key for key in {*here, *base} if here.get(key) != base.get(key)}
        groups = ("optimizer=", "learner=")  # such a word brings its group's settings with it
        said = [word.split("=")[0] + ("." if word.startswith(groups) else "") for word in departure.split()]
        assert all(any(key.startswith(word) for word in said) for key in changed)
        assert all(any(key.startswith(word) for key in changed) for word in said)


def test_each_row_has_a_directory_of_its_own_that_the_command_line_reads(tmp_path):
    every = [(part, departure) for part, (_, departures) in script.PARTS.items() for departure in departures]
    folders = [str(script.folder_of(tmp_path, *one)) for one in every]
    assert len(set(folders)) == len(folders)
    assert [composed(f"run.dir={folder}")["run"]["dir"] for folder in folders] == folders


def test_the_page_has_a_row_for_each_finished_run_and_keeps_a_table_without_one(tmp_path, monkeypatch):
    for departure, mean in {"": 76.54, "optimizer.epochs=8": 77.25}.items():
        folder = script.folder_of(tmp_path, "trials", departure)
        folder.mkdir(parents=True)
        found = {
            "test": {"return": {"mean": mean, "ci95": 0.61}},
            "speed": {"minutes": 0.84},
            "commit": {"id": "0123456789", "changed": False},
            "machine": {"devices": 2, "device": "cpu"},
            "date": "2026-11-27T01:00:00",
        }
        (folder / "results.json").write_text(json.dumps(found))
    lines = script.page(tmp_path, "trials").splitlines()
    assert lines[0] == "| departure | return | minutes |"
    assert lines[2:4] == ["| as it is | 76.5 ± 0.6 | 0.8 |", "| `optimizer.epochs=8` | 77.2 ± 0.6 | 0.8 |"]
    assert lines[-1].endswith("one seed; 01234567, 2 cpu devices, 2026-11-27")

    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {part}: begin -->\nas before\n<!-- {part}: end -->\n" for part in script.PARTS))
    monkeypatch.setattr(script, "PAGE", page)
    script.write(tmp_path)
    assert page.read_text().count("as before") == 1
    assert lines[2] in page.read_text()
