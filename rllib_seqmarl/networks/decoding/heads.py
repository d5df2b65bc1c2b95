"""Action heads, agent by agent: features to scores, scores to an action, the action to its token."""

from itertools import accumulate
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.networks.action_heads import ActionHead, CategoricalHead, GaussianHead
from rllib_seqmarl.networks.decisions import Decisions
from rllib_seqmarl.networks.decoding.blocks import apply_gelu
from rllib_seqmarl.networks.decoding.rows import norm_weights, normalise
from rllib_seqmarl.networks.decoding.step import CompiledStep, as_array
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed_layer
from rllib_seqmarl.networks.distributions import ILLEGAL_LOGIT
from rllib_seqmarl.ops.numba_math import kernel, scratch


@kernel
def _scores(
    begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, is_tanh: Any, action_mask: Any, illegal: Any,
    t: Any, scores: Any,
) -> None:  # fmt: skip
    """scores[:, t] = the policy's scores for the features (batch, d), with illegal ones replaced by ``illegal``.

    scores (batch, agents, width), action_mask likewise or (0, agents, width) if everything is legal; ``is_tanh``:
    whether GELUs are approximated.
    """
    rows, d, width = end - begin, features.shape[1], scores.shape[2]
    hidden, outputs = scratch(rows, d, norm), scratch(rows, width, norm)
    affine(features, begin, rows, up, hidden)
    apply_gelu(rows, d, hidden, is_tanh)
    for r in range(rows):
        normalise(hidden, r, norm, hidden, r)
    affine(hidden, 0, rows, down, outputs)
    is_masked = len(action_mask) > 0
    for r in range(rows):
        for j in range(width):
            scores[begin + r, t, j] = outputs[r, j] if not is_masked or action_mask[begin + r, t, j] else illegal


@kernel
def _choose(
    begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, is_tanh: Any, action_mask: Any,
    illegal: Any, noise: Any, bounds: Any, rows: Any, t: Any, scores: Any, actions: Any, tokens: Any,
) -> None:  # fmt: skip
    """The best choices by scores + noise (batch or 0, agents, width), and their tokens (batch, d).

    Component c has the columns bounds[c] to bounds[c + 1]. rows (width, d) are the embeddings of the choices; a token
    is the GELU of the sum of the chosen ones.
    """
    _scores(begin, end, features, up, norm, down, is_tanh, action_mask, illegal, t, scores)
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
    apply_gelu(end - begin, d, tokens[begin:end], is_tanh)


@kernel
def _move(
    begin: Any, end: Any, features: Any, up: Any, norm: Any, down: Any, is_tanh: Any, action_mask: Any,
    zero: Any, noise: Any, embedding: Any, t: Any, scores: Any, actions: Any, tokens: Any,
) -> None:  # fmt: skip
    """Real actions, means + noise (batch or 0, agents, width), and their tokens (batch, d), embedded with a GELU."""
    _scores(begin, end, features, up, norm, down, is_tanh, action_mask, zero, t, scores)
    count, width, d = end - begin, scores.shape[2], tokens.shape[1]
    is_noisy = len(noise) > 0
    chosen, embedded = scratch(count, width, norm), scratch(count, d, norm)
    for r in range(count):
        b = begin + r
        for j in range(width):
            chosen[r, j] = scores[b, t, j] + (noise[b, t, j] if is_noisy else zero)
            actions[b, t, j] = chosen[r, j]
    affine(chosen, 0, count, embedding, embedded)
    apply_gelu(count, d, embedded, is_tanh)
    tokens[begin:end] = embedded[:, :d]


