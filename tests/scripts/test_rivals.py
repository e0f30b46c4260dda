"""The implementations in PyTorch that metarun is measured beside compute what its learners do, to five digits.

Skipped without PyTorch (the extra `bench`); scripts/bench_torch.py checks the same at their full size before it times.
"""

import pytest
from rivals.settings import SETTINGS, run_of

pytest.importorskip("torch")
pytest.importorskip("higher")

from growth import Noise
from rivals.same import must_be_the_same

SMALL = {  # a few steps say as much as many
    "maml_5": ["learner.inner_steps=2"],
    "mamlpp": ["learner.inner_steps=2"],
    "imaml": ["learner.inner_steps=2", "learner.cg_steps=3"],
    "reptile": ["learner.inner_steps=3", "learner.inner_batch=4"],
    "mann": ["learner.units=12", "learner.memory=[9,5]"],
    "lstm": ["learner.units=12"],
    "attention": ["learner.units=16", "learner.blocks=2"],
}
EXAMPLES = {"reptile": Noise(12, shots=3), "mann": Noise(12, queries=4), "lstm": Noise(12, queries=4)}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_rival_computes_what_metarun_does(setting):
    tasks = EXAMPLES.get(setting.key, Noise(12, shots=2, queries=3))
    run = run_of(*setting.overrides, "model.filters=6", *SMALL.get(setting.key, []), tasks=tasks)
    must_be_the_same(setting.rival, run)


def test_the_rival_on_navigation_has_metaruns_gradient_and_curvature():
    import bench_navigation

    small = ["task.shots=4", "task.horizon=9", "model.hidden=[7,5]"]
    bench_navigation.must_be_the_same(bench_navigation.run_of(*small))
