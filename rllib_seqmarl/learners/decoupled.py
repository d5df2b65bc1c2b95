"""The decoupled PPO objective, for samples of an older policy.

PPO clips around the policy that acted. If that is one update old, the current policy may already be at the clipping
boundary, where many samples have no gradient. The decoupled objective (Hilton et al. 2021, arXiv 2110.00641) clips
around the current policy, and corrects for the policy that acted by an importance weight.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor


def decouple(columns: Any, log_probs: Tensor, values: Tensor) -> None:
    """Clip around the current policy instead of the one that acted; changes the columns in place.

    Args:
        columns: A batch, whose ACTION_LOGP, ADVANTAGES and VF_PREDS are changed.
        log_probs: Log-probabilities of the actions under the current policy, (B, n), or (B, n, k) for actions of k
            dimensions.
        values: Predictions of the current critic, (B, n), in the value normaliser's units.
    """
    advantages = columns[Postprocessing.ADVANTAGES]  # (B, n)
    log_ratio = (log_probs - columns[Columns.ACTION_LOGP]).reshape(*advantages.shape, -1).sum(-1)  # (B, n)
    columns[Postprocessing.ADVANTAGES] = advantages * log_ratio.exp()
    columns[Columns.ACTION_LOGP], columns[Columns.VF_PREDS] = log_probs, values
