"""A team's decisions, made agent by agent."""

from typing import Any, Protocol

import torch
from torch import Tensor

from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.networks.action_heads import ActionHead


class Decisions:
    """The decisions of the agents so far. Called with the features (B, d) of the next agent, it chooses an action and
    returns the action's token (B, d).

    Args:
        head: Maps features to scores, scores to actions, and actions to tokens.
        action_mask: (B, n, width) bool as by :meth:`ActionHead.effective_mask`, or None.
        noise: (B, n, width) as by :meth:`ActionHead.noise`, or None for the most probable actions.
    """

    def __init__(self, head: ActionHead, action_mask: Tensor | None, noise: Tensor | None) -> None:
        self._head, self._embed = head, head.embedder()
        self._action_mask, self._noise = action_mask, noise
        self._scores: list[Tensor] = []
        self._actions: list[Tensor] = []

    def __call__(self, features: Tensor) -> Tensor:
        t, head = len(self._scores), self._head
        action_mask, noise = (None if x is None else x[:, t] for x in (self._action_mask, self._noise))
        self._scores.append(head.scores(head.policy(features), action_mask))  # (B, width)
        self._actions.append(head.choose(self._scores[t], noise))  # (B, *action_shape)
        return self._embed(self._actions[t])

    @property
    def scores(self) -> Tensor:
        """(B, n, width)."""
        return torch.stack(self._scores, dim=1)

    @property
    def actions(self) -> Tensor:
        """(B, n, *action_shape)."""
        return torch.stack(self._actions, dim=1)


class Stepwise(Protocol):
    """A decoder: a token (B, d) in, the features (B, d) of the next agent out."""

    def initial_state(self, batch_size: int) -> State: ...

    def step(self, x: Tensor, state: Any, context: Tensor) -> tuple[Tensor, State]: ...


def decide(
    decoder: Stepwise,
    head: ActionHead,
    encoder_output: Tensor,
    action_mask: Tensor | None,
    noise: Tensor | None,
    state: State = None,
) -> tuple[Tensor, Tensor, State]:
    """Let each agent choose its action, given the encoder's output (B, n, d) and its predecessors' actions.

    Masks and noise are as in :class:`Decisions`. ``state`` is the decoder's after an earlier step, or None.

    Returns:
        Scores (B, n, width), actions (B, n, *action_shape), and the decoder's state.
    """
    if state is None:
        state = decoder.initial_state(encoder_output.shape[0])
    decisions, token = Decisions(head, action_mask, noise), head.start(encoder_output.shape[0])
    for context in encoder_output.unbind(1):
        features, state = decoder.step(token, state, context)  # (B, d)
        token = decisions(features)
    return decisions.scores, decisions.actions, state
