"""Refuses updates that would ruin the weights: those whose loss or gradient is not finite."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from rllib_seqmarl.learners.joint_ppo_loss import JointPPOLoss

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite. No update was made with it; the last checkpoint is good."""


class UpdateGuard:
    """Tests an update as a whole, once, when it is about to be applied.

    With several learners the loss and the gradients that it is given are averages over all, so all decide alike.

    Args:
        config: The learner's, for its messages and for `torch_skip_nan_gradients`.

    Attributes:
        loss: The update's loss.
        terms: What the loss consists of, for messages.
        norms: The norms of its gradients: before clipping, which may hide what is not finite, and after it.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self.loss: Tensor | None = None
        self.terms: JointPPOLoss | None = None
        self.norms: list[Tensor] = []
        self._saved: list[tuple[Tensor, Tensor]] = []

    def begin(self, normalizer: nn.Module | None) -> None:
        """Keeps what an update changes before its gradients are known: the value normaliser's statistics."""
        self._saved = [] if normalizer is None else [(buffer, buffer.clone()) for buffer in normalizer.buffers()]

    def passes(self) -> bool:
        """Whether to apply the update; if not, the value normaliser is as it was before.

        Raises:
            NonFiniteLossError: The update is not finite, and `torch_skip_nan_gradients` is not set.
        """
        norms, self.norms = self.norms, []
        numbers = norms if self.loss is None else [self.loss, *norms]
        # One question for all numbers: on a GPU each answer is a wait.
        if not numbers or torch.stack([number.float() for number in numbers]).isfinite().all():
            return True
        for buffer, saved in self._saved:
            buffer.copy_(saved)
        error = self._error(norms)
        if not self._config.torch_skip_nan_gradients:
            raise error
        logger.warning("torch_skip_nan_gradients=True: %s", error)
        return False

    def _error(self, norms: list[Tensor]) -> NonFiniteLossError:
        loss, terms = self.loss, self.terms
        parts = ""
        if terms is not None:
            parts = (
                f"policy loss {terms.policy.item():.4g}, value loss {terms.value.item():.4g}, entropy "
                f"{terms.entropy.item():.4g}"
            )
        if loss is not None and not loss.isfinite():
            what = f"The loss became {loss.item()} ({parts})"
        else:
            norm = next(norm.item() for norm in norms if not norm.isfinite())
            what = f"The gradient's norm became {norm}, though the loss is finite ({parts})"
        return NonFiniteLossError(
            f"{what}, so training stopped before this update was made. Continue from the last checkpoint with a lower "
            f"`lr` (now {self._config.lr}) or a lower `grad_clip` (now {self._config.grad_clip}), and check the scale "
            f"of the environment's rewards and observations."
        )
