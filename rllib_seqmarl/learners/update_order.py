"""Which agents are updated together, and in which order.

Agents are updated all at once by default, as the agents of an autoregressive policy are. Independent policies can be
updated one after another (HAPPO; Kuba et al., arXiv 2109.11251, Algorithm 4): each agent's surrogate is multiplied by
M, the ratio of new to old probabilities of its predecessors' actions, so that it improves on their new policies.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor

from rllib_seqmarl.learners.distributed import sum_over_learners, take_from_first_learner
from rllib_seqmarl.learners.minibatches import make_batch
from rllib_seqmarl.learners.objectives import FACTOR

UPDATED = "updated"  # column (b,): the index of the agent that is updated, or CRITIC; absent if everything is
CRITIC = -1


def one_after_another(
    batch: MultiAgentBatch,
    make_minibatches: Callable[[MultiAgentBatch], Iterable[MultiAgentBatch]],
    compute_log_probs: Callable[[dict[str, Any]], Tensor],
) -> Iterator[MultiAgentBatch]:
    """Iterate over all epochs of one agent after another, in random order, and finally of the critic.

    Agents that are dead in the whole batch are left out, as in the published code (PKU-MARL/HARL).

    Args:
        batch: A batch with one module's columns, (B, n, ...).
        make_minibatches: Makes all epochs' minibatches of a batch. Each is applied before the next is requested.
        compute_log_probs: Computes the log-probabilities (B, n) or (B, n, k) of the batch's actions under the current
            policy; only those of the agent in UPDATED are read.

    Yields:
        Minibatches with the additional columns UPDATED and FACTOR.
    """
    columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
    advantages = columns[Postprocessing.ADVANTAGES]  # (B, n)
    factor = torch.ones_like(advantages)
    alive = columns[Columns.OBS]["alive"].bool()
    if Columns.LOSS_MASK in columns:
        alive = alive & columns[Columns.LOSS_MASK][..., None]
    acts = alive.flatten(0, -2).sum(0)  # (n,)
    sum_over_learners(acts)
    order = take_from_first_learner(torch.randperm(advantages.shape[-1]).to(advantages.device)).tolist()
    agents = [agent for agent in order if acts[agent] > 0]
    for agent in (*agents, CRITIC):
        updated = torch.full_like(advantages.flatten(1)[:, 0], agent, dtype=torch.int64)  # (B,)
        turn = {**columns, UPDATED: updated, FACTOR: factor}
        before = compute_log_probs(turn) if agent in agents[:-1] else None
        yield from make_minibatches(make_batch(turn))
        if before is not None:
            log_ratios = (compute_log_probs(turn) - before).reshape(*advantages.shape, -1).sum(-1)  # (B, n)
            factor = factor * log_ratios[..., agent, None].exp()


def updated_part(columns: Mapping[str, Any]) -> int | None:
    """The agent that is updated with a minibatch, CRITIC, or None if everything is."""
    return int(columns[UPDATED][0]) if UPDATED in columns else None


def updated_groups(groups: Collection[str], part: int | None) -> list[str]:
    """Select the policy's parameter groups, of which the agents' are in order, that are updated with a minibatch.

    Others get no gradient, rather than one of zeros, by which Adam would move them with their momentum.
    """
    agents = [name for name in groups if name != "critic"]
    if part == CRITIC and "critic" in groups:
        return ["critic"]
    return list(groups) if part is None or part == CRITIC else [agents[part]]
