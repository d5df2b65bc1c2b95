"""The sweep of `optuna_sweep.yaml` with the Python API of Ray Tune, where MAT is used by name like PPO."""

from __future__ import annotations

import argparse

from ray import tune
from ray.tune.search.optuna import OptunaSearch

import rllib_seqmarl  # noqa: F401  (registers MAT and its environments with Tune)

METRIC = "env_runners/episode_return_mean"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20_000, help="env steps per trial")
    options = parser.parse_args()

    analysis = tune.run(
        "MAT",
        config={
            "env": "coordination/distinct_choice",
            "env_config": {"n_agents": 3},
            "num_envs_per_env_runner": 16,
            "train_batch_size_per_learner": 320,
            "gamma": 0.0,
            "lr": tune.loguniform(1e-4, 3e-3),
            "clip_param": tune.choice([0.05, 0.1, 0.2]),
        },
        search_alg=OptunaSearch(metric=METRIC, mode="max"),
        num_samples=options.trials,
        stop={"num_env_steps_sampled_lifetime": options.steps},
        verbose=1,
    )
    best = analysis.get_best_trial(METRIC, "max")
    print(f"best: lr={best.config['lr']:.2g}, clip_param={best.config['clip_param']}")


if __name__ == "__main__":
    main()
