"""scripts/ablate_sequences.py departs in one setting at a time, and its page says what came of each."""

import json

import ablate_sequences as script
import pytest
from support import composed

from metarun.config.conf import flat


@pytest.mark.parametrize("name", script.PARTS)
def test_a_row_departs_from_the_first_in_what_it_says(name):
    part = script.PARTS[name]
    base = flat(composed(*part.common))
    assert part.departures[0] == ()
    for departure in part.departures[1:]:
        words = [word for setting in departure for word in setting.split()]
        here = flat(composed(*part.common, *words))
        assert {key for key in here if here[key] != base[key]} == {word.split("=")[0] for word in words}


@pytest.mark.parametrize("name", script.PARTS)
def test_each_row_has_a_directory_of_its_own_that_the_command_line_reads(name, tmp_path):
    folders = [str(script.folder_of(tmp_path, name, departure)) for departure in script.PARTS[name].departures]
    assert len(set(folders)) == len(folders)
    assert [composed(f"run.dir={folder}")["run"]["dir"] for folder in folders] == folders


def test_the_page_has_a_row_for_each_finished_run(tmp_path):
    def finish(departure, share):
        folder = script.folder_of(tmp_path, "lstm_conv", departure)
        folder.mkdir(parents=True)
        figures = {f"accuracy_instance_{k}": {"mean": share + int(k) / 100} for k in script.INSTANCES}
        found = {
            "test": figures,
            "commit": {"id": "0123456789", "changed": False},
            "machine": {"device": "cpu"},
            "date": "2026-11-26T01:00:00",
        }
        (folder / "results.json").write_text(json.dumps(found))

    finish((), 0.5)
    finish(("learner.forget_bias=0",), 0.25)
    lines = script.page(tmp_path).splitlines()
    assert lines[0].startswith("### LSTM behind four convolutions")
    assert lines[2] == "| departure | instance 1 | instance 2 | instance 3 | instance 5 | instance 10 |"
    assert lines[4:6] == [
        "| as it is | 51.0 | 52.0 | 53.0 | 55.0 | 60.0 |",
        "| `learner.forget_bias=0` | 26.0 | 27.0 | 28.0 | 30.0 | 35.0 |",
    ]
    assert lines[-1].endswith("one seed; 01234567, cpu, 2026-11-26")
