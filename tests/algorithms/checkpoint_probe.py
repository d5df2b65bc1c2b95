"""The next steps of an algorithm as plain values, compared between processes to check that checkpoints are complete.

As a script: `python checkpoint_probe.py CHECKPOINT OUT.npz` restores the checkpoint and probes it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_seqmarl import MATConfig

N, STEPS, EPISODES = 3, 5, 6


def config() -> MATConfig:
    """Return a small config with all stateful parts: normaliser, optimiser, schedules, counters."""
    return (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": N, "max_cycles": STEPS})
        .env_runners(num_envs_per_env_runner=4)
        .training(
            train_batch_size_per_learner=40,
            num_epochs=2,
            lr=[[0, 1e-3], [400, 1e-4]],
            entropy_coeff=[[0, 0.1], [400, 0.0]],
        )
        .network(embed_dim=16)
        .debugging(seed=1)
    )


def fixed_episodes(module: Any) -> list[SingleAgentEpisode]:
    """Return the same experience in every process."""
    rng = np.random.default_rng(0)
    observation_space, action_space = module.observation_space, module.action_space
    return [
        SingleAgentEpisode(
            id_=f"fixed_{i}",
            observation_space=observation_space,
            action_space=action_space,
            observations=[
                {
                    "observations": rng.normal(size=observation_space["observations"].shape).astype(np.float32),
                    "alive": np.ones(N, np.int8),
                }
                for _ in range(STEPS + 1)
            ],
            actions=list(rng.integers(N, size=(STEPS, N))),
            rewards=list(rng.normal(size=STEPS)),
            infos=[{}, *({"agent_rewards": rng.normal(size=N).astype(np.float32)} for _ in range(STEPS))],
            truncated=True,
            extra_model_outputs={
                Columns.ACTION_LOGP: list(rng.normal(-1.0, 0.1, size=(STEPS, N)).astype(np.float32)),
                Columns.VF_PREDS: list(rng.normal(size=(STEPS, N)).astype(np.float32)),
            },
            len_lookback_buffer=0,
        ).to_numpy()
        for i in range(EPISODES)
    ]


def probe(algo: Algorithm) -> dict[str, np.ndarray]:
    """Return greedy actions, counters, and the weights, optimiser and normaliser after the next update."""
    module = algo.get_module()
    rng = np.random.default_rng(7)
    observations = rng.normal(size=(64, *module.observation_space["observations"].shape)).astype(np.float32)
    obs = {"observations": torch.from_numpy(observations), "alive": torch.ones(64, N)}
    values: dict[str, np.ndarray] = {
        "greedy_actions": module.forward_inference({Columns.OBS: obs})[Columns.ACTIONS].numpy(),
        "iteration": np.array(algo.iteration),
        "steps": np.array(algo.metrics.peek(("env_runners", NUM_ENV_STEPS_SAMPLED_LIFETIME))),
    }
    learner = algo.learner_group._learner
    learner.update(
        episodes=fixed_episodes(module),
        num_epochs=2,
        timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: int(values["steps"]) + 40},
    )
    for key, value in learner.module[DEFAULT_MODULE_ID].get_state().items():
        values[f"module/{key}"] = value
    optimizer = learner.get_optimizer()
    values["lr"] = np.array(float(optimizer.param_groups[0]["lr"]))
    for i, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            values[f"optimizer/{i}/{key}"] = value.numpy()
    scheduler = learner.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID]
    values["entropy_coeff"] = np.array(float(scheduler.get_current_value()))
    return values


if __name__ == "__main__":
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    np.savez(sys.argv[2], **probe(Algorithm.from_checkpoint(sys.argv[1])))
