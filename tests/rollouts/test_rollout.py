"""Episode segments of a rollout, and how they survive splitting and pickling."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tree
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import Segment, find_segments
from rllib_seqmarl.rollouts.rollout import ROW_ARRAYS
from rllib_seqmarl.rollouts.shares import split_rollouts

SPACES = gym.spaces.Dict({"observations": gym.spaces.Box(-np.inf, np.inf, (2, 1))}), gym.spaces.MultiDiscrete([9, 9])


def make_rollout(seed: int, num_rows: int, num_envs: int) -> Rollout:
    """Episodes of random lengths; every value is unique, so that it identifies its row and environment."""
    rng = np.random.default_rng(seed)
    shape = num_rows, num_envs
    is_step, terminated, truncated = np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    reset_mask = rng.random(num_envs) < 0.3
    for t in range(num_rows):
        is_step[t] = ~reset_mask
        ends = is_step[t] & (rng.random(num_envs) < 0.3)
        terminated[t], truncated[t] = ends & (rng.random(num_envs) < 0.5), False
        truncated[t] = ends & ~terminated[t]
        reset_mask = ends
    number = np.arange(num_rows * num_envs).reshape(shape)
    obs = np.arange((num_rows + 1) * num_envs, dtype=np.float32).reshape(num_rows + 1, num_envs)
    return Rollout(
        obs={"observations": np.stack([obs, -obs], axis=-1)[..., None]},
        outputs={"actions": np.stack([number, number], axis=-1), "vf_preds": np.stack([number, number], -1) / 7.0},
        rewards=number.astype(np.float32),
        env_rewards=number.astype(np.float32),
        agent_rewards=np.stack([number, number], axis=-1) / 2.0,
        terminated=terminated,
        truncated=truncated,
        is_step=is_step,
        agent_terminated=np.zeros((*shape, 2), bool),
        agent_earns=rng.random((*shape, 2)) < 0.7,
        infos={(int(t), int(b)): {"win": float(t)} for t, b in np.argwhere(terminated | truncated)},
        lengths_before=rng.integers(0, 5, num_envs),
        episodes_before=rng.integers(0, 5, num_envs),
        env_ids=[f"env {b}" for b in range(num_envs)],
        weights_seq_no=3,
        spaces=SPACES,
    )


ROLLOUTS = st.builds(make_rollout, st.integers(0, 2**16), st.integers(1, 12), st.integers(1, 5))


def find_segments_by_loop(rollout: Rollout) -> list[Segment]:
    """Reference implementation that loops over the rows of each environment."""
    segments = []
    for env in range(rollout.num_envs):
        first = None
        for t in range(rollout.num_rows):
            if rollout.is_step[t, env] and first is None:
                first = t
            if first is None:
                continue
            is_done = bool(rollout.terminated[t, env] or rollout.truncated[t, env])
            continues = t + 1 < rollout.num_rows and rollout.is_step[t + 1, env]
            if is_done or not continues:
                segments.append(Segment(env, first, t + 1, is_done))
                first = None
    return segments


@settings(deadline=None)
@given(ROLLOUTS)
def test_find_segments_matches_a_loop(rollout: Rollout) -> None:
    segments = find_segments(rollout.is_step, rollout.terminated | rollout.truncated)
    assert sorted(segments) == sorted(find_segments_by_loop(rollout))
    ends = [segment.last for segment in segments if segment.is_done]
    assert ends == sorted(ends)
    assert [segment.is_done for segment in segments] == sorted((segment.is_done for segment in segments), reverse=True)
    assert rollout.env_steps == sum(segment.last - segment.first for segment in segments)


@settings(deadline=None)
@given(ROLLOUTS)
def test_an_episode_has_the_rows_of_its_segment(rollout: Rollout) -> None:
    assert len(rollout) == len(rollout.segments)
    for segment, episode in zip(rollout.segments, rollout, strict=True):
        rows = slice(segment.first, segment.last)
        np.testing.assert_array_equal(episode.get_rewards(), rollout.rewards[rows, segment.env])
        np.testing.assert_array_equal(episode.get_actions(), rollout.outputs["actions"][rows, segment.env])
        observations = rollout.obs["observations"][segment.first : segment.last + 1, segment.env]
        np.testing.assert_array_equal(episode.get_observations()["observations"], observations)
        assert episode.is_done == segment.is_done
        if segment.is_done:
            assert episode.get_infos(-1)["win"] == segment.last - 1
        is_first = segment.first == 0
        assert episode.t_started == (rollout.lengths_before[segment.env] if is_first else 0)
    assert len({episode.id_ for episode in rollout}) == len(rollout)


@settings(deadline=None)
@given(ROLLOUTS, st.integers(1, 12))
def test_segments_of_an_episode_share_its_id(rollout: Rollout, row: int) -> None:
    ids = {(env, t): e.id_ for e, (env, first, last, _) in pair_up(rollout) for t in range(first, last)}
    row = min(row, rollout.num_rows)
    parts = rollout.of_rows(0, row), rollout.of_rows(row, rollout.num_rows)
    for start, part in zip((0, row), parts, strict=True):
        for episode, (env, first, last, _) in pair_up(part):
            assert {ids[env, start + t] for t in range(first, last)} == {episode.id_}


def pair_up(rollout: Rollout) -> zip[tuple[Any, Segment]]:
    """Pair each episode with its segment."""
    return zip(rollout, rollout.segments, strict=True)


@settings(deadline=None)
@given(ROLLOUTS, st.integers(1, 4))
def test_shares_partition_the_steps_and_keep_episode_positions(rollout: Rollout, num_shares: int) -> None:
    if rollout.env_steps < num_shares:
        return
    shares = [part for share in split_rollouts([rollout], num_shares) for part in share]
    assert len(shares) >= num_shares
    assert sum(share.env_steps for share in shares) == rollout.env_steps
    rewards = np.concatenate([share.rewards[share.is_step] for share in shares])
    assert sorted(rewards) == sorted(rollout.rewards[rollout.is_step])
    step_in_episode = {
        float(reward): episode.t_started + t
        for episode in rollout
        for t, reward in enumerate(episode.get_rewards().tolist())
    }
    for share in shares:
        assert np.shares_memory(share.rewards, rollout.rewards) or not share.rewards.size
        assert len(share.obs["observations"]) == share.num_rows + 1
        for episode in share:
            for t, reward in enumerate(episode.get_rewards().tolist()):
                assert step_in_episode[reward] == episode.t_started + t
            if episode.is_done:
                assert "win" in episode.get_infos(-1)


def test_pickling_preserves_the_rollout_without_its_episodes() -> None:
    rollout = make_rollout(1, 10, 3)
    size = len(pickle.dumps(rollout))
    episodes = list(rollout)
    restored = pickle.loads(pickle.dumps(rollout))
    assert len(pickle.dumps(rollout)) == size
    assert [len(episode) for episode in restored] == [len(episode) for episode in episodes]
    for name in ROW_ARRAYS:
        tree.assert_same_structure(getattr(restored, name), getattr(rollout, name))
        tree.map_structure(np.testing.assert_array_equal, getattr(restored, name), getattr(rollout, name))


def test_indexing_past_the_last_episode_raises_an_index_error() -> None:
    rollout = make_rollout(1, 10, 3)
    with pytest.raises(IndexError):
        rollout[len(rollout)]
    assert rollout[-1] is rollout[len(rollout) - 1]
