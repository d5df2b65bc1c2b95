"""Tests that a mixture plays its tasks' episodes, padded to common shapes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from ray.tune.registry import register_env
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl.envs import JointEnv, check_joint_env, make_env, make_joint_env
from rllib_seqmarl.envs.suites.coordination import DistinctChoice
from rllib_seqmarl.envs.suites.multitask import Mixture

DISTINCT = "coordination/distinct_choice"
D2, D3 = spaces.Discrete(2), spaces.Discrete(3)
TOYS: dict[str, Any] = {
    "toy/dying": lambda config: ToyTeam([D3, D2, D3], obs_sizes=[2, 5, 1], masks="info", deaths={"b": 3}),
    "toy/masked": lambda config: ToyTeam([D3, D3], masks="observation", infos={"won": 1.0}),
    "toy/components": lambda config: ToyTeam([spaces.MultiDiscrete([4, 2]), D2], absent=("b",), terminates=True),
    "toy/turns": lambda config: TakingTurns(config),
    "toy/far": lambda config: ToyTeam([spaces.Box(-2.0, 3.0, (2,)), spaces.Box(0.0, 1.0, (1,))]),
    "toy/near": lambda config: ToyTeam([spaces.Box(-0.5, 0.5, (3,))], obs_sizes=[4]),
    "toy/unbounded": lambda config: ToyTeam([spaces.Box(-np.inf, np.inf, (3,))]),
    "toy/pictures": lambda config: _Pictures(),
}


class _Pictures(ToyTeam):
    def __init__(self) -> None:
        super().__init__([D3])
        self.seen = {"a": spaces.Box(0, 255, (20, 20, 3), np.uint8)}

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        return {agent: np.zeros((20, 20, 3), np.uint8) for agent in agents}


@pytest.fixture(autouse=True, scope="module")
def toys() -> None:
    for name, creator in TOYS.items():
        register_env(name, creator)


def mixture(*tasks: Any, **options: Any) -> Mixture:
    return make_env("multitask/mixture", {"tasks": list(tasks), **options})


def distinct(n_agents: int, **more: Any) -> dict[str, Any]:
    return {"name": DISTINCT, "env_config": {"n_agents": n_agents}, **more}


def tasks_played(env: Any, episodes: int, seed: int | None = 0) -> list[str]:
    env.reset(seed=seed)
    played = [env.team.name]
    for _ in range(episodes - 1):
        env.reset()
        played.append(env.team.name)
    return played


@pytest.mark.parametrize(
    "tasks",
    [
        ("toy/dying", "toy/masked", "toy/components", "toy/turns"),
        ("toy/far", "toy/near"),
        (distinct(2), distinct(4)),
    ],
)
def test_mixtures_pass_the_environment_check(tasks: tuple[Any, ...]) -> None:
    check_joint_env(mixture(*tasks, sampling="round_robin", task_ids=True), episodes=6)


def test_episodes_match_the_padded_task() -> None:
    env = JointEnv(mixture(distinct(3), distinct(4), pad_to=[distinct(5)]))
    assert env.layout.n_agents == 5
    assert env.layout.obs_sizes == (5,) * 5
    assert env.layout.nvec == (5,)
    for seed in range(6):
        obs, _ = env.reset(seed=seed)
        own = env.env.team.env
        n = own.n_agents
        assert n in (3, 4)
        twin = DistinctChoice(n_agents=n)
        twin._rng, twin.agents = np.random.default_rng(), twin.possible_agents[:]
        twin._rng.bit_generator.state = own._rng.bit_generator.state
        twin._secret = own._secret
        rng, returned = np.random.default_rng(seed), 0.0
        for step in range(1, 11):
            assert obs["alive"].tolist() == [1] * n + [0] * (5 - n)
            np.testing.assert_array_equal(obs["observations"][:n, :n], np.stack(list(twin._observe().values())))
            assert not obs["observations"][:, n:5].any() and not obs["observations"][n:, :5].any()
            action_mask = [[1] * n + [0] * (5 - n)] * n + [[1, 0, 0, 0, 0]] * (5 - n)
            assert obs["action_mask"].tolist() == action_mask
            action = np.r_[rng.permutation(n), [0] * (5 - n)]
            obs, reward, terminated, truncated, info = env.step(action)
            _, rewards, *_, infos = twin.step(dict(zip(twin.possible_agents, action[:n].tolist(), strict=True)))
            assert info["agent_rewards"].tolist() == [*rewards.values(), *[0.0] * (5 - n)]
            assert reward == pytest.approx(np.mean(list(rewards.values())))  # mean over present agents
            assert not terminated and truncated == (step == 10)
            returned += reward
        assert info["task"] == f"{DISTINCT}(n_agents={n})"
        assert info["win"] == infos["agent_0"]["success"]
        assert info["episode_return"] == pytest.approx(returned)


def test_masks_deaths_and_wins_match_the_task() -> None:
    env = JointEnv(mixture("toy/dying", "toy/masked", sampling="round_robin"))
    for _ in range(4):
        obs, _ = env.reset(seed=None)
        team = env.env.team
        n, infos = team.layout.n_agents, []
        for step in range(1, 7):
            alive = [1, 1 if n == 2 or step <= 3 else 0, int(n == 3)]
            assert obs["alive"].tolist() == alive
            forbidden = [(step - 1) % width for width in (3, 2 if n == 3 else 3, 3)]
            for row in np.flatnonzero(alive):
                assert obs["action_mask"][row, forbidden[row]] == 0
                assert obs["action_mask"][row].sum() == (1 if (n, row) == (3, 1) else 2)
            obs, _, terminated, truncated, info = env.step(obs["action_mask"].argmax(axis=1))
            infos.append(info)
        assert truncated and not terminated
        if n == 3:
            assert [("agent_terminateds" in info) for info in infos] == [False, False, True, False, False, False]
            assert infos[2]["agent_terminateds"].tolist() == [False, True, False]
            assert infos[-1]["episode_agent_returns"].tolist() == [0.0, 3.0, 12.0]
        assert info.get("win") == (1.0 if n == 2 else None)


def test_multi_discrete_actions_are_cut_to_the_task() -> None:
    env = mixture("toy/components", "toy/turns", sampling="round_robin")
    assert env.action_space("agent_0") == spaces.MultiDiscrete([4, 2])
    for _ in range(2):
        _, infos = env.reset(seed=None)
        own = env.team.env
        env.step(
            {
                agent: np.array([1, 1]) if own is not env.teams[0].env or row == 0 else np.array([1, 0])
                for row, agent in enumerate(env.agents)
            }
        )
        (taken,) = own.taken
        if isinstance(own, TakingTurns):
            assert taken == {"x": 1}
            assert infos["agent_0"]["action_mask"].tolist() == [1, 1, 0, 0, 1, 0]
            assert [infos[agent]["alive"] for agent in env.possible_agents] == [True, False, False]
        else:
            assert taken["a"].tolist() == [1, 1]
            assert infos["agent_0"]["action_mask"].tolist() == [1, 1, 1, 1, 1, 1]


def test_continuous_actions_are_scaled_to_the_task_bounds() -> None:
    env = mixture("toy/far", "toy/near", sampling="round_robin")
    assert env.action_space("agent_1") == spaces.Box(-1.0, 1.0, (3,), np.float32)
    action = np.array([-1.0, 0.5, 1.0], np.float32)
    for _ in range(2):
        env.reset()
        env.step({agent: action for agent in env.agents})
        (taken,) = env.team.env.taken
        if env.team.name == "toy/far":
            np.testing.assert_allclose(taken["a"], [-2.0, 1.75])
            np.testing.assert_allclose(taken["b"], [0.0])
        else:
            np.testing.assert_allclose(taken["a"], [-0.5, 0.25, 0.5])


def test_task_sampling() -> None:
    a, b, c = (f"{DISTINCT}(n_agents={n})" for n in (2, 3, 4))
    counts = Counter(tasks_played(mixture(distinct(2), distinct(3, weight=3), distinct(4, weight=0)), 600))
    assert counts[c] == 0 and 400 < counts[b] < 500 and counts[a] + counts[b] == 600
    turns = mixture(distinct(2), distinct(3), distinct(4), sampling="round_robin")
    firsts = {tasks_played(turns, 7, seed=seed)[0] for seed in range(30)}
    assert firsts == {a, b, c}  # otherwise vectorised copies would all play the same task
    played = tasks_played(turns, 7)
    assert played[:3] == played[3:6] and set(played[:3]) == {a, b, c}
    assert set(tasks_played(mixture(distinct(2), pad_to=[distinct(3)]), 20)) == {a}


@pytest.mark.parametrize("sampling", ["random", "round_robin"])
def test_a_seed_determines_all_following_episodes(sampling: str) -> None:
    def play(env: JointEnv, seed: int) -> list[Any]:
        record = []
        for episode in range(4):
            obs, _ = env.reset(seed=seed if episode == 0 else None)
            for _ in range(10):
                obs, reward, *_ = env.step(np.arange(3) * obs["alive"])
                record.append((obs["observations"].tolist(), reward))
        return record

    env, other = (JointEnv(mixture(distinct(2), distinct(3), sampling=sampling)) for _ in range(2))
    first = play(env, 5)
    assert play(env, 5) == first == play(other, 5)
    assert play(env, 6) != first


def test_task_ids_follow_the_padding() -> None:
    env = mixture(distinct(2), distinct(3), pad_to=[distinct(4)], task_ids=True, sampling="round_robin")
    for _ in range(2):
        obs, _ = env.reset()
        n = len(obs)
        assert all(row.shape == (4 + 3,) and row[4:].tolist() == [n == 2, n == 3, 0] for row in obs.values())


def test_the_global_state_is_padded() -> None:
    env = make_joint_env(
        "multitask/mixture", {"tasks": ["mpe/simple_spread", "mpe/simple_reference"]}, global_state=True
    )
    sizes = {"mpe/simple_spread": 54, "mpe/simple_reference": 42}
    for seed in range(4):
        obs, _ = env.reset(seed=seed)
        state, size = env.env.team.env.state(), sizes[env.env.team.name]
        assert len(state) == size
        np.testing.assert_allclose(obs["state"], np.r_[state, np.zeros(54 - size)], rtol=1e-6)
    with pytest.raises(ValueError, match="it has no global state"):
        make_joint_env("multitask/mixture", {"tasks": ["mpe/simple_spread", DISTINCT]}, global_state=True)


def test_tasks_that_differ_in_disabled_joints() -> None:
    pytest.importorskip("mujoco")
    cheetah = "mamujoco/HalfCheetah-6x1"
    whole, lame = cheetah, {"name": cheetah, "env_config": {"disabled_joints": [2]}}
    env = mixture(whole, lame, sampling="round_robin")
    names = [team.name for team in env.teams]
    assert names == [cheetah, f"{cheetah}(disabled_joints=[2])"]
    check_joint_env(env, max_steps=20)


def test_the_current_task_is_rendered() -> None:
    env = mixture(distinct(2), distinct(3), render_mode="rgb_array", sampling="round_robin")
    heights = set()
    for _ in range(2):
        env.reset()
        heights.add(env.render().shape[0])
    assert len(heights) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "is not a list of tasks"),
        ({"tasks": DISTINCT}, "is not a list of tasks. Give a list such as"),
        ({"tasks": [{"env_config": {}}]}, "has no task name"),
        ({"tasks": [{"name": DISTINCT, "wait": 1}]}, "an entry of tasks has no option 'wait'. Did you mean 'weight'?"),
        ({"tasks": [{"name": DISTINCT, "weight": -1}]}, "tasks: weight=-1 is out of range"),
        ({"tasks": [{"name": DISTINCT, "weight": 0}]}, "all weights are 0"),
        (
            {"tasks": [{"name": DISTINCT, "env_config": 3}]},
            "env_config=3 of coordination/distinct_choice is not a mapping",
        ),
        ({"tasks": [{"name": DISTINCT, "env_config": {"n_agent": 3}}]}, "has no option 'n_agent'"),
        ({"tasks": ["coordination/distinct"]}, "Unknown environment 'coordination/distinct'"),
        ({"tasks": [DISTINCT, DISTINCT]}, "is given twice"),
        ({"tasks": [distinct(2, weight=2), distinct(3)], "sampling": "round_robin"}, "plays all tasks equally often"),
        ({"sampling": "rand"}, "sampling='rand' is unknown. Did you mean 'random'?"),
        ({"task_ids": 3}, "task_ids=3 is unknown"),
        ({"tasks": [DISTINCT, "toy/far"]}, "discrete in coordination/distinct_choice but continuous in toy/far"),
        ({"tasks": ["toy/unbounded"]}, "actions in toy/unbounded are unbounded"),
        ({"tasks": ["toy/pictures"]}, "toy/pictures has image observations"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_env("multitask/mixture", options)
    assert message in str(error.value)
