"""All learners get steps, and make the same number of updates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learner import make_learner, make_rollout

from rllib_seqmarl.learners.rollout_data import EpisodeData, RolloutData
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.shares import find_balanced_cuts, split_rollouts


def thin_out(rollout: Rollout, seed: int, density: float) -> Rollout:
    """Drop the steps of some environments, as if only whole episodes were kept."""
    keep = np.random.default_rng(seed).random(rollout.num_envs) < density
    return dataclasses.replace(rollout, is_step=rollout.is_step & keep)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 6))
def test_balanced_cuts_are_nonempty_and_nearly_equal(steps: list[int], num_shares: int) -> None:
    steps = [0, *steps, 0, 0] if len(steps) % 2 else steps
    if np.count_nonzero(steps) < num_shares:
        return
    cuts = find_balanced_cuts(np.array(steps), num_shares)
    shares = [sum(steps[first:last]) for first, last in zip(cuts, cuts[1:], strict=False)]
    assert len(shares) == num_shares and sum(shares) == sum(steps) and min(shares) > 0
    assert max(shares) <= sum(steps) / num_shares + 2 * max(steps)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=3),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(1, 30),
    st.integers(1, 4),
)
def test_shares_partition_the_steps_and_have_the_same_number_of_minibatches(
    seeds: list[int], num_shares: int, density: float, size: int, num_epochs: int
) -> None:
    rollouts = [make_rollout(seeds[0]), *(thin_out(make_rollout(seed), seed, density) for seed in seeds[1:])]
    data = RolloutData(rollouts=rollouts)
    shares = data.shard(num_shares, minibatch_size=size, num_epochs=num_epochs)
    assert len(shares) == num_shares and all(share.env_steps > 0 for share, _ in shares)
    rewards = np.concatenate([r.env_rewards[r.is_step] for share, _ in shares for r in share.rollouts])
    assert sorted(rewards) == sorted(np.concatenate([r.env_rewards[r.is_step] for r in rollouts]))
    (total,) = {keywords["num_total_minibatches"] for _, keywords in shares}
    assert total == (max(1, num_epochs * data.env_steps // (num_shares * size)) if num_shares > 1 else 0)


def test_without_minibatches_learners_use_their_whole_shares() -> None:
    rollout = make_rollout(0)
    for data in (RolloutData(rollouts=[rollout]), EpisodeData(episodes=list(rollout))):
        shares = data.shard(2, minibatch_size=None, num_epochs=3)
        assert [keywords for _, keywords in shares] == [{"num_total_minibatches": 0}] * 2
        assert sum(share.env_steps for share, _ in shares) == rollout.env_steps


def test_episode_shares_have_the_same_number_of_minibatches() -> None:
    data = EpisodeData(episodes=list(make_rollout(0)))
    shares = data.shard(2, minibatch_size=1000, num_epochs=1)
    assert [keywords["num_total_minibatches"] for _, keywords in shares] == [1, 1]  # 0 in RLlib: depends on the share
    assert min(share.env_steps for share, _ in shares) > 0


def test_fewer_steps_than_learners_are_rejected() -> None:
    rollout = make_rollout(0).of_envs(0, 1).of_rows(0, 2)
    with pytest.raises(ValueError, match="num_learners=3 learners cannot share 2 sampled steps"):
        split_rollouts([rollout], 3)


def test_a_learner_with_a_small_share_makes_the_requested_number_of_updates() -> None:
    learner = make_learner()
    data = RolloutData(rollouts=[make_rollout(0).of_envs(0, 1).of_rows(0, 2)])
    learner.update(training_data=data, minibatch_size=4, num_epochs=2, num_total_minibatches=7)
    assert {int(state["step"]) for state in learner.get_optimizer().state.values()} == {7}
