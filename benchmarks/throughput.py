"""Env steps per second of sampling and training, compared to RLlib's own runners in the same run.

Four tables. The contestants of a row alternate in one process to reduce the influence of noise.

sampling: MAT's env runner; RLlib's `SingleAgentEnvRunner` with its default connectors, for the same module on the same
    vector of joint environments ("joint path") and on joint environments that gymnasium steps one by one, as RLlib does
    by default; RLlib's multi-agent PPO, with a network shared by all agents, on the environments one by one. The last
    column is the share of our time spent in the simulator and the network.
training: MAT, 64 environments x 128 steps, 5 epochs of the whole batch, and MAPPO, with 4 epochs of 2 minibatches; with
    the parts of an iteration. The references are Mava's MAT and MAPPO (JAX, compiled as a whole) with the same
    settings, measured earlier on two cores; they are not run here.
cold: the time from process start to a mean return of 0.95 on level-based foraging.
memory: the memory of a rollout of 128 steps x 256 environments x 10 agents beyond its arrays.

    python benchmarks/throughput.py [sampling] [training] [cold] [memory] [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import tree
import yaml
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env

from rllib_seqmarl import MAPPOConfig, MATConfig
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.envs import make_env
from rllib_seqmarl.experiments.tuned import tuned_configs
from rllib_seqmarl.rollouts.rollout import ROW_ARRAYS

SAMPLED = ("vmas/balance", "smax/2s3z", "jumanji-rware/tiny-2ag", "mpe/simple_spread")
NUM_ENVS = (16, 64, 256)
# Mava on two cores: env steps/s, and for MAT seconds from process start to 0.95.
TASKS = ("jumanji-lbf/2s-8x8-2p-2f-coop", "jumanji-rware/tiny-2ag", "smax/2s3z")
MAVA = {"MAT": (4820, 4050, 1340), "MAPPO": (16_900, 10_200, 5_900)}
MAVA_SECONDS_TO_095 = 156
TRAINING = {"train_batch_size_per_learner": 64 * 128, "lr": 5e-4, "num_epochs": 5, "minibatch_size": None}


def mat(env: str, num_envs: int = 64) -> MATConfig:
    config = MATConfig().environment(env).training(**TRAINING).network(embed_dim=64)
    return config.env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs).debugging(seed=0)


def mappo(env: str, num_envs: int = 64) -> MAPPOConfig:
    config = MAPPOConfig().environment(env).network(hidden_sizes=(128, 128))
    config.training(train_batch_size_per_learner=64 * 128, lr=2.5e-4, num_epochs=4, minibatch_size=32 * 128)
    return config.env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs).debugging(seed=0)


def joint_path(env: str, num_envs: int, *, one_by_one: bool) -> MATConfig:
    """Return a config for RLlib's runner with its default connectors; empty lists of user connectors disable ours."""
    config = mat(env, num_envs)
    if one_by_one:
        config.env_runners(gym_env_vectorize_mode="sync")
    config.env_runners(
        env_to_module_connector=lambda *args, **kwargs: [],
        module_to_env_connector=lambda *args, **kwargs: [],
    )
    return config


def multi_agent_ppo(env: str, num_envs: int) -> PPOConfig:
    """Return RLlib's multi-agent PPO without changes, so without batched simulators and action masks."""
    register_env(f"single {env}", lambda _: ParallelPettingZooEnv(make_env(env)))
    return (
        PPOConfig()
        .environment(f"single {env}")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda *args, **kwargs: "shared")
    )


def build(cls: type, config: AlgorithmConfig) -> Any:
    config.validate()
    return cls(config=config, worker_index=0, num_workers=0)


def speed_of(runner: Any, steps: int) -> float:
    start = time.perf_counter()
    runner.sample(num_timesteps=steps)
    return steps / (time.perf_counter() - start)


def sampling(rounds: int) -> None:
    """Print the first table."""
    header = "| environment | envs | env steps/s | joint path | one by one | multi-agent PPO | simulator + network |"
    print(f"\n{header}\n|---|---|---|---|---|---|---|")
    for env in SAMPLED:
        for num_envs in NUM_ENVS:
            ours = build(RolloutEnvRunner, mat(env, num_envs))
            contestants = [
                (ours, max(8 * num_envs, 4096)),
                (build(SingleAgentEnvRunner, joint_path(env, num_envs, one_by_one=False)), max(4 * num_envs, 1024)),
                (build(SingleAgentEnvRunner, joint_path(env, num_envs, one_by_one=True)), 2 * num_envs),
                (build(MultiAgentEnvRunner, multi_agent_ppo(env, num_envs)), 2 * num_envs),
            ]
            for runner, steps in contestants:
                runner.sample(num_timesteps=steps)  # warm-up
            ours.get_metrics()
            speeds = [[speed_of(runner, steps) for runner, steps in contestants] for _ in range(rounds)]
            fast, *others = (statistics.median(column) for column in zip(*speeds, strict=True))
            parts = {part: value.peek() for part, value in ours.get_metrics()["seconds"].items()}
            share = 1.0 - parts["rollout"] / sum(parts.values())
            cells = " | ".join(f"{speed:,.0f} ({fast / speed:.1f}x)" for speed in others)
            print(f"| `{env}` | {num_envs} | {fast:,.0f} | {cells} | {share:.1%} |", flush=True)
            for runner, _ in contestants:
                runner.stop()
            del ours, contestants
            gc.collect()


