"""What memory over time costs, and how fast policies learn to use it.

recall: steps, updates and seconds until a team repeats what it saw in the first of T steps in 95% of the episodes.
    Policies without memory are right with probability 1/16 at most. MAPPO with each memory, and policies over time and
    agents.
acting: the time of a decision at the beginning and at the end of an episode of 10,000 steps.
windows: the time of an update per step, for windows of 16 to 1,024 steps.
size: the memory of a pass forth and back over windows of 128 steps x 64 environments x 32 agents, all at once. On a
    CPU, a learner takes one window at a time.

    python benchmarks/memory.py [recall] [acting] [windows] [size] [--delays 10 50 200] [--only gru rwkv6] [--threads 1]
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from rllib_seqmarl import MAMConfig, MAPPOConfig, MARWKVConfig, SableConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, Policy, SablePolicy, SequencePolicy

MEMORIES = ("gru", "attention", "mamba", "retention", "rwkv4", "rwkv5", "rwkv6")
JOINT = ("mam", "marwkv4", "marwkv5", "marwkv6", "sable")
ENVS, MOST_EPISODES, GOAL = 64, 20_000, 0.95


def recall_config(name: str, delay: int) -> JointPPOConfig:
    """Each memory with the settings that fit the delay."""
    config: JointPPOConfig
    if name == "sable":
        # The published decay, 0.8 times 31/32, forgets within some ten steps.
        config = SableConfig().network(n_head=4, decay_scaling=1.0, max_seq_len=delay)
    elif name == "mam":
        config = MAMConfig().network(memory="joint", embed_dim=64, max_seq_len=delay)
    elif name in JOINT:
        config = MARWKVConfig().network(memory="joint", embed_dim=64, max_seq_len=delay)
        config.network(encoder_mixer=name[2:], decoder_mixer=name[2:])
    else:
        options: dict[str, Any] = {"gru": {"max_delay": max(delay, 3)}, "attention": {"window": delay}}.get(name, {})
        config = MAPPOConfig().network(memory=name, memory_options=options, max_seq_len=delay, n_head=4)
    config.environment("coordination/recall", env_config={"max_cycles": delay})
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS).debugging(seed=0, log_level="ERROR")
    config.training(train_batch_size_per_learner=ENVS * delay, minibatch_size=None, num_epochs=10, lr=1e-3)
    return config.training(entropy_coeff=0.01, gamma=1.0, lambda_=1.0, clip_param=0.2, grad_clip=1.0)


def recall(names: list[str], delays: list[int]) -> None:
    print(f"{'memory':<12}{'T':>5}{'env steps':>12}{'updates':>9}{'seconds':>9}{'win rate':>10}", flush=True)
    for delay in delays:
        for name in names:
            algo = recall_config(name, delay).build_algo()
            algo.train()  # compiles
            start, wins, result = time.perf_counter(), 0.0, {}
            for _ in range(MOST_EPISODES // ENVS):
                result = algo.train()
                wins = result["env_runners"].get("win_rate", 0.0)
                if wins >= GOAL:
                    break
            steps, seconds = int(result["num_env_steps_sampled_lifetime"]), time.perf_counter() - start
            reached = "" if wins >= GOAL else "  not reached"
            updates = 10 * algo.iteration
            print(f"{name:<12}{delay:>5}{steps:>12,}{updates:>9,}{seconds:>9.0f}{wins:>10.2f}{reached}", flush=True)
            algo.stop()


def policy(name: str, n_agents: int, seq_len: int, embed_dim: int = 64) -> Policy:
    """A policy with random weights; attention sees the whole window."""
    torch.manual_seed(0)
    team: dict[str, Any] = {"obs_dim": 32, "n_agents": n_agents, "action": ActionSpec("discrete", (6,))}
    team |= {"embed_dim": embed_dim, "max_seq_len": seq_len}
    if name == "sable":
        return SablePolicy(SablePolicy.Config(**team))
    if name in JOINT:
        mixer = "mamba" if name == "mam" else name[2:]
        return SequencePolicy(NetworkConfig(**team, memory="joint", encoder_mixer=mixer, decoder_mixer=mixer))
    options = {"window": seq_len} if name == "attention" else {}
    return SequencePolicy(NetworkConfig(**team, memory=name, memory_options=options))


def observations(*lead: int) -> dict[str, torch.Tensor]:
    return {"observations": torch.randn(*lead, 32)}


def acting(names: list[str], teams: int = 4, n_agents: int = 4, length: int = 10_000) -> None:
    print(
        f"{'memory':<12}{'ms, steps 100 to 1,100':>24}{'ms, the last 1,000':>20}{'ratio':>8}{'KiB a team':>12}",
        flush=True,
    )
    for name in names:
        network, state, seconds = policy(name, n_agents, 128), None, []
        obs = observations(teams, n_agents)
        with network.fixed_weights():
            for _ in range(length):
                start = time.perf_counter()
                state = network.act(obs, state, deterministic=False).state
                seconds.append(time.perf_counter() - start)
        early, late = (1e3 * statistics.median(seconds[at]) for at in (slice(100, 1100), slice(-1000, None)))
        size = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state)) / teams / 1024
        print(f"{name:<12}{early:>24.2f}{late:>20.2f}{late / early:>8.2f}{size:>12.1f}", flush=True)


def differentiate(network: Policy, teams: int, length: int, n_agents: int) -> Callable[[], None]:
    """A pass forth and back over windows."""
    obs, actions = observations(teams, length, n_agents), torch.randint(6, (teams, length, n_agents))
    state, resets = network.initial_state(teams), torch.rand(teams, length) < 0.02

    def run() -> None:
        evaluation = network.evaluate(obs, actions, state, resets)
        (evaluation.log_probs.mean() + evaluation.values.mean()).backward()
        network.zero_grad()

    return run


def windows(names: list[str], n_agents: int = 4, steps: int = 2048, rounds: int = 3) -> None:
    lengths = (16, 64, 256, 1024)
    print(f"{'us per step':<12}" + "".join(f"{f'L = {length}':>10}" for length in lengths) + f"{'1024 : 64':>11}")
    for name in names:
        costs = []
        for length in lengths:
            run = differentiate(policy(name, n_agents, length), steps // length, length, n_agents)
            run()
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            costs.append(1e6 * min(seconds) / steps)
        print(f"{name:<12}" + "".join(f"{cost:>10.0f}" for cost in costs) + f"{costs[3] / costs[1]:>11.2f}", flush=True)


def size(names: list[str]) -> None:
    """Each policy in a process of its own, which prints by how much its peak memory grows."""
    print(f"{'memory':<12}{'MiB':>8}")
    for name in names:
        command = [sys.executable, __file__, "grown", "--only", name]
        grown = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
        print(f"{name:<12}{grown or 'failed':>8}", flush=True)


def print_growth(name: str) -> None:
    run = differentiate(policy(name, 32, 128), 64, 128, 32)
    differentiate(policy(name, 2, 4), 1, 4, 2)()  # loads kernels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["recall", "acting", "windows", "size"])
    parser.add_argument("--delays", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--only", nargs="*", default=[*MEMORIES, *JOINT])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    if args.tables == ["grown"]:
        print_growth(args.only[0])
        return
    if "recall" in args.tables:
        recall(args.only, args.delays)
    for table in (acting, windows, size):
        if table.__name__ in args.tables:
            table(args.only)


if __name__ == "__main__":
    main()
