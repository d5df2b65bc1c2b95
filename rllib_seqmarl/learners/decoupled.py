"""Samples of an older policy: clipping is around the policy that the update starts from, and the older one only weighs.

PPO clips around the policy that acted. If that is one update old, the present policy is already at the edge of what
clipping allows, and much of the sample moves nothing. The decoupled objective (Hilton et al. 2021, arXiv 2110.00641)
clips around the present one, and corrects for who acted by an importance weight.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor


def decouple(columns: Any, log_probs: Tensor, values: Tensor) -> None:
    """Makes the present policy the one to clip around; changes the columns in place.

    Args:
        columns: A batch, of which ACTION_LOGP, ADVANTAGES and VF_PREDS are changed.
        log_probs: Of the taken actions under the present policy, (B, n), or (B, n, k) for actions of k dimensions.
        values: What the present critic predicts, (B, n), in the value normaliser's units.
    """
    advantages = columns[Postprocessing.ADVANTAGES]  # (B, n)
    log_ratio = (log_probs - columns[Columns.ACTION_LOGP]).reshape(*advantages.shape, -1).sum(-1)  # (B, n)
    columns[Postprocessing.ADVANTAGES] = advantages * log_ratio.exp()
    columns[Columns.ACTION_LOGP], columns[Columns.VF_PREDS] = log_probs, values
