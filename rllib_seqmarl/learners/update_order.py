"""Which agents are updated together, and in which order.

Agents are updated all at once by default, as the agents of an autoregressive policy are. Independent policies can be
updated one after another (HAPPO; Kuba et al., arXiv 2109.11251, Algorithm 4): each agent's surrogate is multiplied by
M, the ratio of new to old probabilities of its predecessors' actions, so that it improves on their new policies.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor

from rllib_seqmarl.learners.distributed import take_from_first_learner
from rllib_seqmarl.learners.minibatches import make_batch
from rllib_seqmarl.learners.objectives import FACTOR

# Columns (b, n): whether the agent's policy is updated, and whether its values are; absent if everything is.
UPDATES_POLICY, UPDATES_VALUES = "updates_policy", "updates_values"


def one_after_another(
    batch: MultiAgentBatch,
    make_minibatches: Callable[[MultiAgentBatch], Iterable[MultiAgentBatch]],
    compute_log_probs: Callable[[dict[str, Any]], Tensor],
) -> Iterator[MultiAgentBatch]:
    """Iterate over all epochs of one agent after another, in random order, and finally of the critic.

    Args:
        batch: A batch with one module's columns, (B, n, ...).
        make_minibatches: Makes all epochs' minibatches of a batch. Each is applied before the next is requested.
        compute_log_probs: Computes the log-probabilities (B, n) or (B, n, k) of the batch's actions under the current
            policy.

    Yields:
        Minibatches with the additional columns UPDATES_POLICY, UPDATES_VALUES and FACTOR.
    """
    columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
    advantages = columns[Postprocessing.ADVANTAGES]  # (B, n)
    nobody, all_agents = torch.zeros_like(advantages, dtype=torch.bool), torch.ones_like(advantages, dtype=torch.bool)
    factor = torch.ones_like(advantages)

    def update(policy: Tensor, values: Tensor) -> Iterator[MultiAgentBatch]:
        phase = {**columns, UPDATES_POLICY: policy, UPDATES_VALUES: values, FACTOR: factor}
        yield from make_minibatches(make_batch(phase))

    log_probs = compute_log_probs(columns)
    order = take_from_first_learner(torch.randperm(advantages.shape[-1]).to(advantages.device)).tolist()
    for agent in order:
        mask = nobody.clone()
        mask[..., agent] = True
        yield from update(mask, nobody)
        if agent == order[-1]:
            break
        new_log_probs = compute_log_probs(columns)
        log_ratios = (new_log_probs - log_probs).reshape(*advantages.shape, -1).sum(-1)  # (B, n)
        factor = factor * log_ratios[..., agent, None].exp()
        log_probs = new_log_probs
    yield from update(nobody, all_agents)


def without_zeros(gradients: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """Leave out gradients that are zero everywhere.

    In a phase, these are the gradients of parameters that belong to others, which Adam would move by their momentum.
    """
    present = {key: gradient for key, gradient in gradients.items() if gradient is not None}
    norms = torch.stack(torch._foreach_norm(list(present.values()))).tolist()
    return {key: gradient for (key, gradient), norm in zip(present.items(), norms, strict=True) if norm != 0.0}
