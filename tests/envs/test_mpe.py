"""Our MPE steps are mpe2's own steps."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs.mpe import make_mpe

TASKS = {
    "simple_spread_v3": {"N": 3, "max_cycles": 6, "local_ratio": 0.5},
    "simple_reference_v3": {"max_cycles": 6},
    "simple_speaker_listener_v4": {"max_cycles": 6},
}


@pytest.mark.parametrize("continuous_actions", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_the_numbers_are_those_of_mpe2s_parallel_env(task: str, continuous_actions: bool) -> None:
    options: dict[str, Any] = {**TASKS[task], "continuous_actions": continuous_actions}
    ours = make_mpe(task, **options)
    theirs = importlib.import_module(f"mpe2.{task}").parallel_env(**options)
    rng = np.random.default_rng(0)
    for seed in (3, None):
        _assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
        while theirs.agents:
            actions = {}
            for agent in theirs.agents:
                space = theirs.action_space(agent)
                low_and_high = (-0.1, 1.1)  # mpe2 clips what is out of bounds
                actions[agent] = (
                    rng.uniform(*low_and_high, space.shape).astype(np.float32)
                    if continuous_actions
                    else int(rng.integers(space.n))
                )
            _assert_same(ours.step(actions), theirs.step(actions))
            np.testing.assert_array_equal(ours.state(), theirs.state())
            assert ours.agents == theirs.agents


def _assert_same(ours: tuple[dict, ...], theirs: tuple[dict, ...]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        for agent in our:
            np.testing.assert_array_equal(our[agent], their[agent])


def test_an_action_out_of_range_is_named() -> None:
    env = make_mpe("simple_spread_v3")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"agent 'agent_0': action 5 is out of range \(choices: 5"):
        env.step(dict.fromkeys(env.agents, 5))
