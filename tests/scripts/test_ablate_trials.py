"""scripts/ablate_trials.py departs in what its rows say, and its page tells what came of each."""

import json

import ablate_trials as script
from support import composed

from metarun.config.conf import flat


def test_a_row_departs_from_the_first_in_what_it_says():
    base = flat(composed(*script.COMMON))
    for departure in script.DEPARTURES:
        here = flat(composed(*script.COMMON, *departure.split()))
        changed = {key for key in {*here, *base} if here.get(key) != base.get(key)}
        groups = ("optimizer=", "learner=")  # such a word brings its group's settings with it
        said = [word.split("=")[0] + ("." if word.startswith(groups) else "") for word in departure.split()]
        assert all(any(key.startswith(word) for word in said) for key in changed)
        assert all(any(key.startswith(word) for key in changed) for word in said)


def test_each_row_has_a_directory_of_its_own_that_the_command_line_reads(tmp_path):
    folders = [str(script.folder_of(tmp_path, departure)) for departure in script.DEPARTURES]
    assert len(set(folders)) == len(folders)
    assert [composed(f"run.dir={folder}")["run"]["dir"] for folder in folders] == folders


def test_the_page_has_a_row_for_each_finished_run(tmp_path):
    assert script.page(tmp_path) == "No row has run yet."
    for departure, mean in {"": 76.54, "optimizer.epochs=8": 77.25}.items():
        folder = script.folder_of(tmp_path, departure)
        folder.mkdir(parents=True)
        found = {
            "test": {"return": {"mean": mean, "ci95": 0.61}},
            "speed": {"minutes": 0.84},
            "commit": {"id": "0123456789", "changed": False},
            "machine": {"devices": 2, "device": "cpu"},
            "date": "2026-11-27T01:00:00",
        }
        (folder / "results.json").write_text(json.dumps(found))
    lines = script.page(tmp_path).splitlines()
    assert lines[0] == "| departure | return | minutes |"
    assert lines[2:4] == ["| as it is | 76.5 ± 0.6 | 0.8 |", "| `optimizer.epochs=8` | 77.2 ± 0.6 | 0.8 |"]
    assert lines[-1].endswith("one seed; 01234567, 2 cpu devices, 2026-11-27")
