"""A team's decisions, made agent by agent from the decoder's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rllib_seqmarl.mixers.layers import bound

if TYPE_CHECKING:
    from rllib_seqmarl.networks.action_heads import ActionHead


class Decisions(Protocol):
    """Called with the features (B, d) of each agent in turn, chooses its action and returns the action's token (B, d).

    Tokens and features are arrays between kernels, and tensors otherwise.
    """

    @property
    def start(self) -> Any:
        """The token (B, d) before the first agent."""

    def __call__(self, features: Any, /) -> Any: ...

    @property
    def scores(self) -> Tensor:
        """Scores (B, n, width), once all agents have decided."""

    @property
    def actions(self) -> Tensor:
        """Actions (B, n, *action_shape), once all agents have decided."""


class TorchDecisions:
    """Decisions in plain torch, by the methods of an :class:`~rllib_seqmarl.networks.action_heads.ActionHead`."""

    def __init__(
        self, head: ActionHead, shape: tuple[int, int, int], action_mask: Tensor | None, noise: Tensor | None
    ) -> None:
        batch_size, n, _ = shape
        self.start = head.start(batch_size)
        self._head, self._policy, self._embed = head, bound(head.policy), head.embedder()
        self._action_mask = [None] * n if action_mask is None else action_mask.unbind(1)  # n tensors (B, width)
        self._noise = [None] * n if noise is None else noise.unbind(1)  # n tensors (B, width)
        self._scores: list[Tensor] = []
        self._actions: list[Tensor] = []

    def __call__(self, features: Tensor, /) -> Tensor:
        t = len(self._scores)
        scores = self._head.scores(self._policy(features), self._action_mask[t])  # (B, width)
        self._scores.append(scores)
        self._actions.append(self._head.choose(scores, self._noise[t]))  # (B, *action_shape)
        return self._embed(self._actions[t])

    @property
    def scores(self) -> Tensor:
        return torch.stack(self._scores, dim=1)

    @property
    def actions(self) -> Tensor:
        return torch.stack(self._actions, dim=1)
