"""The conversion of rollouts to a learner's batch, with per-agent advantages."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_seqmarl.learners.advantages import (
    AGENT_EARNS,
    compute_training_rewards,
    normalize_advantages,
    per_agent_gae,
)
from rllib_seqmarl.modules.joint_sequence_module import RESETS
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.rollout import ensure_writable


def rollout_columns(rollouts: Sequence[Rollout], module: Any, settings: Any, device: Any) -> dict[str, Any]:
    """Compute the train batch's columns, (B, n, ...) tensors on `device`, where B is the total number of steps.

    Args:
        rollouts: At least one rollout.
        module: A value function such as `JointSequenceModule`. It runs only on each rollout's last row: all other
            values, including those of final observations of episodes, were predicted while sampling.
        settings: An object with the attributes `gamma`, `lambda_`, `shared_reward`, `team_reward` and `update_order`,
            such as the algorithm's config.
        device: The learner's device.

    Returns:
        OBS (a dict), ACTIONS, ACTION_LOGP, ADVANTAGES (normalised over the living agents of all learners, or over each
        agent's own living steps if agents are updated one after another), VALUE_TARGETS in reward units, VF_PREDS in
        the value normaliser's units, AGENT_EARNS, and all other outputs of the module.

        With memory, they are windows of L = max_seq_len rows, or all if there are fewer, (W, L, n, ...). There are also
        STATE_IN, the state before each window, a tree of (W, ...); RESETS (W, L), whether an episode begins with the
        row; and LOSS_MASK (W, L), False in rows that are no steps: resets, and padding of last windows.
    """
    parts: list[dict[str, Any]] = []
    longest = max(rollout.num_rows for rollout in rollouts)
    for rollout in rollouts:
        rollout.take_changes()
        length = min(rollout.max_seq_len, longest)
        select_steps, window_columns = _windows(rollout, length) if length else _steps(rollout)
        parts.append(
            {
                **window_columns,
                **{key: tree.map_structure(select_steps, column) for key, column in rollout.outputs.items()},
                Columns.OBS: {key: select_steps(array[:-1]) for key, array in rollout.obs.items()},
                Postprocessing.ADVANTAGES: select_steps(_advantages(rollout, module, settings, device)),
                AGENT_EARNS: select_steps(rollout.agent_earns),
            }
        )
    columns: dict[str, Any] = tree.map_structure(
        lambda *column: (column[0] if len(column) == 1 else torch.cat(column)).to(device), *parts
    )
    columns[Postprocessing.VALUE_TARGETS] = columns[Postprocessing.ADVANTAGES] + columns[Columns.VF_PREDS]
    columns[Columns.VF_PREDS] = module.normalize_values(columns[Columns.VF_PREDS])
    counts = columns[Columns.OBS]["alive"].bool()
    if Columns.LOSS_MASK in columns:
        counts = counts & columns[Columns.LOSS_MASK][..., None]
    columns[Postprocessing.ADVANTAGES] = normalize_advantages(
        columns[Postprocessing.ADVANTAGES], counts, per_agent=settings.update_order == "sequential"
    )
    return columns


def _advantages(rollout: Rollout, module: Any, settings: Any, device: Any) -> np.ndarray:
    """Per-agent GAE, (T, envs, n)."""
    values = rollout.outputs[Columns.VF_PREDS]  # (T, envs, n), in reward units
    bootstrap = np.zeros_like(values[0])  # (envs, n)
    if rollout.is_step[-1].any():
        inputs: dict[str, Any] = {Columns.OBS: {key: array[-1] for key, array in rollout.obs.items()}}
        if rollout.last_state is not None:
            inputs[Columns.STATE_IN] = rollout.last_state
        inputs = tree.map_structure(lambda x: _tensor(x).to(device), inputs)
        with torch.no_grad():
            bootstrap = module.compute_values(inputs).cpu().numpy()
    rewards = compute_training_rewards(
        rollout.rewards,
        rollout.env_rewards,
        rollout.agent_rewards,
        shared_reward=settings.shared_reward,
        team_reward=settings.team_reward,
    )  # (T, envs, n)
    return per_agent_gae(
        rewards,
        np.concatenate([values, bootstrap[None]]),
        (~(rollout.terminated[..., None] | rollout.agent_terminated)).astype(np.float32),
        gamma=settings.gamma,
        lambda_=settings.lambda_,
        is_step=rollout.is_step,
    )


Select = Callable[[np.ndarray], Tensor]


def _steps(rollout: Rollout) -> tuple[Select, dict[str, Any]]:
    """Return a function that selects the steps (B, ...) of an array (T, envs, ...); a view if all rows are steps."""
    are_steps = rollout.env_steps == rollout.is_step.size
    steps = slice(None) if are_steps else torch.from_numpy(np.flatnonzero(rollout.is_step))
    return lambda array: _tensor(array.reshape(-1, *array.shape[2:]))[steps], {}


def _windows(rollout: Rollout, length: int) -> tuple[Select, dict[str, Any]]:
    """Return a function that selects windows (W, L, ...) of an array (T, envs, ...), and the windows' own columns.

    Each environment's rows are cut at 0, L, 2L, ...; windows without steps are left out.
    """
    num_rows = rollout.num_rows
    holds_steps = np.logical_or.reduceat(rollout.is_step, range(0, num_rows, length), axis=0)  # (T / L, envs)
    windows, envs = np.nonzero(holds_steps)  # (W,) each
    rows = windows[:, None] * length + np.arange(length)  # (W, L)
    is_inside, rows = rows < num_rows, np.minimum(rows, num_rows - 1)

    def gather(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array[rows, envs[:, None]])

    return gather, {
        Columns.STATE_IN: tree.map_structure(lambda x: torch.from_numpy(x[windows, envs]), rollout.states),
        RESETS: gather(rollout.is_first),
        Columns.LOSS_MASK: gather(rollout.is_step) & torch.from_numpy(is_inside),
    }


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(ensure_writable(array))
