"""`rllib list` shows algorithms, environments and their requirements."""

from __future__ import annotations

import inspect

import pytest
from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS
from toy_envs import ToyTeam

from rllib_seqmarl.algorithm_names import ALGORITHM_NAMES, RLLIB_ALGORITHM_NAMES
from rllib_seqmarl.envs import CATALOG, EnvEntry
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.inventory import inventory
from rllib_seqmarl.registry import ALGORITHMS


def test_algorithm_names_match_the_registry() -> None:
    assert {name: inspect.getdoc(cls) for name, cls in ALGORITHMS.items()} == ALGORITHM_NAMES
    assert tuple(RLLIB_ALGORITHMS) == RLLIB_ALGORITHM_NAMES


def test_all_algorithms_and_environments_are_listed() -> None:
    words = inventory().split()
    assert {*ALGORITHMS, *CATALOG} <= set(words)


def test_agents_spaces_and_requirements_are_listed() -> None:
    lines = inventory("speaker").splitlines()
    (line,) = (line for line in lines if line.startswith("mpe/"))
    facts = ["2", "3-11", "3 choices or 5 choices", "-", "14", "[mpe]", CATALOG["mpe/simple_speaker_listener"].summary]
    assert line.split()[1:] == " ".join(facts).split()


def test_missing_packages_are_listed_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(
        "toys",
        {"far": "Far away."},
        ToyTeam,
        requires=("no_such_package",),
        extra="toys",
        install="Then wait.",
        other_tasks="far-{1..9}",
    )
    monkeypatch.setitem(CATALOG, "toys/far", EnvEntry(suite, "far"))
    text = inventory("toys/")
    assert "[toys], missing" in text
    assert 'toys: pip install -e ".[toys]" Then wait.' in text
    assert "toys/far-{1..9}" in text


def test_an_unknown_word_suggests_the_nearest_name() -> None:
    with pytest.raises(ExperimentError, match="no name contains 'mpe/simple_spred'. Did you mean 'mpe/simple_spread'"):
        inventory("mpe/simple_spred")


def test_words_match_in_any_case() -> None:
    assert inventory("SMAX") == inventory("smax")
    assert "Multi-Agent Transformer" in inventory("mat")
