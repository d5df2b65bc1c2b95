"""Agents learn from rewards as changed by callbacks or connectors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.evaluation.postprocessing import Postprocessing
from small_learner import make_learner, make_rollout

from rllib_seqmarl import make_joint_env
from rllib_seqmarl.learners.advantages import compute_training_rewards
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.rollouts import Rollout


@pytest.mark.parametrize("team_reward", ["mean", "sum"])
def test_agent_rewards_stay_consistent_with_a_changed_team_reward(team_reward: str) -> None:
    rng = np.random.default_rng(0)
    agents = rng.normal(size=(7, 2, 3)).astype(np.float32)
    team = getattr(agents, team_reward)(-1)
    options: dict[str, Any] = {"shared_reward": False, "team_reward": team_reward}
    assert compute_training_rewards(team, team.copy(), agents, **options) is agents
    changed = 2 * team + 5
    rewards = compute_training_rewards(changed, team, agents, **options)
    np.testing.assert_allclose(getattr(rewards, team_reward)(-1), changed, rtol=1e-5)
    changes = rewards - agents
    np.testing.assert_allclose(changes, np.broadcast_to(changes[..., :1], agents.shape), atol=1e-5)
    shared = compute_training_rewards(changed, team, agents, shared_reward=True, team_reward=team_reward)
    np.testing.assert_array_equal(shared, np.broadcast_to(changed[..., None], agents.shape))


def infos_of(episode: SingleAgentEpisode) -> list[dict[str, Any]]:
    """Each info once: in the learner pipeline, RLlib adds a row that repeats the last one."""
    return list({id(info): info for info in episode.get_infos(slice(1, None))}.values())


def add_to_each(episode: SingleAgentEpisode) -> None:
    for t in range(len(episode)):
        episode.set_rewards(new_data=episode.get_rewards(t) + 10.0, at_indices=t)


def add_to_all(episode: SingleAgentEpisode) -> None:
    episode.set_rewards(new_data=np.asarray(episode.get_rewards()) + 10.0)


def set_from_a_list(episode: SingleAgentEpisode) -> None:
    episode.set_rewards(new_data=[reward + 10.0 for reward in episode.get_rewards()], at_indices=slice(None))


def replace_the_buffer(episode: SingleAgentEpisode) -> None:
    episode.rewards = InfiniteLookbackBuffer(np.asarray(episode.get_rewards()) + 10.0)


def replace_agents_rewards(episode: SingleAgentEpisode) -> None:
    for info in infos_of(episode):
        info["agent_rewards"] = info["agent_rewards"] + 10.0


def add_to_agents_rewards(episode: SingleAgentEpisode) -> None:
    for info in infos_of(episode):
        info["agent_rewards"] += 10.0


CHANGES: list[Callable[[SingleAgentEpisode], None]] = [
    add_to_each,
    add_to_all,
    replace_the_buffer,
    replace_agents_rewards,
    add_to_agents_rewards,
]


def training_rewards(rollout: Rollout, connector: ConnectorV2 | None = None) -> np.ndarray:
    """Compute value targets with gamma = 0, which are the rewards that agents learn from, sorted."""
    learner = make_learner(gamma=0.0, _learner_connector=connector and (lambda *_, **__: connector))
    columns = learner._make_batch(RolloutData(rollouts=[rollout])).policy_batches[DEFAULT_MODULE_ID]
    return np.sort(columns[Postprocessing.VALUE_TARGETS].numpy(), axis=0)


@pytest.mark.parametrize("change", [*CHANGES, set_from_a_list])
@pytest.mark.parametrize("pickled", [False, True])
def test_agents_learn_from_rewards_changed_in_on_sample_end(
    change: Callable[[SingleAgentEpisode], None], pickled: bool
) -> None:
    rollout, plain = make_rollout(0), training_rewards(make_rollout(0))
    for episode in rollout:
        change(episode)
    rewards = training_rewards(pickle.loads(pickle.dumps(rollout)) if pickled else rollout)
    np.testing.assert_allclose(rewards, plain + 10.0, atol=1e-4)
    shares = RolloutData(rollouts=[rollout]).shard(2)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([r.rewards[r.is_step] for share, _ in shares for r in share.rollouts])),
        np.sort(rollout.rewards[rollout.is_step]),
    )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read_only", [False, True])
def test_agents_learn_from_rewards_changed_by_a_learner_connector(
    change: Callable[[SingleAgentEpisode], None], read_only: bool
) -> None:
    class Change(ConnectorV2):
        def __call__(self, *, batch: Any, episodes: Any, **kwargs: Any) -> Any:
            for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
                change(episode)
            return batch

    rollout, plain = make_rollout(1), training_rewards(make_rollout(1))
    if read_only:  # as arrays from Ray's object store
        for array in (*rollout.obs.values(), *rollout.outputs.values(), rollout.rewards, rollout.agent_rewards):
            array.flags.writeable = False
    np.testing.assert_allclose(training_rewards(rollout, Change()), plain + 10.0, atol=1e-4)


def test_changing_an_episodes_length_is_an_error() -> None:
    rollout = make_rollout(0)
    rollout[0].rewards.append(1.0)
    rollout[0].t += 1
    with pytest.raises(ValueError, match="length of an episode"):
        pickle.dumps(rollout)


def test_infos_contain_the_team_reward() -> None:
    env = make_joint_env("coordination/distinct_choice", {"n_agents": 3})
    env.reset(seed=0)
    for _ in range(3):
        _, reward, *_, info = env.step(env.action_space.sample())
        assert info["team_reward"] == reward
