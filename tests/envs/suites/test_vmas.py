"""The VMAS adapter gives VMAS's own numbers, and its copies are independent of each other and of the process."""

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


def drawn(batch: VmasBatch, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions, (steps, B, n, dim) or (steps, B, n)."""
    rng, shape = np.random.default_rng(seed), (steps, batch.num_envs, len(batch.agents))
    first = batch.action_spaces[0]
    if hasattr(first, "n"):
        return rng.integers(0, first.n, shape)
    return rng.uniform(first.low, first.high, (*shape, *first.shape)).astype(np.float32)


def play(batch: VmasBatch, actions: np.ndarray) -> list[StepResult]:
    """As a vector environment does: who is over begins with the next step."""
    reset_mask, moves = np.zeros(batch.num_envs, np.bool_), []
    for action in actions:
        moves.append(batch.step(action, reset_mask))
        reset_mask = moves[-1].terminated | moves[-1].truncated
    return moves


def same(a: list[StepResult], b: list[StepResult]) -> bool:
    return all(
        np.array_equal(x.observation.observations, y.observation.observations) and np.array_equal(x.rewards, y.rewards)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_simulators(task: str) -> None:
    options = QUICK.get(task, {})
    batch, theirs = VmasBatch(task, 3, **options), bare(task, 3, seed=0, **options)
    seen = batch.reset([5, 6, 7])
    first = theirs.reset(seed=5)
    np.testing.assert_array_equal(seen.observations, torch.stack(first, dim=1))
    for action in drawn(batch, 6):
        moved = batch.step(action, np.zeros(3, np.bool_))
        observations, rewards, ended, _, _ = theirs.step(list(torch.from_numpy(action).unbind(1)))
        np.testing.assert_array_equal(moved.observation.observations, torch.stack(observations, dim=1))
        np.testing.assert_array_equal(moved.rewards, torch.stack(rewards, dim=1).flatten(1))  # wheel's are (B, 1)
        np.testing.assert_array_equal(moved.terminated, ended)


@pytest.mark.parametrize("task", TASKS)
def test_a_copy_that_begins_is_as_new_and_the_others_do_not_notice(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, undisturbed, new = (VmasBatch(task, num_envs, **QUICK.get(task, {})) for num_envs in (2, 2, 1))
    actions = drawn(batch, 9)
    nobody, second = np.array([False, False]), np.array([False, True])
    batch.reset([1, 1]), undisturbed.reset([1, 1]), new.reset([2])
    for action in actions[:5]:
        batch.step(action, nobody), undisturbed.step(action, nobody)

    reset_at, stream = batch._env._reset_at, new._rng_state

    def draw_as_new(copy: int, **options: Any) -> None:
        torch.random.set_rng_state(stream)
        reset_at(copy, **options)

    monkeypatch.setattr(batch._env, "_reset_at", draw_as_new)
    moved, seen, other = batch.step(actions[5], second), new.reset(), undisturbed.step(actions[5], nobody)
    assert not moved.rewards[1].any() and not moved.terminated[1] and not moved.truncated[1]
    for action in actions[6:]:
        np.testing.assert_allclose(moved.observation.observations[1], seen.observations[0], atol=1e-4)
        np.testing.assert_array_equal(moved.observation.observations[0], other.observation.observations[0])
        np.testing.assert_array_equal(moved.rewards[0], other.rewards[0])
        moved, alone = batch.step(action, nobody), new.step(action[1:], nobody[:1])
        np.testing.assert_allclose(moved.rewards[1], alone.rewards[0], atol=1e-3)
        seen, other = alone.observation, undisturbed.step(action, nobody)


def test_the_wind_of_the_last_episode_does_not_blow_on() -> None:
    batch = VmasBatch("wind_flocking", 16)
    actions = drawn(batch, 10)
    batch.reset([3])
    first = play(batch, actions)
    batch.reset([3])
    assert same(first, play(batch, actions))


def test_all_begin_together_after_the_time_limit() -> None:
    batch = VmasBatch("navigation", 4, max_steps=5)
    batch.reset([0] * 4)
    moves = play(batch, drawn(batch, 13))
    assert [bool(moved.truncated.all()) for moved in moves] == [step in (5, 11) for step in range(1, 14)]
    assert not any(moved.terminated.any() for moved in moves)
    assert not moves[5].rewards.any() and moves[6].rewards.any()
    # The last observation is the episode's own, and the next one is another's.
    assert np.abs(moves[4].observation.observations - moves[3].observation.observations).max() < 0.5
    assert np.abs(moves[5].observation.observations - moves[4].observation.observations).max() > 0.5


def test_the_limits_are_benchmarls() -> None:
    limits = {task: VmasBatch(task, 1)._env.max_steps for task in ("balance", "multi_give_way", "passage")}
    assert limits == {"balance": 100, "multi_give_way": 200, "passage": 500}


def test_the_end_of_a_task_is_a_termination_also_at_the_time_limit() -> None:
    batch = VmasBatch("balance", 32)
    batch.reset([0])
    moves, actions = [], drawn(batch, 60)
    while not (moves and moves[-1].terminated.any()):  # until a package falls
        moves.append(batch.step(actions[len(moves)], np.zeros(32, np.bool_)))
    again = VmasBatch("balance", 32, max_steps=len(moves))
    again.reset([0])
    last = play(again, actions[: len(moves)])[-1]
    np.testing.assert_array_equal(last.terminated, moves[-1].terminated)
    np.testing.assert_array_equal(last.truncated, ~moves[-1].terminated)
    assert last.wins is not None and not last.wins.any()


def test_wins_are_reported_where_there_is_an_aim() -> None:
    batch = VmasBatch("dropout", 128)
    batch.reset([0])
    moves = play(batch, drawn(batch, 40))
    wins = np.array([moved.wins for moved in moves])
    over = np.array([moved.terminated for moved in moves])
    assert over.any() and (wins[over] == 1).all()
    assert VmasBatch("flocking", 1).step(np.zeros((1, 4, 2), np.float32), np.zeros(1, np.bool_)).wins is None


@pytest.mark.parametrize("continuous", [True, False])
def test_one_seed_gives_one_sequence_of_episodes(continuous: bool) -> None:
    batch = VmasBatch("balance", 32, max_steps=50, continuous_actions=continuous)
    other = VmasBatch("balance", 32, max_steps=50, continuous_actions=continuous)
    actions = drawn(batch, 60)
    batch.reset([3] * 32)
    first = play(batch, actions)
    assert len({tuple(np.flatnonzero(m.terminated | m.truncated)) for m in first}) > 2  # not all end together
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


def test_without_seeds_batches_differ_and_go_on() -> None:
    batch, other = VmasBatch("transport", 2), VmasBatch("transport", 2)
    seen = [batch.reset().observations, batch.reset().observations, other.reset().observations]
    assert not any(np.array_equal(seen[i], seen[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_processs_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    batch = VmasBatch("discovery", 4, max_steps=5)
    batch.reset([1] * 4)
    play(batch, drawn(batch, 12))
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


def test_actions_out_of_range_are_clipped() -> None:
    batch, other = VmasBatch("give_way", 1), VmasBatch("give_way", 1)
    batch.reset([0]), other.reset([0])
    actions = np.array([[[9.0, -9.0], [0.1, 0.1]]], np.float32)
    within = np.array([[[0.5, -0.5], [0.1, 0.1]]], np.float32)
    assert same([batch.step(actions, np.zeros(1, np.bool_))], [other.step(within, np.zeros(1, np.bool_))])


def test_options_reach_the_scenario_and_wrong_ones_are_named() -> None:
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


def test_the_first_copy_is_drawn_or_it_is_said_what_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("vmas/balance", {"render_mode": "rgb_array"})
    env.reset(seed=0)
    try:
        picture = env.render()
    except RuntimeError as error:
        assert "install EGL" in str(error)
    else:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
    env.close()

    def fail(**options: Any) -> None:
        raise OSError("no GL")

    monkeypatch.setattr(env.batch._env, "render", fail)
    with pytest.raises(RuntimeError, match=r"vmas/balance cannot render: OSError\('no GL'\).*xvfb-run"):
        env.render()


def test_a_single_team_is_a_batch_of_one() -> None:
    env, batch = JointEnv(make_env("vmas/wheel")), VmasBatch("wheel", 1)
    observation, _ = env.reset(seed=9)
    np.testing.assert_array_equal(observation["observations"][:, :13], batch.reset([9]).observations[0])
    for action in drawn(batch, 5):
        observation, reward, *_ = env.step(action[0])
        moved = batch.step(action, np.zeros(1, np.bool_))
        np.testing.assert_array_equal(observation["observations"][:, :13], moved.observation.observations[0])
        assert reward == pytest.approx(moved.rewards.mean())
