"""What memory over time costs, and how fast policies learn to use it.

recall: steps, updates and seconds until a team repeats what it saw in the first of T steps in 95% of the episodes.
    Policies without memory are right with probability 1/16 at most. MAPPO with each memory, and policies over time and
    agents.
acting: the time of a decision at the beginning and at the end of an episode of 10,000 steps.
windows: the time of an update per step, for windows of 16 to 1,024 steps.
size: the memory of the state and the gradients of a window of 128 steps x 64 environments x 32 agents.

    python benchmarks/memory.py [recall] [acting] [windows] [size] [--delays 10 50 200] [--only gru rwkv6] [--threads 1]
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import torch

from rllib_seqmarl import MAMConfig, MAPPOConfig, MARWKVConfig, SableConfig
from rllib_seqmarl.algorithms import JointPPOConfig

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
    config.training(train_batch_size_per_learner=ENVS * delay, minibatch_size=None, num_epochs=5, lr=1e-3)
    return config.training(entropy_coeff=0.02, gamma=1.0, lambda_=1.0, clip_param=0.2, grad_clip=1.0)


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
            updates = 5 * algo.iteration
            print(f"{name:<12}{delay:>5}{steps:>12,}{updates:>9,}{seconds:>9.0f}{wins:>10.2f}{reached}", flush=True)
            algo.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["recall"])
    parser.add_argument("--delays", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--only", nargs="*", default=[*MEMORIES, *JOINT])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    recall(args.only, args.delays)


if __name__ == "__main__":
    main()
