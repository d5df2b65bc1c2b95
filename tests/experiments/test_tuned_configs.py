"""The tuned experiments that come with the package are in order: checked as `rllib train file` does, built, and run."""

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
ALGORITHMS = {"mat": "MAT", "mam": "MAM", "marwkv": "MARWKV"}


@cache
def load(name: str) -> Experiment:
    """Checked as if nothing were missing here: no package is needed before an environment is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnvEntry, "missing", lambda entry: "")
        return TUNED[name].load()


@cache
def env_of(name: str) -> str:
    tuned = TUNED[name]
    return read_document(tuned.file).value[tuned.experiment]["env"]


def missing(env: str) -> str:
    """What has to be installed for it; empty if nothing."""
    entry = find_entry(env)
    assert entry is not None
    return entry.missing()


def algorithm_config(name: str) -> AlgorithmConfig:
    experiment = load(name)
    return get_trainable_cls(experiment.run).get_default_config().update_from_dict(experiment.config)


@pytest.mark.parametrize("name", TUNED)
def test_it_is_in_order_and_named_after_its_algorithm_and_task(name: str):
    algorithm, task = name.split("/")
    assert load(name).run == ALGORITHMS[algorithm]
    assert f"{task}-".startswith(env_of(name).replace("/", "-") + "-")  # the name of a variant may follow
    assert load(name).stop[ENV_STEPS] > 0


def test_several_share_a_file():
    tuned = TUNED["mam/smax-3s5z"]
    assert (tuned.file.name, tuned.experiment) == ("smax.yaml", "mam-smax-3s5z")
    first, other = load("mam/smax-2s3z"), load("mam/smax-3s5z")
    assert (first.name, other.name) == ("mam-smax-2s3z", "mam-smax-3s5z")
    assert other.config == first.config | {"env": "smax/3s5z"}


def test_one_with_a_file_of_its_own_is_named_after_the_file():
    assert TUNED["marwkv/mpe-simple_spread-v5"].experiment == load("marwkv/mpe-simple_spread-v5").name
    assert load("marwkv/mpe-simple_spread-v5").name == "marwkv5-mpe-simple_spread"


def test_all_algorithms_have_the_same_tasks():
    tasks = [{env_of(name) for name in TUNED if name.startswith(f"{algorithm}/")} for algorithm in ALGORITHMS]
    assert tasks[0] == tasks[1] == tasks[2]


NETWORK = {"embed_dim", "n_head", "version", "encoder_mixer", "decoder_mixer", "d_state", "d_conv", "expand", "dt_rank"}
# Where publications say otherwise: the learning rate of the MARWKV report on SMAC, and Mava's MAT on one task.
OTHERWISE = {"marwkv/smac": {"lr"}, "marwkv/multitask-mixture-smac": {"lr"}, "rware-small-4ag": {"n_block"}}


@pytest.mark.parametrize("name", [name for name in TUNED if not name.startswith("mat/")])
def test_algorithms_are_compared_on_equal_terms(name: str):
    """But for its network, an algorithm has MAT's values on the same task; its own defaults do not come between."""
    task = name.split("/")[1]
    plain = env_of(name).replace("/", "-")  # for a variant that MAT has not
    reference = f"mat/{task}" if f"mat/{task}" in TUNED else f"mat/{plain}"
    otherwise = set().union(*(keys for place, keys in OTHERWISE.items() if place in name))
    own, mat = vars(algorithm_config(name)), vars(algorithm_config(reference))
    shared = {key for key in own.keys() & mat.keys() if not key.startswith("_")} - NETWORK - otherwise - {"algo_class"}
    assert {key: own[key] for key in shared} == {key: mat[key] for key in shared}
    assert load(name).stop == load(reference).stop


def test_environments_have_the_options_that_are_set():
    made: list[Any] = []
    for name in TUNED:
        env, options = env_of(name), load(name).config.get("env_config", {})
        if options and (env, options) not in made:
            with suppress(ImportError):  # what is not installed, be it a task of a mixture
                make_env(env, options).close()
                made.append((env, options))
    assert made


@pytest.mark.parametrize("suite", [name for name, suite in SUITES.items() if not suite.external])
def test_one_of_each_suite_runs(suite: str, ray_cluster: None):
    """One iteration with two environments and eight steps, of each algorithm's first; one compilation serves all."""
    for algorithm in ALGORITHMS:
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
