"""IPPO beside RLlib's own multi-agent PPO with a shared policy: returns and env steps/s, with equal settings.

Both train one network for all agents on `mpe/simple_spread` from the agents' own observations and rewards, with PPO's
clipped objective, GAE, and the same batches, epochs, learning rate and layers. They differ in what RLlib's PPO does not
have: normalised values, a Huber loss, layer norms, and MAPPO's initialisation. The seeds of both alternate.

    python benchmarks/independent_ppo.py [--seeds 0 1 2] [--steps 400000]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env

from rllib_seqmarl import IPPOConfig
from rllib_seqmarl.envs import make_env

ENV, NUM_ENVS, BATCH = "mpe/simple_spread", 32, 3200
PPO = {
    "train_batch_size_per_learner": BATCH,
    "lr": 7e-4,
    "num_epochs": 10,
    "clip_param": 0.2,
    "entropy_coeff": 0.01,
    "gamma": 0.99,
    "lambda_": 0.95,
    "grad_clip": 10.0,
    "vf_loss_coeff": 1.0,
    "use_kl_loss": False,
}
N_AGENTS = 3


def ours() -> IPPOConfig:
    return (
        IPPOConfig()
        .environment(ENV)
        .joint_env(agent_ids=False)
        .network(hidden_sizes=(64, 64), activation="tanh")
        .training(**PPO, minibatch_size=BATCH // N_AGENTS)  # in team steps
    )


def rllibs() -> PPOConfig:
    register_env("multi-agent simple_spread", lambda _: ParallelPettingZooEnv(make_env(ENV)))
    model = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
    return (
        PPOConfig()
        .environment("multi-agent simple_spread")
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
        .rl_module(model_config=model)
        .training(**PPO, minibatch_size=BATCH, vf_clip_param=float("inf"))  # in agent steps
    )


def run(config: AlgorithmConfig, seed: int, steps: int, scale: float) -> tuple[list[float], float]:
    """Train; return the mean return of sampled episodes at each quarter of the steps, and env steps/s."""
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=NUM_ENVS).debugging(seed=seed)
    config.reporting(metrics_num_episodes_for_smoothing=BATCH // 25)
    algo: Any = config.build_algo()
    algo.train()  # warm-up
    curve, done = [], 0
    start, first = time.perf_counter(), BATCH
    while done < steps:
        result = algo.train()
        done = int(result["num_env_steps_sampled_lifetime"])
        if done >= steps * (len(curve) + 1) / 4:
            curve.append(result["env_runners"]["episode_return_mean"] * scale)
    speed = (done - first) / (time.perf_counter() - start)
    algo.stop()
    return curve, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400_000, help="env steps of each run")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(2)
    # RLlib reports the sum over agents, this package the mean.
    contestants = {"IPPO": (ours, 1.0), "RLlib's PPO": (rllibs, 1.0 / N_AGENTS)}
    curves: dict[str, list[list[float]]] = {name: [] for name in contestants}
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for seed in args.seeds:
        for name, (make, scale) in contestants.items():
            curve, speed = run(make(), seed, args.steps, scale)
            curves[name].append(curve)
            speeds[name].append(speed)
            print(
                f"seed {seed}, {name}: {', '.join(f'{value:.2f}' for value in curve)}; {speed:,.0f} steps/s", flush=True
            )
    marks = [f"{args.steps * (i + 1) // 4000}k" for i in range(4)]
    print(
        f"\n| mean over {len(args.seeds)} seeds ± standard deviation | {' | '.join(marks)} | env steps/s |\n|---"
        + "|---" * 5
        + "|"
    )
    for name, runs in curves.items():
        cells = [f"{statistics.mean(c):.2f} ± {statistics.pstdev(c):.2f}" for c in zip(*runs, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {statistics.median(speeds[name]):,.0f} |")


if __name__ == "__main__":
    main()
