"""Protection from updates that would corrupt the weights: those with a non-finite loss or gradient."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite. It was not applied; the last checkpoint is unaffected."""


class UpdateGuard:
    """Check of an update as a whole, just before it is applied.

    With several learners, the loss and the gradients are averages over all, so all make the same decision.

    Args:
        config: The learner's config, for error messages and `torch_skip_nan_gradients`.

    Attributes:
        loss: The update's loss.
        terms: The terms of the loss by name, for error messages.
        norms: The norms of the gradients, both before clipping, which may hide non-finite values, and after it.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self.loss: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self.norms: list[Tensor] = []
        self._saved: list[tuple[Tensor, Tensor]] = []

    def save_normalizer(self, normalizer: nn.Module | None) -> None:
        """Save the value normaliser's statistics, which an update changes before its gradients are known."""
        self._saved = [] if normalizer is None else [(buffer, buffer.clone()) for buffer in normalizer.buffers()]

    def passes(self) -> bool:
        """Return whether to apply the update; if not, restore the value normaliser.

        Raises:
            NonFiniteLossError: The update is not finite, and `torch_skip_nan_gradients` is not set.
        """
        norms, self.norms = self.norms, []
        numbers = norms if self.loss is None else [self.loss, *norms]
        # One check for all numbers: on a GPU each check is a synchronisation.
        if not numbers or torch.stack([number.float() for number in numbers]).isfinite().all():
            return True
        for buffer, saved in self._saved:
            buffer.copy_(saved)
        error = self._make_error(norms)
        if not self._config.torch_skip_nan_gradients:
            raise error
        logger.warning("torch_skip_nan_gradients=True: %s", error)
        return False

    def _make_error(self, norms: list[Tensor]) -> NonFiniteLossError:
        loss = self.loss
        parts = ", ".join(f"{key} {term.item():.4g}" for key, term in self.terms.items() if key != "total")
        if loss is not None and not loss.isfinite():
            problem = f"The loss became {loss.item()} ({parts})"
        else:
            norm = next(norm.item() for norm in norms if not norm.isfinite())
            problem = f"The gradient's norm became {norm}, although the loss is finite ({parts})"
        return NonFiniteLossError(
            f"{problem}, so training stopped before this update was applied. Continue from the last checkpoint with a "
            f"lower `lr` (now {self._config.lr}) or a lower `grad_clip` (now {self._config.grad_clip}), and check the "
            f"scale of the environment's rewards and observations."
        )
