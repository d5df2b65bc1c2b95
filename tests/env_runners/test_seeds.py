"""Environments have different random streams, samples do not repeat, and the same seed gives the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.env_runners.seeds import SeedKey, env_seeds, process_seed


class Lottery(ParallelEnv):
    """Each episode draws a random number, which agents observe throughout."""

    metadata = {"name": "lottery"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def observation_space(self, agent: str) -> Box:
        return Box(0, 1, (1,))

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2)

    def for_all(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.steps = list(self.possible_agents), 0
        self.number = np.array([self.rng.random()], np.float32)
        return self.for_all(self.number), self.for_all({})

    def step(self, actions: Any) -> tuple[dict, dict, dict, dict, dict]:
        self.steps += 1
        truncated = self.steps == 3
        self.agents = [] if truncated else self.agents
        return (
            self.for_all(self.number),
            self.for_all(1.0),
            self.for_all(False),
            self.for_all(truncated),
            self.for_all({}),
        )


KINDS = {
    "rollouts": (RolloutEnvRunner, {}),
    "rllibs_loop": (JointEnvRunner, {}),
    "gymnasiums_vector": (RolloutEnvRunner, {"gym_env_vectorize_mode": "sync"}),
}


def runner(kind: str = "rollouts", worker_index: int = 0, seed: int = 0, in_evaluation: bool = False) -> Any:
    cls, options = KINDS[kind]
    config = MATConfig().environment(Lottery).env_runners(num_envs_per_env_runner=4, **options)
    config = config.network(embed_dim=16).debugging(seed=seed)
    config.in_evaluation = in_evaluation
    config.validate()
    return cls(config=config, worker_index=worker_index, num_workers=2)


def draw_numbers(sampler: Any, **amount: Any) -> list[float]:
    """Sample, and return the episodes' random numbers."""
    return [float(episode.get_observations(0)["observations"][0, 0]) for episode in sampler.sample(**amount)]


@pytest.mark.parametrize("kind", KINDS)
def test_all_environments_of_all_runners_differ(kind: str) -> None:
    runners = [runner(kind, worker_index) for worker_index in (0, 1, 2)]
    runners += [runner(kind, in_evaluation=True), runner(kind, seed=1)]
    drawn = [number for sampler in runners for number in draw_numbers(sampler, num_timesteps=24)]
    assert len(drawn) >= 5 * 8
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_repeat_but_are_reproducible(kind: str) -> None:
    amounts = [{"num_timesteps": 12}, {"num_timesteps": 12, "force_reset": True}, {"num_episodes": 4}] * 2
    first, second = runner(kind), runner(kind)
    drawn = [number for amount in amounts for number in draw_numbers(first, **amount)]
    assert len(set(drawn)) == len(drawn)
    assert drawn == [number for amount in amounts for number in draw_numbers(second, **amount)]


@pytest.mark.parametrize("kind", KINDS)
def test_recreated_or_restored_environments_do_not_repeat_episodes(kind: str) -> None:
    recreated, restored = runner(kind), runner(kind)
    drawn = draw_numbers(recreated, num_timesteps=12)
    recreated.make_env()
    restored.set_state({"num_env_steps_sampled_lifetime": 12})
    drawn += draw_numbers(recreated, num_timesteps=12) + draw_numbers(restored, num_timesteps=12)
    assert len(set(drawn)) == len(drawn)


def test_remote_runners_sample_actions_from_different_streams() -> None:
    drawn = []
    for worker, seed in ((1, 0), (2, 0), (1, 1)):
        runner(worker_index=worker, seed=seed)
        drawn.append(tuple(torch.rand(3).tolist()))
    assert len(set(drawn)) == 3


def test_each_field_of_a_key_changes_the_seeds() -> None:
    keys = [SeedKey(), *(SeedKey()._replace(**{field: 1}) for field in SeedKey._fields)]
    drawn = [seed for key in keys for seed in (*env_seeds(0, key, 3), process_seed(0, key))]
    assert len(set(drawn)) == len(drawn) == 4 * len(keys)
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in drawn)
    assert env_seeds(0, SeedKey(), 3) == env_seeds(0, SeedKey(), 3)
    assert env_seeds(None, SeedKey(), 3) is None
