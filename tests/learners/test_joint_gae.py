"""The GAE learner connector: bootstrap values, terminations, and removal of the added rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.connectors.learner import (
    AddColumnsFromEpisodesToTrainBatch,
    AddObservationsFromEpisodesToBatch,
    AddOneTsToEpisodesAndTruncate,
    BatchIndividualItems,
    LearnerConnectorPipeline,
    NumpyToTensor,
)
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_seqmarl import MATConfig, make_joint_env
from rllib_seqmarl.learners.joint_gae import JointGAE

N, LAST_VALUE = 2, 10.0


def make_batch(*episodes: SingleAgentEpisode, shared_reward: bool = False) -> dict[str, Any]:
    """Run the learner pipeline; every bootstrap value is LAST_VALUE, gamma = lambda = 1."""
    env = make_joint_env("coordination/distinct_choice", {"n_agents": N})
    multi_module = MultiRLModuleSpec(
        rl_module_specs={
            DEFAULT_MODULE_ID: RLModuleSpec(
                module_class=MATConfig().get_default_rl_module_spec().module_class,
                observation_space=env.observation_space,
                action_space=env.action_space,
                model_config=MATConfig().model_config,
            )
        }
    ).build()
    module = multi_module[DEFAULT_MODULE_ID]
    module.compute_values = lambda batch, embeddings=None: torch.full((len(batch[Columns.OBS]["alive"]), N), LAST_VALUE)
    settings = SimpleNamespace(
        gamma=1.0, lambda_=1.0, shared_reward=shared_reward, team_reward="mean", update_order="together"
    )
    pipeline = LearnerConnectorPipeline(
        input_observation_space=env.observation_space,
        input_action_space=env.action_space,
        connectors=[
            AddOneTsToEpisodesAndTruncate(),
            AddObservationsFromEpisodesToBatch(as_learner_connector=True),
            AddColumnsFromEpisodesToTrainBatch(),
            BatchIndividualItems(multi_agent=False),
            NumpyToTensor(as_learner_connector=True),
            JointGAE(settings=settings),
        ],
    )
    return pipeline(rl_module=multi_module, batch={}, episodes=list(episodes), shared_data={})[DEFAULT_MODULE_ID]


def episode(rewards: list[list[float]], **ending: Any) -> SingleAgentEpisode:
    """Create an episode with the given rewards of agents, whose sampled values are all 0."""
    steps = len(rewards)
    deaths = ending.pop("deaths", {})
    env = make_joint_env("coordination/distinct_choice", {"n_agents": N})
    observation = env.reset(seed=0)[0]
    return SingleAgentEpisode(
        observation_space=env.observation_space,
        action_space=env.action_space,
        observations=[observation] * (steps + 1),
        actions=[np.zeros(N, np.int64)] * steps,
        rewards=[float(np.mean(reward)) for reward in rewards],
        infos=[
            {},
            *(
                {"agent_rewards": np.array(reward, np.float32)}
                | ({"agent_terminateds": np.array(deaths[t])} if t in deaths else {})
                for t, reward in enumerate(rewards)
            ),
        ],
        extra_model_outputs={
            Columns.ACTION_LOGP: [np.zeros(N, np.float32)] * steps,
            Columns.VF_PREDS: [np.zeros(N, np.float32)] * steps,
        },
        len_lookback_buffer=0,
        **ending,
    ).to_numpy()


def targets(batch: dict[str, Any]) -> list[list[float]]:
    return batch[Postprocessing.VALUE_TARGETS].tolist()


def test_terminated_episodes_do_not_bootstrap() -> None:
    assert targets(make_batch(episode([[1, 2], [3, 4]], terminated=True))) == [[4, 6], [3, 4]]


def test_truncated_episodes_bootstrap() -> None:
    assert targets(make_batch(episode([[1, 2], [3, 4]], truncated=True))) == [[14, 16], [13, 14]]


def test_running_episodes_bootstrap() -> None:
    assert targets(make_batch(episode([[1, 2]]))) == [[11, 12]]


def test_an_agents_termination_ends_only_its_own_return() -> None:
    batch = make_batch(episode([[1, 2], [0, 4]], truncated=True, deaths={0: [True, False]}))
    assert targets(batch) == [[1, 16], [10, 14]]


def test_with_shared_reward_all_agents_learn_from_the_teams_reward() -> None:
    batch = make_batch(episode([[1, 3], [3, 5]], terminated=True), shared_reward=True)
    assert targets(batch) == [[6, 6], [4, 4]]


def test_added_rows_are_removed_and_advantages_are_normalised() -> None:
    batch = make_batch(episode([[1, 2]] * 3, terminated=True), episode([[0, 5]] * 7, truncated=True), episode([[1, 1]]))
    assert all(len(column) == 11 for key, column in batch.items() if key != Columns.OBS)
    assert all(len(column) == 11 for column in batch[Columns.OBS].values())
    advantages = batch[Postprocessing.ADVANTAGES]
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-4)
