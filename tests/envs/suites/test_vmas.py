"""Tests that the VMAS adapter matches VMAS, and that copies are independent of each other and of global generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from rllib_seqmarl.envs import JointEnv, make_env
from rllib_seqmarl.envs.batched_simulator import StepResult
from rllib_seqmarl.envs.suites.vmas import TASKS, VmasBatch

pytest.importorskip("vmas")


QUICK: dict[str, dict[str, Any]] = {"sampling": {"grid_spacing": 0.25}}  # its resets are slow


def bare(task: str, num_envs: int, seed: int, **options: Any) -> Any:
    import vmas

    return vmas.make_env(task, num_envs, seed=seed, terminated_truncated=True, **options)


def sample_actions(batch: VmasBatch, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions, (steps, B, n, dim) or (steps, B, n)."""
    rng, shape = np.random.default_rng(seed), (steps, batch.num_envs, len(batch.agents))
    first = batch.action_spaces[0]
    if hasattr(first, "n"):
        return rng.integers(0, first.n, shape)
    return rng.uniform(first.low, first.high, (*shape, *first.shape)).astype(np.float32)


def play(batch: VmasBatch, actions: np.ndarray) -> list[StepResult]:
    """Step as a vector environment does: copies whose episode is over are reset in the next step."""
    reset_mask, results = np.zeros(batch.num_envs, np.bool_), []
    for action in actions:
        results.append(batch.step(action, reset_mask))
        reset_mask = results[-1].terminated | results[-1].truncated
    return results


