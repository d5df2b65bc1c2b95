"""Multi-head attention along the agent axis (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

The mixers of the Multi-Agent Transformer (Wen et al. 2022, arXiv 2205.14953, section 4). Decoding caches
the keys and values of earlier agents, so a step computes the projections of one token only.

With one head, MAT's default, the tokens themselves serve as keys and values. A softmax ignores terms that
are the same for every key, and its weights w sum to one, so

    q . (Wk x + bk)  ~  (Wk^T q) . x
    Wo (sum_j w_j (Wv x_j + bv)) + bo  =  (Wo Wv) (sum_j w_j x_j) + (Wo bv + bo).

Two of four matrix products per token thus fold into products of weights, and the cache halves; the
parameters and the function they define stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as affine
from torch.nn.functional import scaled_dot_product_attention

from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerShape
from rllib_seqmarl.mixers.layers import linear
from rllib_seqmarl.ops.decoding import is_compiled, per_agent

# Folding costs products of (d, d) matrices per call, which pays off if a batch has more tokens than d.
MAX_FOLDED_DIM = 128


class Attention(Mixer):
    """The parameters of attention, and its parallel form for whole sequences."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.backend = shape.backend
        self.n_head, self.head_dim = shape.n_head, d // shape.n_head
        self.is_folded = shape.n_head == 1 and d <= MAX_FOLDED_DIM
        self.query = linear(d, d)
        self.key_value = linear(d, d, d)
        self.proj = linear(d, d)

    def query_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the query projection; with folding, its queries are compared with tokens."""
        if not self.is_folded:
            return self.query.weight, self.query.bias
        key_weight = self.key_value.weight.chunk(2)[0].T  # (d, d)
        return key_weight @ self.query.weight, key_weight @ self.query.bias

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the output projection of averaged values; with folding, of averaged tokens."""
        if not self.is_folded:
            return self.proj.weight, self.proj.bias
        value_weight, value_bias = self.key_value.weight.chunk(2)[1], self.key_value.bias.chunk(2)[1]
        return self.proj.weight @ value_weight, self.proj.weight @ value_bias + self.proj.bias

    def attend(self, source: Tensor, x: Tensor, causal: bool) -> Tensor:
        """Attend from ``source`` (queries) to ``x`` (keys, values); both and the result are (B, n, d)."""
        q = affine(source, *self.query_weights())
        k, v = (x, x) if self.is_folded else self.key_value(x).chunk(2, dim=-1)  # each (B, n, d)
        q, k, v = (y.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for y in (q, k, v))  # (B, h, n, d/h)
        out = scaled_dot_product_attention(q, k, v, is_causal=causal)
        return affine(out.transpose(1, 2).flatten(2), *self.output_weights())


@dataclass(slots=True)
class AttentionState:
    """Cached keys and values of the agents decoded so far (or their tokens, with folding), and weights."""

    entries: Tensor  # (1 or 2, B, h, capacity, d/h); capacity doubles when full, so appending is amortised O(1)
    length: int
    output_weights: tuple[Tensor, Tensor]
    query_weights: tuple[Tensor, Tensor] | None = None  # if queries come from the tokens

    def append(self, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Append one agent's ``entry`` (1 or 2, B, h, d/h); return all keys and values, each (B, h, t, d/h)."""
        if self.length == self.entries.shape[3]:
            self.entries = torch.cat([self.entries, torch.empty_like(self.entries)], dim=3)
        self.entries.select(3, self.length).copy_(entry)
        self.length += 1
        cached = self.entries.narrow(3, 0, self.length)
        return cached[0], cached[-1]


class CausalAttention(Attention, CausalMixer):
    """Causal attention, which also runs agent by agent."""

    def initial_state(self, batch_size: int) -> Any:
        if is_compiled(self.backend, self.proj.weight):
            from rllib_seqmarl.ops.decoding.attention import AttentionStep  # deferred: numba is optional

            heads = self.n_head, self.head_dim
            return AttentionStep(batch_size, heads, self.query, self.key_value, self.proj, self.is_folded)
        n_entries, capacity = 1 if self.is_folded else 2, 8
        entries = self.proj.weight.new_empty(n_entries, batch_size, self.n_head, capacity, self.head_dim)
        return AttentionState(entries, 0, self.output_weights())

    def attend_step(self, q: Tensor, x: Tensor, state: AttentionState) -> Tensor:
        """Attend from the query ``q`` (B, d) to ``x`` (B, d) and all entries of ``state``; returns (B, d)."""
        entry = x if self.is_folded else self.key_value(x)
        keys_values = state.append(entry.view(x.shape[0], -1, self.n_head, self.head_dim).transpose(0, 1))
        out = scaled_dot_product_attention(q.view(x.shape[0], self.n_head, 1, self.head_dim), *keys_values)
        return affine(out.flatten(1), *state.output_weights)  # (B, d) from (B, h, 1, d/h)


class SelfAttention(Attention):
    """Every agent attends to every agent."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.attend(x, x, causal=False)


class CausalSelfAttention(CausalAttention):
    """Every agent attends to itself and its predecessors."""

    def initial_state(self, batch_size: int) -> Any:
        state = super().initial_state(batch_size)
        if isinstance(state, AttentionState):
            state.query_weights = self.query_weights()
        return state

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.attend(x, x, causal=True)

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(state, AttentionState):  # compiled
            return state(x), state
        assert state.query_weights is not None
        return self.attend_step(affine(x, *state.query_weights), x, state), state


class CrossAttention(CausalAttention):
    """The encoder's output for an agent attends to the tokens of that agent and its predecessors."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None, "cross attention needs the encoder's output as context"
        return self.attend(context, x, causal=True)

    def split_context(self, context: Tensor) -> Sequence[Any]:
        if is_compiled(self.backend, self.proj.weight):  # compiled steps compute queries themselves
            return per_agent(context, self.backend)
        return affine(context.transpose(0, 1), *self.query_weights()).unbind()  # n queries (B, d)

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(state, AttentionState):  # compiled
            return state(x, context), state
        return self.attend_step(context, x, state), state
