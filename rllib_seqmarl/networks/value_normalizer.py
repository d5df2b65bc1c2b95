"""Running normalisation of values, which gives the value loss the same scale in every task.

Debiased exponential moving averages of the returns and of their squares (the value normalisation of MAPPO,
Yu et al. 2022, arXiv 2103.01955, section 5.1; debiasing as in Adam, Kingma & Ba 2015, arXiv 1412.6980,
section 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

DECAY = 0.99999
MIN_DEBIAS = 1e-5
MIN_VARIANCE = 1e-2


class ValueNormalizer(nn.Module):
    """Maps values to zero mean and unit variance under the returns so far, and back.

    The statistics are float64 scalars: with this decay, an update changes them by a relative 1e-5, which is too
    fine for float32, and computing the variance from a mean of squares suffers from cancellation.
    """

    mean: Tensor
    mean_square: Tensor
    debias: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "mean_square", "debias"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(
        self, returns: Tensor, weights: Tensor | None = None, sync: Callable[[Tensor], None] | None = None
    ) -> None:
        """Update the statistics with a batch of returns, of any shape.

        Args:
            returns: Returns in the task's units.
            weights: Same shape; 0 excludes an entry (a dead agent). None: all entries count.
            sync: Called with [sum, sum of squares, count] before use, to sum them over learners in place.
        """
        returns = returns.to(self.mean.dtype)
        weights = torch.ones_like(returns) if weights is None else weights.to(returns.dtype)
        sums = torch.stack([(weights * returns).sum(), (weights * returns.square()).sum(), weights.sum()])
        if sync is not None:
            sync(sums)
        batch_mean, batch_mean_square = sums[:2] / sums[2].clamp(min=1.0)
        new = (sums[2] > 0).to(sums.dtype) * (1.0 - DECAY)  # a batch without entries changes nothing
        self.mean.lerp_(batch_mean, new)
        self.mean_square.lerp_(batch_mean_square, new)
        self.debias.lerp_(torch.ones_like(new), new)

    def normalize(self, values: Tensor) -> Tensor:
        """Normalise values in the task's units; keeps shape and dtype."""
        mean, std = self._statistics()
        return ((values - mean) / std).to(values.dtype)

    def denormalize(self, values: Tensor) -> Tensor:
        """Convert normalised values, such as a network's, to the task's units; the inverse of :meth:`normalize`."""
        mean, std = self._statistics()
        return (values * std + mean).to(values.dtype)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        debias = self.debias.clamp(min=MIN_DEBIAS)
        mean = self.mean / debias
        variance = (self.mean_square / debias - mean.square()).clamp(min=MIN_VARIANCE)
        return mean, variance.sqrt()
