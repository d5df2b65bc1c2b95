"""Tests of creators with a parameter `num_envs`, which make batches and single teams."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.tune.registry import register_env
from toy_batch import ToyBatch, Walkers
from toy_envs import ToyTeam

from rllib_seqmarl.envs import BatchedSimulator, JointEnvError, catalog, make_env, make_joint_env
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.envs.single_team import SingleTeam, single
from rllib_seqmarl.envs.suite import Suite

DOCS = Path(__file__).parents[2] / "docs"


def only_num_envs(num_envs: int) -> Walkers:
    return Walkers(num_envs, length=9)


def any_options(num_envs: int, **options: Any) -> Walkers:
    return Walkers(num_envs, **options)


SOURCES: list[Callable[..., Any]] = [Walkers, any_options, partial(Walkers, spread=0.5), partial(any_options, length=2)]


@pytest.mark.parametrize("source", SOURCES)
def test_options_reach_batches_and_single_teams(source: Any) -> None:
    register_env("tests/walkers", source)
    for env in (source, "tests/walkers"):
        create = JointEnvCreator(env, agent_ids=False)
        assert create.takes_keywords
        joint = create({"num_envs": 5, "length": 9})
        assert isinstance(joint, JointBatchEnv)
        assert (joint.num_envs, joint.batch.length, joint.layout.agent_ids) == (5, 9, False)
        team = make_env(env, {"length": 9})
        assert isinstance(team, SingleTeam)
        assert team.batch.length == 9
        assert make_joint_env(env, agent_ids=False).layout == joint.layout


def test_num_envs_is_not_mistaken_for_a_config() -> None:
    assert make_env(only_num_envs).batch.length == 9


class Few(Walkers):
    def __init__(self, num_envs: int):
        super().__init__(3)


class WithoutNumEnvs(Walkers):
    def __init__(self, length: int = 5):
        super().__init__(2, length=length)


def not_a_batch(num_envs: int = 1) -> ToyTeam:
    return ToyTeam()


@pytest.mark.parametrize(
    ("source", "config", "error", "message"),
    [
        (
            Few,
            {},
            JointEnvError,
            "Few is not a valid batch of teams:\n- It must have the number of copies passed as `num_envs`. "
            "It was made with num_envs={requested}, but has 3. Set `self.num_envs` to the argument, and make that man",
        ),
        (WithoutNumEnvs, {}, TypeError, "WithoutNumEnvs has no parameter `num_envs`. Add it"),
        (
            not_a_batch,
            {},
            TypeError,
            "not_a_batch has a parameter `num_envs`, as creators of a BatchedSimulator do, but it returned",
        ),
        (Walkers, {"lenght": 2}, ValueError, "Walkers has no option 'lenght'. Did you mean 'length'? It has: length,"),
        (only_num_envs, {"length": 2}, ValueError, "only_num_envs has no option 'length'. It has: none."),
        (
            lambda config: Walkers(2),
            {},
            TypeError,
            "Walkers is an instance of BatchedSimulator",
        ),
    ],
)
def test_failures_are_explained(source: Any, config: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message.format(requested=1))):
        make_env(source, config)
    with pytest.raises(error, match=re.escape(message.format(requested=4))):
        JointEnvCreator(source).make_vector(4, config)


def test_num_envs_is_not_an_option() -> None:
    with pytest.raises(ValueError, match="Walkers has no option 'num_envs'"):
        make_env(Walkers, {"num_envs": 2})
    with pytest.raises(ValueError, match="Walkers has no option 'num_envs'"):
        JointEnvCreator(Walkers).make_vector(4, {"num_envs": 2})


def test_suite_batches_must_have_the_requested_number_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_batch(task: str, num_envs: int) -> BatchedSimulator:
        return ToyBatch(3)

    entry = catalog.EnvEntry(Suite("toys", {"few": "Few."}, single(make_batch), make_batch), "few")
    monkeypatch.setitem(catalog.CATALOG, "toys/few", entry)
    with pytest.raises(JointEnvError, match="ToyBatch .*(?s:.*)made with num_envs=4, but has 3"):
        JointEnvCreator("toys/few").make_vector(4, {})


def test_only_user_batches_are_checked_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_batch(task: str, num_envs: int) -> BatchedSimulator:
        return ToyBatch(num_envs)

    entry = catalog.EnvEntry(Suite("toys", {"sound": "Sound."}, single(make_batch), make_batch), "sound")
    monkeypatch.setitem(catalog.CATALOG, "toys/sound", entry)
    assert JointEnvCreator("toys/sound")({"num_envs": 2}).batch.steps == 0
    assert JointEnvCreator(ToyBatch)({"num_envs": 2}).batch.steps > 0
    assert JointEnvCreator(ToyBatch).make_vector(2, {}).batch.steps == 0  # as for the evaluation of a trained policy


def test_documentation_example() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "environments.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(example, {"__name__": "example"})
