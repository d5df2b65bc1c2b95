"""Experiment files: parsing, and error messages with the line and the remedy."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from ray._private import worker as ray_worker

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment_file import load_experiments, parse_yaml
from rllib_seqmarl.registry import register


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "exp.yaml"
        path.write_text(dedent(text).lstrip("\n"))
        return path

    return write


def error_of(path: Path) -> str:
    with pytest.raises(ExperimentError) as raised:
        load_experiments(path)
    message = str(raised.value)
    assert "\n" not in message
    return message.removeprefix(f"{path.parent}/")


GOOD = """
defaults: &defaults
  run: MAT
  env: mpe/simple_spread
  config: &config
    lr: 1e-5
    gamma: .99
    num_envs_per_env_runner: 8

second:
  <<: *defaults
  stop: {env_steps: 4e5, env_runners/episode_return_mean: -15}
  num_samples: 3
  local_dir: results
  checkpoint_freq: 7
  keep_checkpoints_num: 0
  checkpoint_score_attr: min-episode_len_mean
  config:
    <<: *config
    lr: 5e-4
"""


def test_names_are_registered_again_after_a_shutdown_of_ray(write, monkeypatch):
    """`ray.init` moves Tune's names into Ray, and `ray.shutdown` deletes them there."""
    monkeypatch.setattr("ray.tune.registry._internal_kv_initialized", lambda: False)
    monkeypatch.setattr("ray.tune.registry._global_registry._to_flush", {})
    assert load_experiments(write(GOOD))[0].run == "MAT"
    assert register in ray_worker._post_init_hooks


def test_several_experiments_with_anchors_merge_keys_and_numbers(write):
    first, second = load_experiments(write(GOOD))
    assert (first.name, second.name) == ("defaults", "second")
    assert first.config == {
        "lr": 1e-5,
        "gamma": 0.99,
        "num_envs_per_env_runner": 8,
        "env": "mpe/simple_spread",
    }
    assert second.config == first.config | {"lr": 5e-4}
    assert second.stop == {"num_env_steps_sampled_lifetime": 4e5, "env_runners/episode_return_mean": -15}
    assert (second.num_samples, second.storage_path) == (3, "results")
    checkpoints = second.checkpoints
    assert (checkpoints.checkpoint_frequency, checkpoints.num_to_keep, checkpoints.checkpoint_at_end) == (7, None, True)
    assert checkpoints.checkpoint_score_attribute == "env_runners/episode_len_mean"
    assert checkpoints.checkpoint_score_order == "min"


def test_one_of_several_is_read_without_the_others(write):
    path = write(GOOD.replace("lr: 1e-5", "lr: low"))  # in the first; the second has its own
    (second,) = load_experiments(path, only="second")
    assert (second.name, second.config["lr"]) == ("second", 5e-4)
    assert error_of(path).startswith("exp.yaml:5: lr must be")


def test_schedulers_count_time_by_short_names_of_metrics(write):
    (experiment,) = load_experiments(write(HEAD + "  scheduler: {name: asha, time_attr: env_steps, max_t: 1000}"))
    assert experiment.scheduler.options["time_attr"] == "num_env_steps_sampled_lifetime"
    assert experiment.ranking_metrics == {"num_env_steps_sampled_lifetime": "scheduler"}


@pytest.mark.parametrize(
    "mutations",
    [
        "{lr: {loguniform: [1e-5, 1e-3]}, clip_param: [0.1, 0.2]}",
        "{gamma: [0.9, 1]}",
        "{num_epochs: {randint: [2, 9]}}",
        "{env_config: {N: [2, 3]}}",
    ],
)
def test_mutations_whose_values_are_all_valid(write, mutations):
    load_experiments(write(HEAD + f"  scheduler: {{name: pbt, hyperparam_mutations: {mutations}}}"))


def test_mutations_that_only_resample(write):
    options = "resample_probability: 1, hyperparam_mutations: {gamma: {uniform: [0.9, 1]}}"
    load_experiments(write(HEAD + f"  scheduler: {{name: pbt, {options}}}"))


def test_json_may_be_indented_by_tabs(write):
    (experiment,) = load_experiments(
        write('{\n\t"a": {\n\t\t"run": "MAT",\n\t\t"env": "mpe/simple_spread",\n\t\t"num_samples":\t2\n\t}\n}')
    )
    assert experiment.num_samples == 2
    assert parse_yaml('{"a": "b\\tc"}', "x.json").value == {"a": "b\tc"}