class HeadStep(CompiledStep):
    """A head with packed weights, and the decisions of its agents so far.

    Attributes:
        scores: (batch, agents, width); filled for the agents that have decided.
        actions: (batch, agents, ...); filled for the agents that have decided.
    """

    scores: Tensor
    actions: Tensor
    illegal = 0.0  # the score of illegal choices

    def __init__(self, head: ActionHead) -> None:
        up, gelu, norm, down = cast(Any, head.policy)
        self.head = head
        self.weights = packed_layer(up), norm_weights(norm), packed_layer(down), gelu.approximate == "tanh"
        super().__init__(self.weights[1], self.weights[1].shape[1], self.weights[0].size + self.weights[2].size)
        self.action_dtype = self.dtype

    def begin(self, contexts: Any, action_mask: Tensor | None, noise: Tensor | None) -> Any:
        """Begin the decisions of a batch of teams.

        Args:
            contexts: Array (agents, batch, d), for its shape and dtype.
            action_mask: (batch, agents, width) bool, the legal choices; None if all are legal.
            noise: Of that shape, added to scores before choosing; None to choose the best.

        Returns:
            The token (batch, d) before the first agent.
        """
        self.start(contexts.shape[1], len(contexts))
        spec, (n_agents, batch_size, _) = self.head.spec, contexts.shape
        shape = batch_size, n_agents, spec.width
        masks = _as_array(action_mask, shape, np.dtype(bool)), self.dtype.type(self.illegal)
        self.policy = (*self.weights, *masks, _as_array(noise, shape, self.dtype))
        self.numbers = np.empty(shape, self.dtype)
        self.chosen = np.empty((batch_size, n_agents, prod(spec.action_shape)), self.action_dtype)
        self.scores = torch.from_numpy(self.numbers)
        self.actions = torch.from_numpy(self.chosen).view(batch_size, n_agents, *spec.action_shape)
        self.agent = 0
        return as_array(self.head.start(batch_size), contexts[0])

    def decide(self, kernel: Any, features: Any, *embedding: Any) -> Any:
        """Run ``kernel`` for the next agent and return its token."""
        t, self.agent = self.agent, self.agent + 1
        return self.run(kernel, features, *self.policy, *embedding, t, self.numbers, self.chosen)


class CategoricalStep(HeadStep):
    """One or several choices per agent."""

    illegal = ILLEGAL_LOGIT

    def __init__(self, head: CategoricalHead) -> None:
        super().__init__(head)
        self.action_dtype = np.dtype(np.int64)
        self.embedding = np.array([0, *accumulate(head.spec.nvec)]), array(head.choice_rows)

    def __call__(self, features: Any) -> Any:
        """The token (batch, d) of the next agent's decision, given its features (batch, d)."""
        return self.decide(_choose, features, *self.embedding)


class GaussianStep(HeadStep):
    """Real actions."""

    def __init__(self, head: GaussianHead) -> None:
        super().__init__(head)
        self.embedding = packed_layer(head.action_embedding)

    def __call__(self, features: Any) -> Any:
        """As in :class:`CategoricalStep`."""
        return self.decide(_move, features, self.embedding)


class TorchHead:
    """Runs a head without kernels among compiled steps; used like :class:`HeadStep`."""

    def __init__(self, head: ActionHead) -> None:
        self.head = head

    def begin(self, contexts: Any, action_mask: Tensor | None, noise: Tensor | None) -> Any:
        self.decisions = Decisions(self.head, action_mask, noise)
        return as_array(self.head.start(contexts.shape[1]), contexts[0])

    def __call__(self, features: Any) -> Any:
        return as_array(self.decisions(torch.from_numpy(features)), features)

    @property
    def scores(self) -> Tensor:
        return self.decisions.scores

    @property
    def actions(self) -> Tensor:
        return self.decisions.actions


def _as_array(x: Tensor | None, shape: tuple[int, int, int], dtype: Any) -> Any:
    """``x`` as a contiguous array of that shape and dtype; an array of zero teams if it is None."""
    if x is None:
        return np.empty((0, *shape[1:]), dtype)
    return np.ascontiguousarray(x.detach().expand(shape).numpy(), dtype)
