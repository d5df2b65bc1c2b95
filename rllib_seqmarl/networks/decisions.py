"""A team's decisions, made agent by agent."""

import torch
from torch import Tensor

from rllib_seqmarl.mixers import CausalMixer
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


def decide(
    decoder: CausalMixer, head: ActionHead, encoder_output: Tensor, action_mask: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Let each agent choose its action, given the encoder's output (B, n, d) and its predecessors' actions.

    Masks and noise are as in :class:`Decisions`.

    Returns:
        Scores (B, n, width) and actions (B, n, *action_shape).
    """
    state = decoder.initial_state(encoder_output.shape[0])
    return decide_from(state, decoder, head, encoder_output, action_mask, noise)[:2]


def decide_from(
    state: State,
    decoder: CausalMixer,
    head: ActionHead,
    encoder_output: Tensor,
    action_mask: Tensor | None,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, State]:
    """Decide as in :func:`decide`, from the decoder's state after an earlier step; also return the state."""
    decisions, token = Decisions(head, action_mask, noise), head.start(encoder_output.shape[0])
    for context in encoder_output.unbind(1):
        features, state = decoder.step(token, state, context)  # (B, d)
        token = decisions(features)
    return decisions.scores, decisions.actions, state
