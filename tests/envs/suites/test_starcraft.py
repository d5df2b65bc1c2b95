"""Tests of smac and smacv2, with stand-ins for the packages and, where they are installed, with the real packages.

The real packages run with a stand-in for the game, `starcraft_game.py`. They cannot share a process: with both
installed, run `-k real-smac-` and `-k real-smacv2-` separately, with PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starcraft_stand_in
from pettingzoo.test import parallel_api_test

from rllib_seqmarl.envs import JointEnvError, make_env, make_joint_env
from rllib_seqmarl.envs.check import check_joint_env
from rllib_seqmarl.envs.suites.starcraft import GameFault

HERE = Path(__file__).parent
TASKS = {"smac": "smac/3m", "smacv2": "smacv2/zerg_5_vs_5"}
LIMITS = {"smac": 60, "smacv2": 200}


class Packages:
    """The packages under test and the configuration of their battles."""

    def __init__(self, kind: str, suite: str, folder: Path, setenv: Callable[[str, str], None]):
        self.kind, self.suite, self.folder, self.setenv = kind, suite, folder, setenv
        self.task, self.limit = TASKS[suite], LIMITS[suite]
        self.marker = folder / "crashed"
        self.log = folder / "log"
        self.configure()

    def configure(self, **battle: Any) -> None:
        """Configure the battles of games that start from now on."""
        self.setenv("BATTLE", json.dumps({"log": str(self.log), "crash_marker": str(self.marker), **battle}))

    def running(self) -> int:
        """Return the number of running games."""
        if self.kind == "stand-in":
            return len(starcraft_stand_in.RUNNING)
        path, games = str(self.folder).encode(), 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                games += path in (process / "cmdline").read_bytes()
        return games

    def seeds(self) -> list[int]:
        """Return the seeds of all games so far; 0 for unseeded ones."""
        return [int(line.split()[1]) for line in self.log.read_text().splitlines()]


@pytest.fixture(params=["stand-in-smac-", "stand-in-smacv2-", "real-smac-", "real-smacv2-"])
def packages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Packages]:
    kind, suite = request.param[:-1].rsplit("-", 1)
    if kind == "stand-in":
        stand_ins: dict[str, Any] = {}
        starcraft_stand_in.install(stand_ins)
        for name, module in stand_ins.items():
            monkeypatch.setitem(sys.modules, name, module)
    else:
        if importlib.util.find_spec(suite) is None or importlib.util.find_spec("pysc2") is None:
            pytest.skip(f"{suite} is not installed")
        other = "smac" if suite == "smacv2" else "smacv2"
        if f"{other}.env" in sys.modules:
            pytest.skip(f"{other} is already imported in this process")
        install_game(tmp_path / "game")
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game" if kind == "real" else tmp_path))
    yield Packages(kind, suite, tmp_path, monkeypatch.setenv)
    starcraft_stand_in.RUNNING.clear()


def install_game(folder: Path) -> None:
    program = folder / "Versions/Base75689/SC2_x64"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "starcraft_game.py"} "$@"\n')
    program.chmod(0o755)
    maps = folder / "Maps/SMAC_Maps"
    maps.mkdir(parents=True)
    for name in ("3m", "2s3z", "MMM", "32x32_flat"):
        (maps / f"{name}.SC2Map").write_bytes(b"a map")


@pytest.fixture
def make(packages: Packages) -> Iterator[Callable[..., Any]]:
    """Factory of environments, which are closed after the test."""
    made = []

    def make(**options: Any) -> Any:
        made.append(make_env(packages.task, options))
        return made[-1]

    yield make
    for env in made:
        env.close()
    assert packages.running() == 0


def legal_actions(infos: dict[str, Any], rng: np.random.Generator) -> dict[str, int]:
    return {agent: int(rng.choice(np.flatnonzero(info["action_mask"]))) for agent, info in infos.items()}


def attack(infos: dict[str, Any]) -> dict[str, int]:
    """Attack if an enemy is in range, else move east."""
    choices = {}
    for agent, info in infos.items():
        action_mask = np.flatnonzero(info["action_mask"])
        choices[agent] = int(action_mask[-1] if action_mask[-1] >= 6 else 4 if 4 in action_mask else action_mask[0])
    return choices


def play(env: Any, seed: int | None, choose: Callable[[Any], Any] | None = None, max_steps: int = 400) -> list[Any]:
    """Reset the environment and play an episode."""
    rng = np.random.default_rng(0)
    observations, infos = env.reset(seed=seed)
    record = [(observations, infos, env.state())]
    while env.agents and len(record) <= max_steps:
        actions = choose(infos) if choose else legal_actions(infos, rng)
        results = env.step(actions)
        infos = results[-1]
        record.append((*results, env.state()))
    return record


def flatten_record(record: list[Any]) -> np.ndarray:
    """Concatenate all observations and states of an episode."""
    return np.array([np.concatenate([*step[0].values(), step[-1]]) for step in record])


def test_environment_check_passes(packages: Packages, make: Callable[..., Any]) -> None:
    check_joint_env(make(), max_steps=20)


def test_pettingzoo_api(make: Callable[..., Any]) -> None:
    env = make()
    for agent in env.possible_agents:
        assert env.observation_space(agent) is env.observation_space(agent)
    space = env.action_space("agent_0")
    env.action_space = lambda agent: Masked(env, agent, space)  # PettingZoo only supports masks in observations
    parallel_api_test(env, num_cycles=15)


class Masked:
    """An action space that samples legal actions."""

    spaces: dict[str, Any] = {}

    def __new__(cls, env: Any, agent: str, space: Any) -> Any:
        return cls.spaces.setdefault(agent, super().__new__(cls))

    def __init__(self, env: Any, agent: str, space: Any):
        self.env, self.i = env, int(agent.split("_")[1])

    def sample(self) -> int:
        return int(np.flatnonzero(self.env._masks[self.i])[-1])


def test_steps_match_the_package(packages: Packages, make: Callable[..., Any]) -> None:
    """Also after early resets, with which the package alone would change the scale of rewards."""
    env = make()
    for _ in range(3):
        observations, infos = env.reset(seed=5)
    env.reset(), env.reset()
    observations, infos = env.reset(seed=5)
    bare = env._make_game(5)
    if env._seed_generators:
        env._seed_generators(bare, 5)
    with type(env._streams)(5).activate():
        bare.reset()
        rng = np.random.default_rng(3)
        while env.agents:
            np.testing.assert_array_equal(np.stack(list(observations.values())), np.stack(bare.get_obs()))
            np.testing.assert_array_equal(env.state(), bare.get_state())
            masks = [info["action_mask"] for info in infos.values()]
            np.testing.assert_array_equal(masks, bare.get_avail_actions())
            actions = legal_actions(infos, rng)
            reward, over, bare_info = bare.step(list(actions.values()))
            observations, rewards, terminated, truncated, infos = env.step(actions)
            assert set(rewards.values()) == {reward}
            assert over == (not env.agents) == (terminated["agent_0"] or truncated["agent_0"])
    assert infos["agent_0"]["win"] == bare_info["battle_won"]
    bare.close()


def test_resets_do_not_restart_the_game_or_rescale_rewards(packages: Packages, make: Callable[..., Any]) -> None:
    env = make()
    env.reset()
    core = vars(env._game).get("env", env._game)
    scale = core.max_reward
    env.reset()
    env.step(attack(env.reset()[1]))
    env.reset()
    assert core.max_reward == scale
    assert len(packages.seeds()) == packages.running() == 1


def test_dead_agents_stay_and_are_rewarded(packages: Packages, make: Callable[..., Any]) -> None:
    packages.configure(enemy_damage=20, ally_damage=1)
    env = make()
    _, infos = env.reset()
    n = len(env.agents)
    dead: set[str] = set()
    while env.agents:
        observations, rewards, terminated, truncated, infos = env.step(attack(infos))
        assert len(set(rewards.values())) == 1 and len(rewards) == n
        for agent, info in infos.items():
            if not info["alive"]:
                dead.add(agent)
                assert not observations[agent].any()
                assert info["action_mask"].tolist() == [1] + [0] * (len(info["action_mask"]) - 1)
            else:
                assert agent not in dead and info["action_mask"][0] == 0
        if env.agents and dead and len(dead) < n:
            dead_agent, alive = next(iter(dead)), next(agent for agent in env.agents if agent not in dead)
            for agent, action in ((dead_agent, 1), (alive, 0), (alive, -1), (alive, 999)):
                with pytest.raises(JointEnvError, match=f"'{agent}': action {action} is illegal"):
                    env.step(attack(infos) | {agent: action})
    assert len(dead) == n
    assert all(terminated.values()) and not any(truncated.values())
    assert {info["win"] for info in infos.values()} == {0.0}


def test_joint_env_handles_dead_agents(packages: Packages) -> None:
    packages.configure(enemy_damage=25)
    env = make_joint_env(packages.task, global_state=True)
    observation, _ = env.reset()
    while observation["alive"].all():
        action = [np.flatnonzero(mask)[-1] for mask in observation["action_mask"]]
        observation, *_ = env.step(np.array(action))
    (row,) = np.flatnonzero(observation["alive"] == 0)[:1]
    assert observation["action_mask"][row].tolist()[:2] == [1, 0]
    assert observation["state"].shape == env.env.state().shape
    env.close()


def test_time_limits_truncate(packages: Packages, make: Callable[..., Any]) -> None:
    packages.configure(enemy_damage=0)
    record = play(make(), 1, choose=lambda infos: dict.fromkeys(infos, 1))
    _, _, terminated, truncated, infos, _ = record[-1]
    assert len(record) == packages.limit + 1
    assert all(truncated.values()) and not any(terminated.values())
    assert {info["win"] for info in infos.values()} == {0.0}
    assert "win" not in record[-2][4]["agent_0"] and not any(record[-2][3].values())


def test_a_win_at_the_time_limit_terminates(packages: Packages, make: Callable[..., Any]) -> None:
    packages.configure(enemy_damage=0, enemies_leave_at=packages.limit)
    record = play(make(), 1, choose=lambda infos: dict.fromkeys(infos, 1))
    _, _, terminated, truncated, infos, _ = record[-1]
    assert len(record) == packages.limit + 1
    assert all(terminated.values()) and not any(truncated.values())
    assert {info["win"] for info in infos.values()} == {1.0}


def test_seeds_fix_episodes(packages: Packages, make: Callable[..., Any]) -> None:
    env = make()
    random.seed(0), np.random.seed(0)
    first = flatten_record(play(env, 7))
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    play(env, None)
    assert random.getstate() == python_state  # the global generators are unaffected
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    random.seed(1), np.random.seed(1)
    np.testing.assert_array_equal(flatten_record(play(env, 7)), first)
    np.testing.assert_array_equal(flatten_record(play(make(), 7)), first)
    others = [flatten_record(play(env, 8)), flatten_record(play(make(), None)), flatten_record(play(make(), None))]
    assert not any(other.shape == first.shape and np.array_equal(other, first) for other in others)
    assert not (others[1].shape == others[2].shape and np.array_equal(others[1], others[2]))
    assert packages.seeds() == [7, 7, 7, 8, 0, 0]
    env.reset(seed=2**40 + 3)
    assert packages.seeds()[-1] == 3


def test_seeding_without_restarting_the_game(packages: Packages, make: Callable[..., Any]) -> None:
    env = make(restart_on_seed=False)
    starts = [play(env, seed, max_steps=0)[0] for seed in (3, 4, 3)]
    assert len(packages.seeds()) == 1
    if packages.suite == "smacv2":  # the game's own noise is smaller than differences in teams and positions
        states = [np.sort(start[2]) for start in starts]
        assert np.abs(states[0] - states[2]).max() < 0.01 < np.abs(states[0] - states[1]).max()


def test_copies_play_separate_games(packages: Packages, make: Callable[..., Any]) -> None:
    env = make()
    env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.observation_space("agent_0") == env.observation_space("agent_0")
    np.testing.assert_array_equal(flatten_record(play(copy, 2)), flatten_record(play(env, 2)))
    assert packages.running() == 2
    copy.close(), copy.close()
    assert packages.running() == 1


def test_render_shows_both_sides(make: Callable[..., Any]) -> None:
    env = make(render_mode="rgb_array")
    env.reset(seed=1)
    image = env.render()
    assert image.dtype == np.uint8 and image.shape == (512, 512, 3)
    reds, blues = (image == (178, 34, 34)).all(2).sum(), (image == (65, 105, 225)).all(2).sum()
    assert reds > 50 and blues > 50


def test_a_crash_in_a_step_is_a_fault(packages: Packages, make: Callable[..., Any]) -> None:
    packages.configure(crash_at={"step": 4})
    env = make()
    _, infos = env.reset()
    for _ in range(3):
        *_, infos = env.step(attack(infos))
    with pytest.raises(GameFault, match=f"{packages.task}: StarCraft II failed at step") as fault:
        env.step(attack(infos))
    assert packages.marker.exists() and packages.running() == 0
    assert not isinstance(fault.value, ValueError)  # ValueErrors are not retried
    record = play(env, None)
    assert packages.running() == 1 and len(record) > 4


def test_a_crash_in_a_reset_is_a_fault(packages: Packages, make: Callable[..., Any]) -> None:
    """The package would return the units of the previous game."""
    packages.configure(crash_at={"observe": 2 if packages.kind == "stand-in" or packages.suite == "smac" else 4})
    env = make()
    env.reset()
    with pytest.raises(GameFault, match="failed at reset"):
        for _ in range(3):
            env.reset()
    assert packages.marker.exists() and packages.running() == 0
    env.reset()
    assert packages.running() == 1


def test_a_missing_game_is_reported_and_not_retried(
    packages: Packages, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2PATH", str(packages.folder / "nowhere"))
    env = make()
    for _ in range(2):
        with pytest.raises(JointEnvError, match=r"nowhere.*SC2PATH"):
            env.reset()
    with pytest.raises(JointEnvError, match=rf"{packages.task}: StarCraft II cannot be started"):
        make_joint_env(packages.task)


def test_a_missing_map_is_reported_and_not_retried(packages: Packages, make: Callable[..., Any]) -> None:
    if packages.kind == "stand-in":
        pytest.skip("only the real packages have maps")
    for path in packages.folder.rglob("*.SC2Map"):
        path.unlink()
    with pytest.raises(JointEnvError, match=r"Map .* not found"):
        make().reset()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"difficulty": "11"}, "difficulty='11'"),
        ({"difficulty": 7}, "difficulty=7"),
        ({"render_mode": "human"}, "render_mode"),
        ({"step_mul": 0}, "step_mul=0.*>= 1"),
        ({"move_amount": -1}, "move_amount=-1.*>= 0"),
        ({"reward_defeat": 1}, "reward_defeat=1"),
        ({"reward_scale_rate": 0}, "reward_scale_rate=0"),
        ({"reward_sparse": "yes"}, "reward_sparse='yes'"),
        ({"obs_last_action": 2}, "obs_last_action=2"),
        ({"restart_on_seed": None}, "restart_on_seed=None"),
        ({"sight_range": 9}, "has no option 'sight_range'"),
    ],
)
def test_options_are_checked(packages: Packages, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(packages.task, option)


def test_options_reach_the_package(packages: Packages, make: Callable[..., Any]) -> None:
    plain, wide = make(), make(obs_last_action=True, reward_scale=False)
    n, choices = len(plain.possible_agents), plain.action_space("agent_0").n
    added = wide.observation_space("agent_0").shape[0] - plain.observation_space("agent_0").shape[0]
    assert added == (n - 1) * choices


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_rllib_recreates_a_crashed_game(packages: Packages, num_env_runners: int) -> None:
    """It also samples each observation exactly once."""
    if num_env_runners and packages.suite == "smac":
        pytest.skip("covered by smacv2; restarting a runner is slow")
    from rllib_seqmarl import MATConfig

    battle = {"crash_at": {"step": 25}, "crash_marker": str(packages.marker), "log": str(packages.log), "serials": True}
    create = make_creator(packages.kind, packages.task, json.dumps(battle), sys.path[:], str(packages.folder))
    algo = (
        MATConfig()
        .environment(create)
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=40, num_epochs=1)
        .network(embed_dim=16)
        .fault_tolerance(restart_failed_sub_environments=num_env_runners == 0, delay_between_env_runner_restarts_s=0.1)
        .build_algo()
    )
    if num_env_runners == 0:
        episodes = algo.env_runner.sample(num_timesteps=80)
        assert packages.marker.exists()
        if packages.kind == "stand-in":
            observations = [np.stack(episode.get_observations()["observations"])[:-1] for episode in episodes]
            n = observations[0].shape[1]  # (steps, n, obs_dim), ending with the serial number and the agent ids
            serials = np.concatenate(observations)[:, :, -n - 1].max(1)
            assert len(np.unique(serials)) == len(serials) == sum(map(len, episodes)) >= 80
    steps = 0
    for _ in range(40):
        steps = algo.train().get("num_env_steps_sampled_lifetime", 0)
        if steps >= 120:
            break
    assert packages.marker.exists() and steps >= 120
    algo.stop()
    assert packages.kind == "real" or num_env_runners == 1 or packages.running() == 0


def make_creator(kind: str, task: str, battle: str, paths: list[str], folder: str) -> Callable[..., Any]:
    """Return a function that makes the environment, also in other processes."""

    def create(**_: Any) -> Any:
        import os
        import sys

        from rllib_seqmarl.envs import make_env

        os.environ["BATTLE"] = battle
        os.environ["SC2PATH"] = folder if kind == "stand-in" else f"{folder}/game"
        sys.path.extend(path for path in paths if path not in sys.path)
        if kind == "stand-in" and "smacv2" not in sys.modules:
            import starcraft_stand_in

            starcraft_stand_in.install()
        return make_env(task)

    return create