def same(a: list[StepResult], b: list[StepResult]) -> bool:
    return all(
        np.array_equal(x.observation.observations, y.observation.observations) and np.array_equal(x.rewards, y.rewards)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("task", TASKS)
def test_steps_match_the_simulator(task: str) -> None:
    options = QUICK.get(task, {})
    batch, theirs = VmasBatch(task, 3, **options), bare(task, 3, seed=0, **options)
    obs = batch.reset([5, 6, 7])
    first = theirs.reset(seed=5)
    np.testing.assert_array_equal(obs.observations, torch.stack(first, dim=1))
    for action in sample_actions(batch, 6):
        result = batch.step(action, np.zeros(3, np.bool_))
        observations, rewards, ended, _, _ = theirs.step(list(torch.from_numpy(action).unbind(1)))
        np.testing.assert_array_equal(result.observation.observations, torch.stack(observations, dim=1))
        np.testing.assert_array_equal(result.rewards, torch.stack(rewards, dim=1).flatten(1))  # wheel's are (B, 1)
        np.testing.assert_array_equal(result.terminated, ended)


@pytest.mark.parametrize("task", TASKS)
def test_resetting_a_copy_does_not_affect_others(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, undisturbed, new = (VmasBatch(task, num_envs, **QUICK.get(task, {})) for num_envs in (2, 2, 1))
    actions = sample_actions(batch, 9)
    no_reset, second = np.array([False, False]), np.array([False, True])
    batch.reset([1, 1]), undisturbed.reset([1, 1]), new.reset([2])
    for action in actions[:5]:
        batch.step(action, no_reset), undisturbed.step(action, no_reset)

    reset_at, stream = batch._env._reset_at, new._rng_state

    def reset_with_new_stream(copy: int, **options: Any) -> None:
        torch.random.set_rng_state(stream)
        reset_at(copy, **options)

    monkeypatch.setattr(batch._env, "_reset_at", reset_with_new_stream)
    result, new_obs, other = batch.step(actions[5], second), new.reset(), undisturbed.step(actions[5], no_reset)
    assert not result.rewards[1].any() and not result.terminated[1] and not result.truncated[1]
    for action in actions[6:]:
        np.testing.assert_allclose(result.observation.observations[1], new_obs.observations[0], atol=1e-4)
        np.testing.assert_array_equal(result.observation.observations[0], other.observation.observations[0])
        np.testing.assert_array_equal(result.rewards[0], other.rewards[0])
        result, alone = batch.step(action, no_reset), new.step(action[1:], no_reset[:1])
        np.testing.assert_allclose(result.rewards[1], alone.rewards[0], atol=1e-3)
        new_obs, other = alone.observation, undisturbed.step(action, no_reset)


def test_wind_does_not_carry_over_to_the_next_episode() -> None:
    batch = VmasBatch("wind_flocking", 16)
    actions = sample_actions(batch, 10)
    batch.reset([3])
    first = play(batch, actions)
    batch.reset([3])
    assert same(first, play(batch, actions))


def test_all_copies_are_reset_together_after_the_time_limit() -> None:
    batch = VmasBatch("navigation", 4, max_steps=5)
    batch.reset([0] * 4)
    results = play(batch, sample_actions(batch, 13))
    assert [bool(result.truncated.all()) for result in results] == [step in (5, 11) for step in range(1, 14)]
    assert not any(result.terminated.any() for result in results)
    assert not results[5].rewards.any() and results[6].rewards.any()
    # The final observation belongs to the episode, the next one to a new episode.
    assert np.abs(results[4].observation.observations - results[3].observation.observations).max() < 0.5
    assert np.abs(results[5].observation.observations - results[4].observation.observations).max() > 0.5


def test_time_limits_match_benchmarl() -> None:
    limits = {task: VmasBatch(task, 1)._env.max_steps for task in ("balance", "multi_give_way", "passage")}
    assert limits == {"balance": 100, "multi_give_way": 200, "passage": 500}


def test_task_ends_are_terminations_even_at_the_time_limit() -> None:
    batch = VmasBatch("balance", 32)
    batch.reset([0])
    results, actions = [], sample_actions(batch, 60)
    while not (results and results[-1].terminated.any()):  # until a package falls
        results.append(batch.step(actions[len(results)], np.zeros(32, np.bool_)))
    again = VmasBatch("balance", 32, max_steps=len(results))
    again.reset([0])
    last = play(again, actions[: len(results)])[-1]
    np.testing.assert_array_equal(last.terminated, results[-1].terminated)
    np.testing.assert_array_equal(last.truncated, ~results[-1].terminated)
    assert last.wins is not None and not last.wins.any()


def test_wins_are_reported_for_tasks_with_a_goal() -> None:
    batch = VmasBatch("dropout", 128)
    batch.reset([0])
    results = play(batch, sample_actions(batch, 40))
    wins = np.array([result.wins for result in results])
    over = np.array([result.terminated for result in results])
    assert over.any() and (wins[over] == 1).all()
    assert VmasBatch("flocking", 1).step(np.zeros((1, 4, 2), np.float32), np.zeros(1, np.bool_)).wins is None


@pytest.mark.parametrize("continuous", [True, False])
def test_seeds_determine_the_sequence_of_episodes(continuous: bool) -> None:
    batch = VmasBatch("balance", 32, max_steps=50, continuous_actions=continuous)
    other = VmasBatch("balance", 32, max_steps=50, continuous_actions=continuous)
    actions = sample_actions(batch, 60)
    batch.reset([3] * 32)
    first = play(batch, actions)
    assert len({tuple(np.flatnonzero(m.terminated | m.truncated)) for m in first}) > 2  # ends are not simultaneous
    batch.reset([3] * 32)
    again = play(batch, actions)
    other.reset([4] * 32)
    assert same(first, again)
    assert not same(first, play(other, actions))
    # Two batches in one process do not draw from each other's stream.
    batch.reset([3] * 32)
    other.reset([3] * 32)
    pairs = [(play(batch, actions[i : i + 1]), play(other, actions[i : i + 1])) for i in range(10)]
    assert all(same(a, b) for a, b in pairs)


def test_unseeded_batches_differ_and_continue_their_streams() -> None:
    batch, other = VmasBatch("transport", 2), VmasBatch("transport", 2)
    obs = [batch.reset().observations, batch.reset().observations, other.reset().observations]
    assert not any(np.array_equal(obs[i], obs[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_global_random_generators_are_unaffected() -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    batch = VmasBatch("discovery", 4, max_steps=5)
    batch.reset([1] * 4)
    play(batch, sample_actions(batch, 12))
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


def test_actions_out_of_range_are_clipped() -> None:
    batch, other = VmasBatch("give_way", 1), VmasBatch("give_way", 1)
    batch.reset([0]), other.reset([0])
    actions = np.array([[[9.0, -9.0], [0.1, 0.1]]], np.float32)
    clipped = np.array([[[0.5, -0.5], [0.1, 0.1]]], np.float32)
    assert same([batch.step(actions, np.zeros(1, np.bool_))], [other.step(clipped, np.zeros(1, np.bool_))])


def test_options_reach_the_scenario_and_invalid_ones_are_rejected() -> None:
    env = make_env("vmas/transport", {"n_agents": 2, "n_packages": 2, "continuous_actions": False})
    assert len(env.possible_agents) == 2
    assert env.action_space("agent_0").n == 9
    for options, message in (
        ({"n_agent": 2}, "vmas/transport has no option 'n_agent'. Did you mean 'n_agents'"),
        ({"n_agents": 0}, "n_agents=0 is out of range"),
        ({"max_steps": 0}, "max_steps=0 is out of range"),
        ({"package_width": "wide"}, "vmas/transport cannot be made with {'package_width': 'wide'}"),
        ({"continuous_actions": "no"}, "continuous_actions='no' is unknown"),
        ({"render_mode": "human"}, "render_mode='human' is unknown"),
    ):
        with pytest.raises(ValueError) as error:
            make_env("vmas/transport", options)
        assert message in str(error.value)


def test_the_first_copy_is_rendered_or_missing_opengl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("vmas/balance", {"render_mode": "rgb_array"})
    env.reset(seed=0)
    try:
        image = env.render()
    except RuntimeError as error:
        assert "install EGL" in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 3
    env.close()

    def fail(**options: Any) -> None:
        raise OSError("no GL")

    monkeypatch.setattr(env.batch._env, "render", fail)
    with pytest.raises(RuntimeError, match=r"vmas/balance cannot render: OSError\('no GL'\).*xvfb-run"):
        env.render()


def test_a_single_team_matches_a_batch_of_one() -> None:
    env, batch = JointEnv(make_env("vmas/wheel")), VmasBatch("wheel", 1)
    observation, _ = env.reset(seed=9)
    np.testing.assert_array_equal(observation["observations"][:, :13], batch.reset([9]).observations[0])
    for action in sample_actions(batch, 5):
        observation, reward, *_ = env.step(action[0])
        result = batch.step(action, np.zeros(1, np.bool_))
        np.testing.assert_array_equal(observation["observations"][:, :13], result.observation.observations[0])
        assert reward == pytest.approx(result.rewards.mean())
