"""docs/reinforcement.md: the environment that it shows works as it stands there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml

PAGE = (Path(__file__).parents[1] / "docs" / "reinforcement.md").read_text()


def test_the_environment_of_the_page_keeps_its_rules(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "doors.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("METARUN_ALLOW", "doors")
    from metarun.config.build import build
    from metarun.core import Collecting, Tasks, memoryless

    tasks = build("task", yaml.safe_load(settings)["task"], kind=Tasks)
    assert isinstance(tasks, Collecting)
    source = jax.jit(lambda key: tasks.sample((), key))(jax.random.key(0)).support
    goal = int(source.y[0])

    def act(x):
        """Opens the first door that was not opened yet."""
        return jnp.where(x == 0, -100.0 * jnp.arange(5)[None], -1e4)

    x, y = jax.jit(lambda key: tasks.collect(source, memoryless(act), key))(jax.random.key(1))
    np.testing.assert_array_equal(y.action.reshape(20, 10)[:, : goal + 1], np.tile(np.arange(goal + 1), (20, 1)))
    np.testing.assert_array_equal(y.valid.reshape(20, 10).sum(1), goal + 1)
    np.testing.assert_allclose(jax.jit(tasks.loss)(y.outputs, y)[1]["return"], 1 - 0.1 * goal, rtol=1e-5)
    np.testing.assert_array_equal(x.reshape(20, 10, 5)[:, 0], 0)
