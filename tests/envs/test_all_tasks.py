"""Checks of every listed task whose packages are installed, and of its description."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test

from rllib_seqmarl.envs import CATALOG, JointEnv, check_joint_env, make_env
from rllib_seqmarl.envs.descriptions import EnvDescription, action_in_words, known_descriptions

DESCRIPTIONS = known_descriptions()
# By suite: random teams rarely end an episode before the time limit, which may just as well be short.
SHORTER = {"vmas": {"max_steps": 50}, "jumanji-rware": {"time_limit": 50}}
REMEDY = "run python -m rllib_seqmarl.envs.descriptions"


@pytest.fixture(scope="module", params=CATALOG)
def task(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """The name of a listed task and its environment."""
    entry = CATALOG[request.param]
    if entry.suite.external or entry.missing():
        pytest.skip(f"{entry.name} needs {entry.suite.external or ', '.join(entry.suite.requires)}")
    env = make_env(entry.name, SHORTER.get(entry.suite.name))
    yield entry.name, env
    env.close()


def test_three_full_random_episodes(task: tuple[str, Any]) -> None:
    check_joint_env(task[1], episodes=3, max_steps=100_000)


def test_pettingzoo_check(task: tuple[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(task[1], num_cycles=40)


def test_gymnasium_check(task: tuple[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|different from the unwrapped|minimum value).*")
        check_env(JointEnv(task[1], name=task[0]), skip_render_check=True)


def test_description_is_up_to_date(task: tuple[str, Any]) -> None:
    name, env = task
    assert DESCRIPTIONS.get(name) == EnvDescription.of(env), REMEDY


def test_all_listed_tasks_are_described() -> None:
    assert list(DESCRIPTIONS) == [name for name, entry in CATALOG.items() if not entry.suite.external], REMEDY
    for entry in CATALOG.values():
        assert entry.summary.endswith(".")


def test_action_descriptions() -> None:
    words = [action_in_words(s) for s in (spaces.Discrete(5), spaces.MultiDiscrete([5, 10]), spaces.Box(-1, 1, (2,)))]
    assert words == ["5 choices", "5 x 10 choices", "2 real"]