def test_checkpoint_config_is_equivalent(write):
    (experiment,) = load_experiments(
        write("a: {run: PPO, env: CartPole-v1, checkpoint_config: {checkpoint_frequency: 3, num_to_keep: 1}}")
    )
    assert (experiment.checkpoints.checkpoint_frequency, experiment.checkpoints.num_to_keep) == (3, 1)


def test_env_may_be_in_the_config(write):
    (experiment,) = load_experiments(write("a: {run: PPO, config: {env: CartPole-v1}}"))
    assert experiment.config["env"] == "CartPole-v1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("5E4", 5e4), ("-1.5e+3", -1500.0), (".5e1", 5.0), ("2", 2), ("0.1", 0.1)],
)
def test_numbers_have_the_right_type(text, value):
    parsed = parse_yaml(f"x: {text}", "x.yaml").value["x"]
    assert parsed == value and type(parsed) is type(value)


HEAD = "a:\n  run: MAT\n  env: mpe/simple_spread\n"

# Text after HEAD -> start of the message after "exp.yaml:". The first key of a config is in line 5.
MISTAKES = {
    "  config:\n    clip_parm: 0.1": "5: unknown key 'clip_parm' for MAT. Did you mean 'clip_param'",
    "  config:\n    num_epochs: many": "5: num_epochs",
    "  config:\n    num_env_runners: two": "5: num_env_runners must be a whole number",
    "  config:\n    lr: 1\n    lambda: 3": "6: lambda_=3 is not a number from 0 to 1",
    "  config:\n    lr: 1\n    minibatch_size: 9999": "6: minibatch_size=9999 is larger",
    "  config:\n    n_head: 3": "5: embed_dim=64 cannot be split",
    "  config:\n    num_epochs: {grid_search: [5, 0]}": "5: num_epochs=0",
    "  config: {env: mpe/simple_reference}": "4: config.env 'mpe/simple_reference' differs",
    "  config:\n    lr: 1\n    gamma: 1\n    lr: 2": "7: duplicate key 'lr' (first in line 5)",
    "  num_sample: 3": "4: unknown key 'num_sample'. Did you mean 'num_samples'",
    "  num_samples: three": "4: num_samples must be a whole number; got 'three'",
    "  num_samples: 0": "4: num_samples must be at least 1",
    "  checkpoint_config:\n    num_keep: 1": "5: unknown key 'num_keep' in 'checkpoint_config'. Did you",
    "  stop:\n    episode_reward_mean: 3": "5: metric 'episode_reward_mean' is not reported by RLlib's new",
    "  stop:\n    training_iterations: 3": "5: unknown metric 'training_iterations'. Did you mean 'training",
    "  stop:\n    env_runners: {episode_return_mean: 3}": "5: write nested metrics with slashes",
    "  stop:\n    env_steps: soon": "5: env_steps must be a number",
    "  config:\n    lr: {sample_from: 'lambda spec: 1'}": "5: 'sample_from' needs code",
    "  config:\n    lr: {loguniform: [1e-3]}": "5: loguniform takes the numbers [lower, upper]",
    "  config:\n    lr: {loguniform: [0, 1]}": "5: loguniform: LogUniform requires a lower bound",
    "  config:\n    lr: {uniform: [2, 1]}": "5: uniform needs lower < upper",
    "  config:\n    lr: {uniform: [a, b]}": "5: uniform takes the numbers",
    "  config:\n    lr: {choice: []}": "5: choice takes a list of values",
    "  search:\n    algorithm: optna": "5: unknown search algorithm 'optna'; choose from random, optuna",
    "  search: {algorithm: optuna, metrc: x}": "4: unknown key 'metrc' in 'search'. Did you mean 'metric'",
    "  search: {mode: highest}": "4: mode must be 'max' or 'min'",
    "  search: optuna": "4: the search space is empty",
    "  search: {space: {lr: {grid_search: [1e-3, 1e-4]}}}": "4: Grid search parameters cannot be",
    "  scheduler: ahsa": "4: unknown scheduler 'ahsa'; choose from fifo, asha",
    "  num_samples: -2": "4: num_samples must be at least 1, or -1 for endless sampling; got -2",
    "  keep_checkpoints_num: -1": "4: keep_checkpoints_num must be at least 0 (0 for all); got -1",
    "  checkpoint_config:\n    checkpoint_frequency: -5": "5: checkpoint_frequency must be at least 0",
    "  max_failures: -2": "4: max_failures must be at least 0, or -1 for no limit; got -2",
    "  max_concurrent_trials: 0": "4: max_concurrent_trials must be at least 1",
    "  time_budget_s: 0": "4: time_budget_s must be greater than 0",
    "  time_budget_s: .inf": "4: time_budget_s must be a number; got inf",
    "  config:\n    lr: [[0, 1e-3], [1000, .inf]]": "5: lr/1/1 must be finite",
    "  config:\n    gamma: -.inf": "5: gamma must be a number",
    "  config:\n    lr: {uniform: [0, .inf]}": "5: uniform takes the numbers [lower, upper]",
    "  config:\n    explore: yes": "5: 'yes' means different things",
    "  config:": "4: config must be a mapping; got None",
    "  stop:\n    env_steps: 0": "5: env_steps must be greater than 0; 0 is reached before training starts",
    "  stop:\n    win_rate: 90": "5: win_rate is a fraction from 0 to 1: write 0.9 for 90%; got 90",
    "  stop:\n    evaluation/episode_return_mean: 1": "5: 'evaluation/env_runners/episode_return_mean' needs ev",
    "  search: {space: {lr: {uniform: [0, 1]}}, seed: -1}": "4: seed must be from 0 to 2**32 - 1; got -1",
    "  config:\n    seed: -1": "5: seed=-1 is not a whole number from 0 to 2**32 - 1",
    "  config:\n    seed: 5000000000": "5: seed=5000000000 is not a whole number from 0 to 2**32 - 1",
    "  scheduler: pbt": "4: scheduler 'pbt' needs options to mutate; write 'scheduler: {name: pbt, hyperparam_",
    "  scheduler: {name: pbt, hyperparam_mutations: {lrr: {uniform: [0, 1]}}}": "4: unknown key 'lrr' for MAT. Did",
    "  scheduler: {name: asha, grace_period: 9, max_t: 3}": "4: scheduler 'asha': ",
    "  scheduler: {name: asha, grace_period: long}": "4: scheduler 'asha': ",
    "  scheduler: {name: asha, time_attr: timesteps_total}": "4: metric 'timesteps_total' is not reported",
    "  scheduler: {name: asha, time_attr: 3}": "4: time_attr must be text; got 3",
    "  scheduler: {name: pbt, hyperparam_mutations: {embed_dim: [32, 64]}}": "4: scheduler 'pbt' cannot change embed",
    "  scheduler: {name: pbt, hyperparam_mutations: {use_value_norm: [true]}}": "4: scheduler 'pbt' cannot change us",
    "  scheduler: {name: pbt, hyperparam_mutations: {lr: [1e-3, -1]}}": "4: lr=-1 is not a number >= 0",
    "  scheduler: {name: pbt, hyperparam_mutations: {gamma: {uniform: [0.9, 1]}}}": "4: gamma=1.08 is not a number",
    "  storage_path: ''": "4: the path of the results is empty",
    '  local_dir: "a\\0b"': "4: the path of the results contains a NUL character",
    "  storage_path: a\n  local_dir: b": "5: 'local_dir' and 'storage_path' are the same; remove one",
    "  checkpoint_freq: 5\n  checkpoint_config: {checkpoint_frequency: 7}": "4: 'checkpoint_freq' and 'checkpoint",
    "  stop: {}\n---\nb: {run: MAT}": "5: a second YAML document starts here: remove the line '---'",
    "  scheduler: {name: asha, grace_periods: 2}": "4: unknown key 'grace_periods' in 'scheduler'. Did you",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_a_mistake_is_reported_with_its_line(write, lines):
    assert error_of(write(HEAD + lines)).startswith(f"exp.yaml:{MISTAKES[lines]}")


def test_all_mistakes_in_a_file_are_reported_at_once(write):
    text = """
        old:
          run: MAT
          env: mpe/simple_spread
          resources_per_trial: {cpu: 1}
          num_sample: 3
          max_failures: -4
          stop:
            timesteps_total: 1000
            episode_reward_mean: -10
          config:
            num_workers: 1
            num_epochs: many
            sgd_minibatch_size: 200
            evaluation_config:
              num_envs_per_worker: 2
          scheduler: ahsa
        ../new:
          run: MTA
          env: mpe/simple_spread
    """
    with pytest.raises(ExperimentError) as raised:
        load_experiments(write(text))
    lines = [line.split("exp.yaml:")[1] for line in str(raised.value).splitlines()]
    places = {int(line.split(":")[0]): line for line in lines}
    assert sorted(places) == [4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 18] and len(lines) == 12
    assert "write 'env_steps' instead" in places[8] and "'num_envs_per_env_runner'" in places[15]
    assert "contains '/'" in places[17]


def test_an_empty_env_config_is_ignored(write):
    evaluated = "    evaluation_config: {env_config: }\n"
    (experiment,) = load_experiments(write(HEAD + "  config:\n    env_config:\n" + evaluated))
    assert experiment.config == {"env": "mpe/simple_spread", "evaluation_config": {}}


def test_a_missing_package_is_reported_at_the_environments_line(write, monkeypatch):
    monkeypatch.setattr("rllib_seqmarl.envs.catalog.find_spec", lambda name: None)
    assert error_of(write(HEAD)).startswith("exp.yaml:3: mpe/simple_spread needs mpe2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7: {run: MAT, env: mpe/simple_spread}", "exp.yaml:1: keys must be text: put 7 in quotes"),
        (
            "run: MAT\nenv: mpe/simple_spread",
            "exp.yaml:1: 'run' belongs to an experiment: add the experiment",
        ),
        ("", "exp.yaml: an experiment file maps names to experiments"),
        ("a: 3", "exp.yaml:1: experiment 'a' must be a mapping"),
        ("a:\n  env: mpe/simple_spread", "exp.yaml:1: experiment 'a' lacks 'run'"),
        ("a:\n  run: MAT", "exp.yaml:1: no environment given"),
        ("a:\n  run: MTA\n  env: x", "exp.yaml:2: unknown algorithm 'MTA'. Did you mean 'MAT'"),
        ("a:\n  run: MAT\n  env: spread", "exp.yaml:3: Unknown environment 'spread'"),
        (
            "a:\n  run: PPO\n  env: CartPol-v1",
            "exp.yaml:3: Unknown environment 'CartPol-v1'. Did you mean 'Cart",
        ),
        ("a: {run: PPO}\na: {run: PPO}", "exp.yaml:2: duplicate key 'a' (first in line 1)"),
        ("a:\n  run: [MAT\n  env: x", "exp.yaml:3: "),
        ("a: !!python/object/apply:os.system ['true']", "exp.yaml:1: could not determine a constructor"),
    ],
)
def test_a_file_without_valid_experiments_is_rejected(write, text, message):
    assert error_of(write(text + "\n")).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("num_workers", "2", "write 'num_env_runners' instead"),
        ("num_rollout_workers", "2", "write 'num_env_runners' instead"),
        ("num_envs_per_worker", "2", "write 'num_envs_per_env_runner' instead"),
        ("num_gpus", "1", "write 'num_gpus_per_learner' instead"),
        ("sgd_minibatch_size", "128", "write 'minibatch_size' instead"),
        ("num_sgd_iter", "5", "write 'num_epochs' instead"),
        ("train_batch_size", "800", "write 'train_batch_size_per_learner' instead"),
        ("model", "{fcnet_hiddens: [64]}", "write the network's sizes as top-level keys"),
        ("multiagent", "{policies: [a, b]}", "leave it out: one joint policy acts for the whole team"),
        ("policies", "[a, b]", "leave it out: one joint policy acts for the whole team"),
        ("lr_schedule", "[[0, 1]]", "write the schedule itself, as in 'lr: "),
        ("framework", "tf", "write 'torch'"),
        ("enable_rl_module_and_learner", "false", "remove 'enable_rl_module_and_learner: false'"),
        ("enable_env_runner_and_connector_v2", "false", "remove 'enable_env_runner_and_connector_v2: false'"),
    ],
)
def test_keys_of_the_old_api_stack_are_reported_with_their_replacements(write, key, value, remedy):
    message = error_of(write(HEAD + f"  config:\n    {key}: {value}\n"))
    assert message.startswith("exp.yaml:5: ") and key in message and remedy in message


@pytest.mark.parametrize(
    ("key", "remedy"),
    [("resources_per_trial: {cpu: 2}", "num_env_runners"), ("upload_dir: s3://x", "storage_path")],
)
def test_retired_experiment_keys_are_reported_with_their_replacements(write, key, remedy):
    message = error_of(write(HEAD + f"  {key}\n"))
    assert message.startswith("exp.yaml:4: ") and remedy in message


def test_an_unknown_key_in_the_evaluation_config_is_reported(write):
    message = error_of(write(HEAD + "  config:\n    evaluation_config:\n      exploree: false\n"))
    assert message.startswith("exp.yaml:6: unknown key 'exploree' for MAT. Did you mean 'explore'")


def test_a_missing_file(tmp_path):
    with pytest.raises(ExperimentError, match="no such file. `rllib list` shows"):
        load_experiments(tmp_path / "nowhere.yaml")


def test_missing_optuna_is_reported_with_the_install_command(write, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = error_of(write("a: {run: PPO, env: CartPole-v1, search: {space: {lr: {uniform: [0, 1]}}}}"))
    assert message.endswith('Optuna is not installed; run `pip install -e ".[sweep]"`.')


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(path):
    for experiment in load_experiments(path):
        assert experiment.stop and experiment.config["env"]
