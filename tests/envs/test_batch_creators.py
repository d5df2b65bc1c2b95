"""What makes batches is known by its parameter `num_envs`; a single team of it is made wherever one is needed."""

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


def only_its_number(num_envs: int) -> Walkers:
    return Walkers(num_envs, length=9)


def any_options(num_envs: int, **options: Any) -> Walkers:
    return Walkers(num_envs, **options)


SOURCES: list[Callable[..., Any]] = [Walkers, any_options, partial(Walkers, spread=0.5), partial(any_options, length=2)]


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_or_a_single_team_is_made_with_the_options(source: Any) -> None:
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


def test_a_number_alone_is_not_taken_for_a_config() -> None:
    assert make_env(only_its_number).batch.length == 9


class Few(Walkers):
    def __init__(self, num_envs: int):
        super().__init__(3)


class Numberless(Walkers):
    def __init__(self, length: int = 5):
        super().__init__(2, length=length)


def team_of_many(num_envs: int = 1) -> ToyTeam:
    return ToyTeam()


@pytest.mark.parametrize(
    ("source", "config", "error", "message"),
    [
        (
            Few,
            {},
            JointEnvError,
            "Few cannot be relied on as a batch of teams:\n- It must have as many copies as it is made with: `num_envs`"
            ". It was made with num_envs={asked}, but has 3. Set `self.num_envs` to the argument, and make that many.",
        ),
        (Numberless, {}, TypeError, "Numberless has no parameter `num_envs`. Add it"),
        (
            team_of_many,
            {},
            TypeError,
            "team_of_many has a parameter `num_envs`, as creators of a BatchedSimulator do, but it made",
        ),
        (Walkers, {"lenght": 2}, ValueError, "Walkers has no option 'lenght'. Did you mean 'length'? It has: length,"),
        (only_its_number, {"length": 2}, ValueError, "only_its_number has no option 'length'. It has: none."),
        (
            lambda config: Walkers(2),
            {},
            TypeError,
            "Walkers is an instance of BatchedSimulator",
        ),
    ],
)
def test_what_cannot_be_made_says_why(source: Any, config: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message.format(asked=1))):
        make_env(source, config)
    with pytest.raises(error, match=re.escape(message.format(asked=4))):
        JointEnvCreator(source).make_vector(4, config)


def test_the_number_is_no_option() -> None:
    with pytest.raises(ValueError, match="Walkers has no option 'num_envs'"):
        make_env(Walkers, {"num_envs": 2})
    with pytest.raises(ValueError, match="Walkers has no option 'num_envs'"):
        JointEnvCreator(Walkers).make_vector(4, {"num_envs": 2})


def test_a_suites_batch_must_have_the_number_of_copies_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_batch(task: str, num_envs: int) -> BatchedSimulator:
        return ToyBatch(3)

    entry = catalog.EnvEntry(Suite("toys", {"few": "Few."}, single(make_batch), make_batch), "few")
    monkeypatch.setitem(catalog.CATALOG, "toys/few", entry)
    with pytest.raises(JointEnvError, match="ToyBatch .*(?s:.*)made with num_envs=4, but has 3"):
        JointEnvCreator("toys/few").make_vector(4, {})


def test_only_a_users_own_batch_is_played_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_batch(task: str, num_envs: int) -> BatchedSimulator:
        return ToyBatch(num_envs)

    entry = catalog.EnvEntry(Suite("toys", {"sound": "Sound."}, single(make_batch), make_batch), "sound")
    monkeypatch.setitem(catalog.CATALOG, "toys/sound", entry)
    assert JointEnvCreator("toys/sound")({"num_envs": 2}).batch.steps == 0
    assert JointEnvCreator(ToyBatch)({"num_envs": 2}).batch.steps > 0
    assert JointEnvCreator(ToyBatch).make_vector(2, {}).batch.steps == 0  # to evaluate a policy that was trained in it


def test_the_example_in_the_documentation_runs() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "environments.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(example, {"__name__": "example"})
