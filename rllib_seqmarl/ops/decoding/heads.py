"""Action heads, agent by agent: features to scores, scores to an action, the action to its token."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rllib_seqmarl.ops.decoding.blocks import apply_gelu
from rllib_seqmarl.ops.decoding.rows import layer_norm, norm_weights
from rllib_seqmarl.ops.decoding.step import CompiledStep
from rllib_seqmarl.ops.decoding.tiles import affine, array, packed_layer
from rllib_seqmarl.ops.numba_math import gelu, kernel, scratch


@kernel
def _scores(begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, action_mask: Any, illegal: Any, t: Any,
            scores: Any) -> None:  # fmt: skip
    """scores[:, t] = the policy's scores for the features (batch, d), with illegal ones replaced by ``illegal``.

    scores (batch, agents, width), action_mask likewise or (0, agents, width) if everything is legal."""
    rows, d, width = end - begin, features.shape[1], scores.shape[2]
    hidden, outputs = scratch(rows, d, norm), scratch(rows, width, norm)
    affine(features, begin, rows, up, hidden)
    apply_gelu(rows, d, hidden)
    for r in range(rows):
        layer_norm(hidden, r, norm, hidden, r)
    affine(hidden, 0, rows, down, outputs)
    is_masked = len(action_mask) > 0
    for r in range(rows):
        for j in range(width):
            scores[begin + r, t, j] = outputs[r, j] if not is_masked or action_mask[begin + r, t, j] else illegal


@kernel
def _choose(
    begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, action_mask: Any, illegal: Any, noise: Any,
    bounds: Any, rows: Any, t: Any, scores: Any, actions: Any, tokens: Any,
) -> None:  # fmt: skip
    """The best choices by scores + noise (batch or 0, agents, width), and their tokens (batch, d).

    Component c has the columns bounds[c] to bounds[c + 1]. rows (width, d) are the embeddings of the choices; a token
    is the GELU of the sum of the chosen ones.
    """
    _scores(begin, end, features, up, norm, down, action_mask, illegal, t, scores)
    components, d = len(bounds) - 1, rows.shape[1]
    is_noisy = len(noise) > 0
    for b in range(begin, end):
        for c in range(components):
            first, best, highest = bounds[c], 0, scores[b, t, bounds[c]]
            if is_noisy:
                highest += noise[b, t, first]
            for j in range(1, bounds[c + 1] - first):
                value = scores[b, t, first + j]
                if is_noisy:
                    value += noise[b, t, first + j]
                if value > highest:
                    best, highest = j, value
            actions[b, t, c] = best
            for i in range(d):
                tokens[b, i] = rows[first + best, i] + (tokens[b, i] if c > 0 else rows.dtype.type(0))
        for i in range(d):
            tokens[b, i] = gelu(tokens[b, i])


@kernel
def _move(
    begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, action_mask: Any, zero: Any, noise: Any,
    embedding: Any, t: Any, scores: Any, actions: Any, tokens: Any,
) -> None:  # fmt: skip
    """Real actions, means + noise (batch or 0, agents, width), and their tokens (batch, d), embedded with a GELU."""
    _scores(begin, end, features, up, norm, down, action_mask, zero, t, scores)
    count, width, d = end - begin, scores.shape[2], tokens.shape[1]
    is_noisy = len(noise) > 0
    chosen, embedded = scratch(count, width, norm), scratch(count, d, norm)
    for r in range(count):
        b = begin + r
        for j in range(width):
            chosen[r, j] = scores[b, t, j] + (noise[b, t, j] if is_noisy else zero)
            actions[b, t, j] = chosen[r, j]
    affine(chosen, 0, count, embedding, embedded)
    for r in range(count):
        for i in range(d):
            tokens[begin + r, i] = gelu(embedded[r, i])


class HeadStep(CompiledStep):
    """A policy for a batch of teams, and the decisions of its agents so far.

    Args:
        start: The token (teams, d) before the first agent.
        illegal: The score of illegal choices.
        policy: Linear, GELU, LayerNorm and Linear.
        shape: Teams, agents per team and width of the policy's output.
        action_mask: Legal choices, bool of that shape; None if all are legal.
        noise: Of that shape, added to scores before choosing; None to choose the best.

    Attributes:
        start: The start token as an array.
        scores: Of that shape; filled for the agents that have decided.
        actions: (teams, agents, ...); filled for the agents that have decided.
    """

    actions: Tensor

    def __init__(
        self, start: Tensor, illegal: float, policy: Iterable[Any], shape: tuple[int, int, int],
        action_mask: Tensor | None, noise: Tensor | None,
    ) -> None:  # fmt: skip
        up, _, norm, down = policy
        weights = packed_layer(up), norm_weights(norm), packed_layer(down)
        super().__init__(shape[0], weights[1], weights[1].shape[1], weights[0].size + weights[2].size)
        self.start = self.tokens(start)
        number = self.like.dtype.type
        self.policy = (
            *weights,
            _as_array(action_mask, shape, np.dtype(bool)),
            number(illegal),
            _as_array(noise, shape, self.like.dtype),
        )
        self.numbers = np.empty(shape, self.like.dtype)
        self.scores = torch.from_numpy(self.numbers)
        self.agent = 0

    def decide(self, kernel: Any, features: Any, embedding: tuple[Any, ...], chosen: Any) -> Any:
        """Run ``kernel`` for the next agent, write its choice to the array ``chosen`` and return its token."""
        t, self.agent = self.agent, self.agent + 1
        return self.run(kernel, features, *self.policy, *embedding, t, self.numbers, chosen)


class ChoiceStep(HeadStep):
    """One or several choices per agent; ``sizes``: options per choice; ``rows`` (sum of sizes, d): their embeddings."""

    def __init__(self, sizes: tuple[int, ...], rows: Tensor, start: Tensor, *policy: Any) -> None:
        super().__init__(start, *policy)
        self.embedding = np.array([0, *accumulate(sizes)]), array(rows)
        self.chosen = np.empty((*self.scores.shape[:2], len(sizes)), np.int64)
        self.actions = torch.from_numpy(self.chosen)
        if len(sizes) == 1:
            self.actions = self.actions.squeeze(-1)

    def advance(self, x: Any, context: Any = None) -> Any:
        """The token (batch, d) of the next agent's decision, given its features ``x`` (batch, d)."""
        return self.decide(_choose, x, self.embedding, self.chosen)


class MoveStep(HeadStep):
    """Real actions; ``embedding`` is the linear layer that embeds them as tokens."""

    def __init__(self, embedding: nn.Linear, start: Tensor, *policy: Any) -> None:
        super().__init__(start, 0.0, *policy)
        self.embedding = (packed_layer(embedding),)
        self.chosen = np.empty(self.scores.shape, self.like.dtype)
        self.actions = torch.from_numpy(self.chosen)

    def advance(self, x: Any, context: Any = None) -> Any:
        """As in :class:`ChoiceStep`."""
        return self.decide(_move, x, self.embedding, self.chosen)


def _as_array(x: Tensor | None, shape: tuple[int, int, int], dtype: Any) -> Any:
    """``x`` as a contiguous array of that shape and dtype; an array of zero teams if it is None."""
    if x is None:
        return np.empty((0, *shape[1:]), dtype)
    return np.ascontiguousarray(x.detach().expand(shape).numpy(), dtype)
