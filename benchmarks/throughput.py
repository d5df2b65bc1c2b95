"""Env steps per second on simple_spread: the bare simulator, RLlib's multi-agent PPO, and this package's MAT.

All three run in this process, taking turns, so that the ratios hold on a noisy machine. Sampling is one call of the
env runner's `sample()`; a whole iteration is `algo.train()`: sampling, learning and weight sync.

    python benchmarks/throughput.py [--rounds 5] [--threads 1] [--ppo-hiddens 64 64]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable

import torch
from mpe2 import simple_spread_v3
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env

from rllib_seqmarl import MATConfig

ENV_CONFIG = {"N": 3, "max_cycles": 25, "local_ratio": 0.5}
BATCH_SIZE = 800
TRAINING = {"train_batch_size_per_learner": BATCH_SIZE, "num_epochs": 10, "lr": 7e-4, "minibatch_size": None}


def bare_env_steps(steps: int = 4 * BATCH_SIZE) -> int:
    """Random actions in one bare environment."""
    env = simple_spread_v3.parallel_env(**ENV_CONFIG)
    env.reset()
    for _ in range(steps):
        if not env.agents:
            env.reset()
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    return steps


register_env("mpe2_simple_spread", lambda config: ParallelPettingZooEnv(simple_spread_v3.parallel_env(**config)))


def stock_ppo(num_envs: int, hiddens: list[int] | None) -> PPOConfig:
    """RLlib's own multi-agent PPO as it comes, on mpe2's own environment: one network that all agents share."""
    model = DefaultModelConfig(fcnet_hiddens=hiddens) if hiddens else DefaultModelConfig()
    return (
        PPOConfig()
        .environment("mpe2_simple_spread", env_config=ENV_CONFIG)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
        .rl_module(model_config=model)
        .training(**{**TRAINING, "minibatch_size": BATCH_SIZE})
    )


def mat(num_envs: int) -> MATConfig:
    return (
        MATConfig()
        .environment("mpe/simple_spread", env_config=ENV_CONFIG)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .training(**TRAINING)
    )


def steps_per_second(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn (the median counts)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--num-envs", type=int, default=32, help="environments per env runner")
    parser.add_argument("--ppo-hiddens", type=int, nargs="+", help="PPO's hidden layers (RLlib's default: 256 256)")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)

    ppo_algo, mat_algo = stock_ppo(args.num_envs, args.ppo_hiddens).build_algo(), mat(args.num_envs).build_algo()

    def sample(algo: object) -> Callable[[], int]:
        def run() -> int:
            algo.env_runner.sample(num_timesteps=2 * BATCH_SIZE)  # type: ignore[attr-defined]
            return 2 * BATCH_SIZE

        return run

    def train(algo: object) -> Callable[[], int]:
        def run() -> int:
            for _ in range(3):
                algo.train()  # type: ignore[attr-defined]
            return 3 * BATCH_SIZE

        return run

    contestants = {
        "bare environment": bare_env_steps,
        "sampling, RLlib multi-agent PPO": sample(ppo_algo),
        "sampling, MAT": sample(mat_algo),
        "training, RLlib multi-agent PPO": train(ppo_algo),
        "training, MAT": train(mat_algo),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(args.rounds + 1):
        for name, run in contestants.items():
            speed = steps_per_second(run)
            if turn:  # the first turn warms up
                speeds[name].append(speed)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"simple_spread, {args.num_envs} environments, batch {BATCH_SIZE}, {args.threads} torch thread(s)\n")
    print(f"{'':34}{'env steps/s':>12}{'of bare':>10}{'of PPO':>10}")
    for name, median in medians.items():
        of_ppo = ""
        if "MAT" in name:
            of_ppo = f"{median / medians[name.replace('MAT', 'RLlib multi-agent PPO')]:.2f}x"
        print(f"{name:34}{median:12,.0f}{median / medians['bare environment']:10.0%}{of_ppo:>10}")
    for algo in (ppo_algo, mat_algo):
        algo.stop()


if __name__ == "__main__":
    main()
