"""Tests that warehouses match the package, except for truncations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("rware")

from rware.warehouse import Direction

from rllib_seqmarl.envs.suites.rware import SUITE, make_rware

OPTIONS = {"msg_bits": 2, "sensor_range": 2, "column_height": 3, "normalised_coordinates": True}


def constants(env: Any) -> dict[str, str]:
    """All plain attributes of a bare environment, including its constructor's arguments."""
    plain = (int, float, str, tuple, dict, np.ndarray, gym.Space, type(None))
    return {name: repr(value) for name, value in vars(env).items() if isinstance(value, plain)}


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # raised by the package
@pytest.mark.parametrize(
    ("task", "options"),
    [("tiny-2ag", {}), ("tiny-2ag-hard", {}), ("tiny-4ag-easy", OPTIONS), ("medium-6ag", {}), ("large-8ag-hard", {})],
)
def test_steps_match_the_registered_warehouse(task: str, options: dict[str, Any]) -> None:
    ours = make_rware(task, max_steps=40, **options)
    theirs = gym.make(f"rware-{task}-v2", max_steps=40, disable_env_checker=True, **options).unwrapped
    assert constants(ours.env) == constants(theirs)
    rng = np.random.default_rng(0)
    for seed in (5, None, 5):
        observations, infos = ours.reset(seed=seed)
        np.testing.assert_array_equal(list(observations.values()), theirs.reset(seed=seed)[0])
        assert infos == {agent: {} for agent in ours.possible_agents}
        for step in range(1, 41):
            actions = [
                rng.integers(np.r_[5, [2] * options["msg_bits"]]) if options else rng.integers(5) for _ in ours.agents
            ]
            observations, rewards, terminated, truncated, _ = ours.step(dict(zip(ours.agents, actions, strict=True)))
            their_observations, their_rewards, over, _, _ = theirs.step(actions)
            np.testing.assert_array_equal(list(observations.values()), their_observations)
            assert list(rewards.values()) == their_rewards
            assert over == (step == 40)
            assert set(terminated.values()) == {False}
            assert set(truncated.values()) == {over}
        assert ours.agents == []


@pytest.mark.filterwarnings("error")
def test_construction_emits_no_warnings() -> None:
    make_rware("tiny-2ag", **OPTIONS)


def test_seeds_fix_episodes_and_unseeded_episodes_differ() -> None:
    env = make_rware("tiny-2ag")
    first, second, third = (env.reset(seed=seed)[0]["agent_0"] for seed in (1, None, 1))
    assert (first == third).all()
    assert (first != second).any()


@pytest.mark.parametrize(
    ("reward_type", "delivery_rewards", "return_rewards"),
    [("individual", [1.0, 0.0], [0.0, 0.0]), ("global", [1.0, 1.0], [0.0, 0.0]), ("two_stage", [0.5, 0.0], [0.5, 0.0])],
)
def test_reward_types(reward_type: str, delivery_rewards: list[float], return_rewards: list[float]) -> None:
    env = make_rware("tiny-2ag", reward_type=reward_type)
    env.reset(seed=0)
    warehouse = env.env
    carrier, other = warehouse.agents
    shelf = warehouse.request_queue[0]
    home = shelf.x, shelf.y
    place_carrier(warehouse, carrier, shelf, warehouse.goals[0][0], warehouse.goals[0][1] - 1)
    other.x, other.y = 0, 0
    warehouse._recalc_grid()
    _, rewards, _, _, _ = env.step({"agent_0": 1, "agent_1": 0})  # forward
    assert list(rewards.values()) == delivery_rewards
    place_carrier(warehouse, carrier, shelf, *home)
    warehouse._recalc_grid()
    _, rewards, _, _, _ = env.step({"agent_0": 4, "agent_1": 0})  # put down
    assert list(rewards.values()) == return_rewards
    assert all(type(reward) is float for reward in rewards.values())


def place_carrier(warehouse: Any, carrier: Any, shelf: Any, x: int, y: int) -> None:
    carrier.x = shelf.x = x
    carrier.y = shelf.y = y
    carrier.dir = Direction.DOWN
    carrier.carrying_shelf = shelf


@pytest.mark.parametrize("max_steps", [3, 10])
def test_inactivity_terminates_even_at_the_time_limit(max_steps: int) -> None:
    env = make_rware("tiny-2ag", max_inactivity_steps=3, max_steps=max_steps)
    env.reset(seed=0)
    for step in (1, 2, 3):
        _, _, terminated, truncated, _ = env.step({"agent_0": 0, "agent_1": 0})
        assert terminated == dict.fromkeys(("agent_0", "agent_1"), step == 3)
        assert truncated == dict.fromkeys(("agent_0", "agent_1"), False)


def test_all_registered_tasks_are_valid() -> None:
    registered = [name[len("rware-") : -len("-v2")] for name in gym.registry if name.startswith("rware-")]
    assert len(registered) == 4 * 3 * 19
    assert all(map(SUITE.knows, registered))
    assert all(map(SUITE.knows, SUITE.tasks))
    for wrong in ("tiny", "tiny-0ag", "tiny-20ag", "tiny-02ag", "huge-2ag", "tiny-2ag-harder", "tiny-2ag-easy-hard"):
        assert not SUITE.knows(wrong)


@pytest.mark.parametrize("size", ["tiny", "small", "medium", "large", "xlarge"])
def test_request_queue_must_leave_one_shelf(size: str) -> None:
    env = make_rware(f"{size}-2ag", column_height=3)
    env.reset(seed=0)
    n_shelves = len(env.env.shelfs)
    make_rware(f"{size}-2ag", column_height=3, request_queue_size=n_shelves - 1).reset(seed=0)
    with pytest.raises(ValueError, match=f"request_queue_size={n_shelves} .* an integer from 1 to {n_shelves - 1}"):
        make_rware(f"{size}-2ag", column_height=3, request_queue_size=n_shelves)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("tiny-19ag-easy", {}, "request_queue_size=38 is out of range: give an integer from 1 to 31"),
        ("tiny-1ag-hard", {}, "request_queue_size=0 is out of range"),
        ("tiny-2ag", {"max_steps": 0}, "max_steps=0 is out of range: give an integer >= 1"),
        ("tiny-2ag", {"max_steps": None}, "max_steps=None is out of range"),
        ("tiny-2ag", {"max_inactivity_steps": 0}, "max_inactivity_steps=0 is out of range"),
        ("tiny-2ag", {"reward_type": "shared"}, "reward_type='shared' is unknown.* individual, global, two_stage"),
        ("tiny-2ag", {"sensor_range": 0}, "sensor_range=0 is out of range"),
        ("tiny-2ag", {"msg_bits": -1}, "msg_bits=-1 is out of range"),
        ("tiny-2ag", {"column_height": 0}, "column_height=0 is out of range"),
        ("tiny-2ag", {"normalised_coordinates": 2}, "normalised_coordinates=2 is unknown"),
        ("tiny-2ag", {"render_mode": "human"}, "render_mode='human' is unknown"),
    ],
)
def test_invalid_options_are_rejected(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rware(task, **options)


def test_render_shows_robot_positions() -> None:
    env = make_rware("tiny-2ag", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        before = env.render()
    except ImportError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert before.ndim == 3 and before.shape[2] == 3 and before.dtype == np.uint8
    assert (env.render() == before).all()
    env.step({"agent_0": 2, "agent_1": 2})  # both turn
    assert (env.render() != before).any()
    env.close()
