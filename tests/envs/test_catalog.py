"""Tests of making environments from names, classes and creators, and of the messages if that fails."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import pytest
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl.envs import catalog
from rllib_seqmarl.envs.catalog import EnvEntry, find_creator, make_env, make_joint_env
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.suite import Suite


def keywords(length: int = 6, terminates: bool = False) -> ToyTeam:
    return ToyTeam(length=length, terminates=terminates)


def keywords_only(**options: Any) -> ToyTeam:
    return ToyTeam(**options)


def one_option(length: int = 6) -> ToyTeam:
    return ToyTeam(length=length)


class TupleTeam(gym.Env):
    """A team in the format of EPyMARL."""

    observation_space = gym.spaces.Tuple([gym.spaces.Discrete(2)] * 2)
    action_space = gym.spaces.Tuple([gym.spaces.Discrete(3)] * 2)


@pytest.mark.parametrize("source", [ToyTeam, keywords, keywords_only, one_option])
def test_options_become_keywords(source: Any) -> None:
    assert make_env(source, {"length": 9}).length == 9
    assert make_env(source).length == 6


def takes_config(config: dict[str, Any]) -> TakingTurns:
    return TakingTurns(config)


def may_take_config(env_config: dict[str, Any] | None = None) -> TakingTurns:
    return TakingTurns(env_config)


@pytest.mark.parametrize("source", [TakingTurns, takes_config, may_take_config, lambda c: TakingTurns(c)])
def test_rllib_creators_receive_the_config(source: Any) -> None:
    assert make_env(source, {"length": 9}).config["length"] == 9


def test_names_registered_with_ray() -> None:
    from ray.tune.registry import register_env

    register_env("toys/turns", TakingTurns)
    assert make_joint_env("toys/turns", {"length": 2}).name == "toys/turns"


def test_joint_environments_are_kept_or_rebuilt_with_options() -> None:
    assert not make_joint_env(lambda config: JointEnv(ToyTeam(), agent_ids=False)).layout.agent_ids
    assert make_joint_env(lambda config: JointEnv(ToyTeam(), agent_ids=False), agent_ids=True).layout.agent_ids


@pytest.mark.parametrize(
    ("source", "config", "error", "message"),
    [
        (
            "mpe/simple_spred",
            {},
            ValueError,
            "Unknown environment 'mpe/simple_spred'. Did you mean 'mpe/simple_spread'",
        ),
        ("xyz", {}, ValueError, "Unknown environment 'xyz'. Known suites: "),
        ("mpe/chess", {}, ValueError, "Unknown environment 'mpe/chess'. Tasks of mpe: simple"),
        (
            "CartPole-v1",
            {},
            TypeError,
            "'CartPole-v1' is a gymnasium.Env. If it is a team with one entry of its Tuple spaces per agent, wrap it",
        ),
        (gym.Env, {}, TypeError, "Env is a gymnasium.Env. If it is a team"),
        (
            TupleTeam,
            {},
            TypeError,
            "TupleTeam is a gymnasium.Env with one entry of its Tuple spaces per agent. Wrap it",
        ),
        (lambda config: TupleTeam(), {}, TypeError, "with one entry of its Tuple spaces per agent"),
        (lambda config: gym.make("CartPole-v1"), {}, TypeError, "is a single-agent environment"),
        (
            lambda config: object(),
            {},
            TypeError,
            "object is neither an RLlib MultiAgentEnv nor a PettingZoo ParallelEnv",
        ),
        (7, {}, TypeError, "An environment must be a name, a class or a creator, not 7."),
        (keywords, {"lenght": 2}, ValueError, "keywords has no option 'lenght'. Did you mean 'length'?"),
        (ToyTeam, {"dead": 2}, ValueError, "ToyTeam has no option 'dead'."),
        (
            "mpe/simple_spread",
            {"max_cycle": 2},
            ValueError,
            "has no option 'max_cycle'. Did you mean 'max_cycles'?",
        ),
        (
            "coordination/distinct_choice",
            {"n_agent": 2},
            ValueError,
            "no option 'n_agent'. Did you mean 'n_agents'?",
        ),
    ],
)
def test_failures_are_explained(source: Any, config: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make_env(source, config)


def test_turn_based_environments_are_rejected_with_a_remedy() -> None:
    from mpe2 import simple_spread_v3

    with pytest.raises(TypeError, match=r"turn-based PettingZoo AECEnv.*pettingzoo\.utils\.aec_to_parallel\(env\)"):
        make_env(lambda config: simple_spread_v3.env())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite("toys", {"far": "Far away."}, ToyTeam, requires=("no_such_package.part",), extra="toys")
    entry = EnvEntry(suite, "far")
    monkeypatch.setitem(catalog.CATALOG, "toys/far", entry)
    assert entry.missing() == 'pip install -e ".[toys]"'
    with pytest.raises(ImportError, match=re.escape('toys/far needs no_such_package.part: pip install -e ".[toys]"')):
        find_creator("toys/far")


def test_unlisted_tasks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(
        "toys",
        {"length-6": "Six steps."},
        lambda task, *, terminates=False: ToyTeam(length=int(task.split("-")[1]), terminates=terminates),
        knows=lambda task: bool(re.fullmatch(r"length-\d+", task)),
        other_tasks="length-{1..}",
    )
    monkeypatch.setitem(catalog.SUITES, "toys", suite)
    assert make_env("toys/length-9", {"terminates": True}).length == 9
    with pytest.raises(ValueError, match="toys/length-9 has no option 'terminate'. Did you mean 'terminates'"):
        make_env("toys/length-9", {"terminate": True})
    with pytest.raises(ValueError, match=re.escape("Tasks of toys: length-6, and length-{1..}. Register your own")):
        make_env("toys/longer")