def training(rounds: int) -> None:
    """Print the second table."""
    header = "| algorithm | environment | env steps/s | of Mava's | sampling: simulator, network, rest | update |"
    print(f"\n{header}\n|---|---|---|---|---|---|")
    rows = [(name, env, speed) for name, speeds in MAVA.items() for env, speed in zip(TASKS, speeds, strict=True)]
    for name, env, reference in rows:
        algo = {"MAT": mat, "MAPPO": mappo}[name](env).build_algo()
        algo.train()  # warm-up
        runs = []
        for _ in range(2 * rounds):
            start = time.perf_counter()
            result = algo.train()
            runs.append((time.perf_counter() - start, result))
        seconds, result = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
        speed = result["env_runners"]["num_env_steps_sampled"] / seconds
        parts = ", ".join(
            f"{result['env_runners']['seconds'][part]:.2f} s" for part in ("environment", "network", "rollout")
        )
        print(
            f"| {name} | `{env}` | {speed:,.0f} | {reference:,} ({speed / reference:.2f}x) | {parts} "
            f"| {result['seconds']['learning']:.2f} s |",
            flush=True,
        )
        algo.stop()


def cold() -> None:
    """Measure the time from process start without compilation caches to a mean return of 0.95, with tuned settings."""
    tuned = tuned_configs()["mat/jumanji-lbf-2s-8x8-2p-2f-coop"]
    spec = yaml.safe_load(tuned.file.read_text())[tuned.experiment]
    spec["config"] |= {"minibatch_size": None, "seed": 0}
    spec["stop"] = {"episode_return_mean": 0.95, "env_steps": 1_000_000}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cold.yaml").write_text(yaml.safe_dump({"cold": spec}))
        command = [Path(sys.executable).parent / "rllib", "train", "file", "cold.yaml", "--local-dir", folder]
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"NUMBA_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
        (file,) = Path(folder).glob("cold/*/result.json")
        last = json.loads(file.read_text().splitlines()[-1])
    mean, steps = last["env_runners"]["episode_return_mean"], last["num_env_steps_sampled_lifetime"]
    print(f"\nLevel-based foraging, cold start: {seconds:.0f} s to a mean return of {mean:.3f}, {steps:,.0f} env steps")
    print(f"(Mava's MAT to 0.95: {MAVA_SECONDS_TO_095} s, {MAVA_SECONDS_TO_095 / seconds:.1f}x)")


def memory() -> None:
    """Measure the growth of this process's peak memory during a rollout; must run in a new process."""
    runner = build(RolloutEnvRunner, mat("jumanji-rware/small-10ag", 256))
    runner.sample(num_timesteps=2 * 256)
    gc.collect()
    before = psutil.Process().memory_info().rss
    rollout = runner.sample(num_timesteps=128 * 256)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    rows, envs, agents = rollout.agent_rewards.shape
    arrays = tree.flatten([getattr(rollout, name) for name in ROW_ARRAYS])
    size = sum(array.nbytes for array in arrays) / 2**20
    print(f"\nA rollout of {rows} rows x {envs} environments x {agents} agents: {size:.0f} MiB of arrays;")
    print(f"the process's peak memory grew by {grown / 2**20:.0f} MiB ({grown / 2**20 / size:.2f}x)")


TABLES: dict[str, Callable[[argparse.Namespace], None]] = {
    "sampling": lambda args: sampling(args.rounds),
    "training": lambda args: training(args.rounds),
    "cold": lambda args: cold(),
    "memory": lambda args: memory(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"any of {', '.join(TABLES)} [all]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (the median counts)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    if unknown := set(args.tables) - TABLES.keys():
        parser.error(f"unknown table {', '.join(unknown)}: choose from {', '.join(TABLES)}")
    if len(args.tables) == 1:
        TABLES[args.tables[0]](args)
        return
    for table in args.tables or TABLES:
        options = ["--rounds", str(args.rounds), "--threads", str(args.threads)]
        subprocess.run([sys.executable, __file__, table, *options], check=True)


if __name__ == "__main__":
    main()
