"""A Normal squashed to (-1, 1) by tanh, Sable's distribution of continuous actions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.networks.distributions import Distribution
from rllib_seqmarl.networks.policy_config import ActionSpec

LEAST_STD = 1e-3
LIMIT = 0.999  # beyond, where the inverse of tanh is inaccurate, the density is the mean over the tail


class TanhGaussian(Distribution):
    """tanh of an independent Normal per action dimension; scores are its means, actions are in [-1, 1].

    The standard deviation, softplus(log_std) + 0.001, does not depend on the observation. Log-probabilities and
    entropies are summed over dimensions (Mahjoub et al. 2024, arXiv 2410.01706, and its published code). The entropy is
    an estimate from one sample.
    """

    kind = "continuous"

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__(spec)
        self.log_std = nn.Parameter(torch.zeros(spec.dim))

    @property
    def std(self) -> Tensor:
        """Standard deviation per action dimension before squashing, (dim,)."""
        return F.softplus(self.log_std) + LEAST_STD

    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        return self._masked(actions.to(self.log_std.dtype), action_mask)

    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        return self._masked(outputs, action_mask)

    def noise(self, like: Tensor, action_mask: Tensor | None) -> Tensor:
        return self._masked(torch.randn_like(like) * self.std, action_mask)

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        return torch.tanh(scores if noise is None else scores + noise)

    def log_probs(
        self, scores: Tensor, actions: Tensor, action_mask: Tensor | None, agent: int | None = None
    ) -> Tensor:
        std, edge = self.std, math.atanh(LIMIT)
        inner = torch.atanh(actions.clamp(-LIMIT, LIMIT))  # before squashing
        z = (inner - scores) / std
        density = -0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi) - _log_slope(inner)
        tails = torch.special.log_ndtr(torch.where(actions > 0, scores - edge, -edge - scores) / std)
        log_probs = torch.where(actions.abs() < LIMIT, density, tails - math.log(1 - LIMIT))
        return self._masked(log_probs, action_mask).sum(-1)

    def entropy(self, scores: Tensor, action_mask: Tensor | None, agent: int | None = None) -> Tensor:
        std = self.std
        sample = scores + std * torch.randn_like(scores)
        entropy = std.log() + 0.5 * math.log(2 * math.pi * math.e) + _log_slope(sample)
        return self._masked(entropy, action_mask).sum(-1)


def _log_slope(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), without cancellation."""
    return 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
