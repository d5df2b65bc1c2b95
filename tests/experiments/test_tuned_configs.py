"""The package's tuned experiments are valid: checked like by `rllib train file`, built, and run."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.envs.catalog import EnvEntry, find_entry, make_env
from rllib_seqmarl.envs.suites import SUITES
from rllib_seqmarl.experiments import tuned_configs
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_file import read_document
from rllib_seqmarl.experiments.metrics import ENV_STEPS

TUNED = tuned_configs()
ALGORITHMS = {
    "mat": "MAT",
    "mam": "MAM",
    "marwkv": "MARWKV",
    "mappo": "MAPPO",
    "ippo": "IPPO",
    "happo": "HAPPO",
    "sable": "Sable",
}
SAME_UPDATE = ("mat", "mam", "marwkv")


@cache
def load(name: str) -> Experiment:
    """Load an experiment as if all packages were installed; they are only needed to create environments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnvEntry, "missing", lambda entry: "")
        return TUNED[name].load()


@cache
def env_of(name: str) -> str:
    tuned = TUNED[name]
    return read_document(tuned.file).value[tuned.experiment]["env"]


def missing(env: str) -> str:
    """Return the missing packages of an environment; empty if there are none."""
    entry = find_entry(env)
    assert entry is not None
    return entry.missing()


def algorithm_config(name: str) -> AlgorithmConfig:
    experiment = load(name)
    return get_trainable_cls(experiment.run).get_default_config().update_from_dict(experiment.config)


@pytest.mark.parametrize("name", TUNED)
def test_it_is_valid_and_named_after_its_algorithm_and_task(name: str):
    algorithm, task = name.split("/")
    assert load(name).run == ALGORITHMS[algorithm]
    assert f"{task}-".startswith(env_of(name).replace("/", "-") + "-")  # the name of a variant may follow
    assert load(name).stop[ENV_STEPS] > 0


def test_several_experiments_share_a_file():
    tuned = TUNED["mam/smax-3s5z"]
    assert (tuned.file.name, tuned.experiment) == ("smax.yaml", "mam-smax-3s5z")
    first, other = load("mam/smax-2s3z"), load("mam/smax-3s5z")
    assert (first.name, other.name) == ("mam-smax-2s3z", "mam-smax-3s5z")
    assert other.config == first.config | {"env": "smax/3s5z"}


def test_the_only_experiment_in_a_file_is_named_after_the_file():
    assert TUNED["marwkv/mpe-simple_spread-v5"].experiment == load("marwkv/mpe-simple_spread-v5").name
    assert load("marwkv/mpe-simple_spread-v5").name == "marwkv5-mpe-simple_spread"


def test_all_algorithms_have_the_same_tasks():
    tasks = [{env_of(name) for name in TUNED if name.startswith(f"{algorithm}/")} for algorithm in SAME_UPDATE]
    assert tasks[0] == tasks[1] == tasks[2]


NETWORK = {"embed_dim", "n_head", "version", "encoder_mixer", "decoder_mixer", "d_state", "d_conv", "expand", "dt_rank"}
# Exceptions from publications: the learning rate of the MARWKV report on SMAC, and Mava's MAT on one task.
EXCEPTIONS = {"marwkv/smac": {"lr"}, "marwkv/multitask-mixture-smac": {"lr"}, "rware-small-4ag": {"n_block"}}


@pytest.mark.parametrize("name", [name for name in TUNED if name.startswith(("mam/", "marwkv/"))])
def test_algorithms_are_compared_on_equal_terms(name: str):
    """Except for network options and publications, an algorithm uses the same values as MAT on the same task."""
    task = name.split("/")[1]
    plain = env_of(name).replace("/", "-")  # for a variant that MAT lacks
    reference = f"mat/{task}" if f"mat/{task}" in TUNED else f"mat/{plain}"
    exceptions = set().union(*(keys for place, keys in EXCEPTIONS.items() if place in name))
    own, mat = vars(algorithm_config(name)), vars(algorithm_config(reference))
    shared = {key for key in own.keys() & mat.keys() if not key.startswith("_")} - NETWORK - exceptions - {"algo_class"}
    assert {key: own[key] for key in shared} == {key: mat[key] for key in shared}
    assert load(name).stop == load(reference).stop


def test_environments_accept_the_configured_options():
    made: list[Any] = []
    for name in TUNED:
        env, options = env_of(name), load(name).config.get("env_config", {})
        if options and (env, options) not in made:
            with suppress(ImportError):  # not installed, or a task of a mixture is not
                make_env(env, options).close()
                made.append((env, options))
    assert made


@pytest.mark.parametrize("suite", [name for name, suite in SUITES.items() if not suite.external])
def test_one_of_each_suite_runs(suite: str, ray_cluster: None):
    """Run one iteration of two environments x eight steps with each algorithm's first experiment of a suite."""
    for algorithm in SAME_UPDATE:
        name = next(name for name in TUNED if name.startswith(f"{algorithm}/") and env_of(name).startswith(f"{suite}/"))
        if what := missing(env_of(name)):
            pytest.skip(f"{env_of(name)} needs {what}")
        small = {"num_env_runners": 0, "num_envs_per_env_runner": 2, "num_epochs": 1}
        small |= {"train_batch_size_per_learner": 16, "minibatch_size": load(name).config.get("minibatch_size") and 8}
        algo = algorithm_config(name).update_from_dict(small).build_algo()
        try:
            assert algo.train()["num_env_steps_sampled_lifetime"] >= 16, name
        finally:
            algo.stop()
