"""The learner connector that turns sampled team episodes into per-agent advantages and value targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_seqmarl.learners.advantages import AGENT_EARNS, normalize_advantages, per_agent_gae
from rllib_seqmarl.learners.rewards import compute_training_rewards


class JointGAE(ConnectorV2):
    """Add per-agent ADVANTAGES, VALUE_TARGETS and AGENT_EARNS, (B, n), to the train batch.

    It is the last connector of the learner pipeline and replaces RLlib's `GeneralAdvantageEstimation`. Like that one
    it relies on `AddOneTsToEpisodesAndTruncate`, which appends a row to every episode chunk (its last observation), so
    that other connectors also process the last observation. The values of all other rows were predicted while sampling,
    so the network runs only on the added rows, one per chunk, instead of the whole batch. The added rows are then
    removed from the batch.

    Afterwards, VF_PREDS holds the values predicted while sampling, in the value normaliser's units, as required by the
    clipped value loss.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        gamma: float,
        lambda_: float,
        shared_reward: bool,
        team_reward: str = "mean",
    ) -> None:
        """Initialise the connector.

        Args:
            input_observation_space: Set by the pipeline.
            input_action_space: Set by the pipeline.
            gamma: The discount factor.
            lambda_: GAE's lambda.
            shared_reward: Whether every agent learns from the team's reward instead of its own.
            team_reward: How the team's reward is computed from the agents' rewards, "mean" or "sum".
        """
        super().__init__(input_observation_space, input_action_space)
        self.gamma = gamma
        self.lambda_ = lambda_
        self.shared_reward = shared_reward
        self.team_reward = team_reward

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        rl_module: MultiRLModule,
        batch: dict[str, Any],
        episodes: list[SingleAgentEpisode],
        **kwargs: Any,
    ) -> dict[str, Any]:
        columns = batch[DEFAULT_MODULE_ID]
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        is_step = columns.pop(Columns.LOSS_MASK)  # (rows,), False on each chunk's added last row
        last = (~is_step).nonzero().squeeze(-1)  # (chunks,)

        values = columns[Columns.VF_PREDS]  # (rows, n), in reward units
        with torch.no_grad():
            values[last] = module.compute_values(
                {Columns.OBS: tree.map_structure(lambda x: x[last], columns[Columns.OBS])}
            )
        rewards, continues, earns = self._read_steps(columns, episodes, values)
        advantages = self._advantages(values, rewards, continues, last)  # (rows, n)

        columns[Postprocessing.ADVANTAGES] = advantages
        columns[Postprocessing.VALUE_TARGETS] = advantages + values
        columns[AGENT_EARNS] = torch.from_numpy(earns).to(values.device)
        columns[Columns.VF_PREDS] = module.normalize_values(values)
        columns = tree.map_structure(lambda x: x[is_step], columns)
        columns[Postprocessing.ADVANTAGES] = normalize_advantages(
            columns[Postprocessing.ADVANTAGES], columns[Columns.OBS]["alive"]
        )
        batch[DEFAULT_MODULE_ID] = columns
        return batch

    def _read_steps(
        self, columns: dict[str, Any], episodes: list[SingleAgentEpisode], values: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read each agent's rewards, whether its return continues, and whether it still collects it; all (rows, n)."""
        shape = tuple(values.shape)
        terminated = columns[Columns.TERMINATEDS].cpu().numpy()  # (rows,)
        continues = np.broadcast_to(1.0 - terminated[:, None], shape).astype(np.float32)
        earns = np.ones(shape, np.bool_)
        team_rewards = columns[Columns.REWARDS].cpu().numpy().astype(np.float32)  # (rows,)
        env_rewards, agent_rewards = team_rewards.copy(), np.zeros(shape, np.float32)
        row = 0
        for episode in episodes:
            # The added row is not a step; its info repeats the last one.
            for info in episode.get_infos(slice(1, len(episode))):
                if not self.shared_reward:
                    agent_rewards[row] = info["agent_rewards"]
                    env_rewards[row] = info.get("team_reward", team_rewards[row])
                if "agent_terminateds" in info:
                    continues[row] *= ~np.asarray(info["agent_terminateds"], bool)
                if "agent_earns" in info:
                    earns[row] = info["agent_earns"]
                row += 1
            env_rewards[row] = team_rewards[row]
            row += 1
        rewards = compute_training_rewards(
            team_rewards,
            env_rewards,
            agent_rewards,
            shared_reward=self.shared_reward,
            team_reward=self.team_reward,
        )
        return rewards, continues, earns

    def _advantages(self, values: Tensor, rewards: np.ndarray, continues: np.ndarray, last: Tensor) -> Tensor:
        """Compute per-agent GAE over all chunks in parallel, (rows, n); the added rows' advantages are 0.

        Chunks are right-aligned in a (T + 1, chunks, n) array, so that they all end on the bootstrap value and the
        recursion runs T times, instead of once for each step of each chunk.
        """
        ends = last.cpu().numpy()  # (chunks,)
        lengths = np.diff(ends, prepend=-1)  # including the added row
        horizon = lengths.max()
        rows = ends - np.arange(horizon)[::-1, None]  # (T + 1, chunks)
        inside = np.arange(horizon)[::-1, None] < lengths
        rows = np.where(inside, rows, 0)
        advantages = per_agent_gae(
            rewards[rows[:-1]],
            values.cpu().numpy()[rows],
            continues[rows[:-1]],
            gamma=self.gamma,
            lambda_=self.lambda_,
        )  # (T, chunks, n)
        result = np.zeros(tuple(values.shape), np.float32)
        steps = inside[:-1]
        result[rows[:-1][steps]] = advantages[steps]
        return torch.from_numpy(result).to(values.device)
