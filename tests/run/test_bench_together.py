"""What `metarun bench train.seeds=8` says of runs in one program beside one alone."""

import json

import pytest
from support import on_blobs

from metarun.config.run import build_run
from metarun.run import bench_together
from metarun.run.bench_together import Taken, Way


def test_the_gain_is_what_is_done_in_the_same_time(monkeypatch):
    asked: dict[str, list[int]] = {"alone": [], "together": []}
    slow = iter([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # of one round of seven, something else had the machine

    class Fake(Way):
        def timed(self, n: int) -> Taken:
            asked[self.make].append(n)
            if self.make == "alone":
                return Taken(0.01, 0.02)
            factor = next(slow)
            return Taken(0.04 * factor, 0.05 * factor)

    monkeypatch.setattr(bench_together, "way", lambda run, members: Fake("together" if members else "alone", 1, 2))
    found = bench_together.bench(build_run(on_blobs()), 8)
    assert found["times_one_alone"] == pytest.approx(4.0)
    assert found["gain"] == pytest.approx(2.0)
    assert found["gain_in_processor_time"] == pytest.approx(8 / 2.5)
    assert (found["seconds_alone"], found["seconds_together"]) == (0.01, 0.04)
    # 0.3 s in each round: 30 meta-steps of one, and of eight as many as one would take eight times as long for.
    assert asked == {"alone": [1, 1, 1, *[30] * 7], "together": [3] * 7}


def test_the_command_counts_the_runs_of_a_grid(ended):
    words = ("bench", "task=sinusoid", "model.hidden=[8]", "train.meta_batch=4", "hardware.task_chunk=2", "logger=none")
    grid = ("train.seeds=[3,5]", "train.population=learner.inner_lr=0.01,0.02,0.03")
    found = json.loads(ended(*words, *grid).out)
    assert found["runs"] == 6
    assert found["gain"] == pytest.approx(6 / found["times_one_alone"])
    refused = ended(*words, "train.seeds=2", "--trace", "there")
    assert refused.code == 2
    assert "--trace" in refused.err
    assert "is of one run" in refused.err
