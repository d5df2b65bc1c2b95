"""The optimizer applies gradients as they are, in whatever order they lie in memory."""

from __future__ import annotations

import torch
from small_learner import make_learner

from rllib_seqmarl import MAPPOConfig


def test_gradients_are_applied_in_any_memory_layout() -> None:
    weights = []
    for is_transposed in (False, True):
        learner = make_learner(MAPPOConfig().network(share_actor=False, hidden_sizes=[8, 8]))
        gradients = {key: torch.linspace(-1, 1, param.numel()).view_as(param) for key, param in learner._params.items()}
        if is_transposed:
            gradients = {key: gradient.t().contiguous().t() for key, gradient in gradients.items()}
        learner.apply_gradients(gradients)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in learner._params.values()]))
    torch.testing.assert_close(*weights, atol=0, rtol=0)
