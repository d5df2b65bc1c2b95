"""Multi-head attention along the agent axis (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

The mixers of the Multi-Agent Transformer (Wen et al. 2022, arXiv 2205.14953, section 4). The state holds the keys and
values of earlier positions, so a step computes the projections of one token only.

With one head, MAT's default, the tokens themselves serve as keys and values. A softmax ignores terms that
are the same for every key, and its weights w sum to one, so

    q . (Wk x + bk)  ~  (Wk^T q) . x
    Wo (sum_j w_j (Wv x_j + bv)) + bo  =  (Wo Wv) (sum_j w_j x_j) + (Wo bv + bo).

Two of four matrix products per token thus fold into products of weights, and the state halves; the
parameters and the function they define stay the same.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear as affine
from torch.nn.functional import scaled_dot_product_attention

from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerShape, State
from rllib_seqmarl.mixers.layers import linear

# Folding costs products of (d, d) matrices per call, which pays off if a batch has more tokens than d.
MAX_FOLDED_DIM = 128


class Attention(Mixer):
    """Projections, and attention among the positions of a window."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
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

    def entries(self, x: Tensor) -> Tensor:
        """Keys and values of ``x`` (B, L, d), or with folding its tokens: (B, 1 or 2, h, L, d/h)."""
        tokens = x if self.is_folded else self.key_value(x)
        return tokens.unflatten(-1, (-1, self.n_head, self.head_dim)).permute(0, 2, 3, 1, 4)

    def attend(self, source: Tensor, entries: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend from ``source`` (B, L, d), from which queries are computed, to ``entries``; returns (B, L, d).

        ``mask`` (B, L or 1, entries) bool says which entries a query sees.
        """
        q = affine(source, *self.query_weights()).unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, h, L, d/h)
        keys_values = entries.unbind(1)  # one or two times (B, h, entries, d/h)
        mask = None if mask is None else mask.unsqueeze(1)
        out = scaled_dot_product_attention(q, keys_values[0], keys_values[-1], mask, is_causal=causal)
        return affine(out.transpose(1, 2).flatten(2), *self.output_weights())


class SelfAttention(Attention):
    """Every position attends to every position."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, State]:
        return self.attend(x, self.entries(x)), None


class CausalSelfAttention(Attention, CausalMixer):
    """Every position attends to itself and its predecessors.

    The state's entries (B, 1 or 2, h, t, d/h) grow with every position; the last ``count`` (B,) of them are visible.
    """

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        source = self.source(x, context)
        if state is None and resets is None:
            return self.attend(source, self.entries(x), causal=True), None
        old = self.initial_state(x.shape[0]) if state is None else state
        entries = torch.cat([old["entries"], self.entries(x)], dim=3)
        mask, count = visible(old["count"], resets, x.shape[1], entries.shape[3])
        y = self.attend(source, entries, mask)
        return y, None if state is None else {"entries": entries, "count": count}

    def initial_state(self, batch_size: int) -> State:
        weight, n_entries = self.proj.weight, 1 if self.is_folded else 2
        return {
            "entries": weight.new_zeros(batch_size, n_entries, self.n_head, 0, self.head_dim),
            "count": weight.new_zeros(batch_size, dtype=torch.int64),
        }

    def source(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What queries are computed from."""
        return x


class CrossAttention(CausalSelfAttention):
    """The encoder's output for an agent attends to the tokens of that agent and its predecessors."""

    def source(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None, "cross attention needs the encoder's output as context"
        return context


def visible(count: Tensor, resets: Tensor | None, length: int, total: int) -> tuple[Tensor, Tensor]:
    """Which of ``total`` entries each of the last ``length`` positions sees, and how many the next position would see.

    Args:
        count: (B,), the number of earlier entries that are visible before the window.
        resets: (B, length) bool, or None.
        length: Positions in the window.
        total: Earlier entries and those of the window.

    Returns:
        A mask (B, length, total) and the new count (B,).
    """
    entries = torch.arange(total, device=count.device)
    positions = entries[total - length :]
    first = (total - length - count).unsqueeze(1).expand(-1, length)  # (B, length), the first visible entry
    if resets is not None:
        first = torch.where(resets, positions, first).cummax(1).values
    mask = (entries >= first.unsqueeze(-1)) & (entries <= positions.unsqueeze(-1))
    return mask, total - first[:, -1]
