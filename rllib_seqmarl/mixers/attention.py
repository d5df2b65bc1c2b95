"""Multi-head attention along the agent axis (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

The mixers of the Multi-Agent Transformer (Wen et al. 2022, arXiv 2205.14953, section 4). Decoding keeps the
keys and values of earlier agents, so a step costs one token's work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerShape
from rllib_seqmarl.mixers.layers import linear


class KeyValueCache:
    """Keys and values of the agents decoded so far. Room doubles when full, so an entry costs O(1) to add."""

    def __init__(self, like: Tensor, batch_size: int, n_head: int, head_dim: int, capacity: int = 8) -> None:
        self.entries = like.new_empty(2, batch_size, n_head, capacity, head_dim)
        self.length = 0

    def append(self, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Add one agent's key and value (2, B, h, d/h); return all keys and values, each (B, h, t, d/h)."""
        if self.length == self.entries.shape[3]:
            self.entries = torch.cat([self.entries, torch.empty_like(self.entries)], dim=3)
        self.entries.select(3, self.length).copy_(entry)
        self.length += 1
        keys, values = self.entries.narrow(3, 0, self.length).unbind(0)
        return keys, values


def merge_heads(y: Tensor) -> Tensor:
    """(B, h, n, d/h) -> (B, n, d)."""
    return y.transpose(1, 2).flatten(2)


class SelfAttention(Mixer):
    """Every agent attends to every agent."""

    causal = False

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.n_head, self.head_dim = shape.n_head, d // shape.n_head
        self.query_key_value = linear(d, d, d, d)
        self.proj = linear(d, d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch_size, n, _ = x.shape
        qkv = self.query_key_value(x).view(batch_size, n, 3, self.n_head, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, h, n, d/h)
        return self.proj(merge_heads(scaled_dot_product_attention(q, k, v, is_causal=self.causal)))


class CausalSelfAttention(SelfAttention, CausalMixer):
    """Every agent attends to itself and its predecessors."""

    causal = True

    def initial_state(self, batch_size: int) -> KeyValueCache:
        return KeyValueCache(self.proj.weight, batch_size, self.n_head, self.head_dim)

    def step(self, x: Tensor, state: KeyValueCache, context: Any = None) -> tuple[Tensor, KeyValueCache]:
        qkv = self.query_key_value(x).view(-1, 3, self.n_head, self.head_dim)
        qkv = qkv.transpose(0, 1)  # (3, B, h, d/h)
        q = qkv.select(0, 0).unsqueeze(2)  # (B, h, 1, d/h)
        y = scaled_dot_product_attention(q, *state.append(qkv.narrow(0, 1, 2)))  # (B, h, 1, d/h)
        return self.proj(y.flatten(1)), state


class CrossAttention(CausalMixer):
    """The encoder's output for an agent attends to the tokens of that agent and its predecessors."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.n_head, self.head_dim = shape.n_head, d // shape.n_head
        self.query = linear(d, d)
        self.key_value = linear(d, d, d)
        self.proj = linear(d, d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None, "cross attention needs the encoder's output as context"
        batch_size, n, _ = x.shape
        q = self.query(context).view(batch_size, n, self.n_head, self.head_dim)
        kv = self.key_value(x).view(batch_size, n, 2, self.n_head, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, h, n, d/h)
        return self.proj(merge_heads(scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)))

    def split_context(self, context: Tensor) -> tuple[Tensor, ...]:
        batch_size, n, _ = context.shape
        queries = self.query(context).view(batch_size, n, self.n_head, 1, self.head_dim)
        return queries.unbind(1)  # n times (B, h, 1, d/h)

    def initial_state(self, batch_size: int) -> KeyValueCache:
        return KeyValueCache(self.proj.weight, batch_size, self.n_head, self.head_dim)

    def step(self, x: Tensor, state: KeyValueCache, context: Any = None) -> tuple[Tensor, KeyValueCache]:
        kv = self.key_value(x).view(-1, 2, self.n_head, self.head_dim).transpose(0, 1)  # (2, B, h, d/h)
        y = scaled_dot_product_attention(context, *state.append(kv))  # (B, h, 1, d/h)
        return self.proj(y.flatten(1)), state
