"""Attention along time over the last steps only, so that a step's cost does not grow with the episode."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rllib_seqmarl.mixers.attention import visible
from rllib_seqmarl.mixers.base import CausalMixer, MixerOptions, MixerShape, State
from rllib_seqmarl.mixers.layers import linear


@dataclass(frozen=True)
class WindowOptions(MixerOptions):
    """Options of attention along time.

    Attributes:
        window: Number of positions that a position attends to, including itself.

    Raises:
        ValueError: An option has an invalid value.
    """

    window: int = 32

    def __post_init__(self) -> None:
        self.check_counts("window")


class WindowedAttention(CausalMixer):
    """LN(x + attention to the last ``window`` positions), with a learned bias per head and distance.

    The state holds the keys and values of the last window - 1 positions, "entries" (B, 2, h, window - 1, d/h), of which
    the last "count" (B,) are visible.
    """

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        options: WindowOptions = shape.options or WindowOptions()
        d, self.n_head, self.window = shape.embed_dim, shape.n_head, options.window
        self.projections = linear(d, d, d, d, gain=1.0)  # query, key and value
        self.proj = linear(d, d, gain=1.0)
        self.bias = nn.Parameter(torch.zeros(self.n_head, self.window))  # by distance
        self.norm = nn.LayerNorm(d)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        current, outputs = self.initial_state(x.shape[0]) if state is None else state, []
        size = max(self.window, 16)  # attention of parts to themselves and the state: linear in the number of positions
        for begin in range(0, x.shape[1], size):
            part = slice(begin, begin + size)
            y, current = self._attend(x[:, part], current, None if resets is None else resets[:, part])
            outputs.append(y)
        return torch.cat(outputs, dim=1), None if state is None else current

    def _attend(self, x: Tensor, state: State, resets: Tensor | None) -> tuple[Tensor, State]:
        length, old = x.shape[1], self.window - 1
        q, k, v = self.projections(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # (B, h, L, d/h) each
        entries = torch.cat([state["entries"], torch.stack([k, v], dim=1)], dim=3)  # (B, 2, h, old + L, d/h)
        mask, count = visible(state["count"], resets, length, old + length)  # (B, L, old + L)
        positions = torch.arange(old + length, device=x.device)
        distances = positions[old:, None] - positions  # (L, old + L)
        bias = self.bias[:, distances.clamp(0, old)]  # (h, L, old + L)
        mask = (mask & (distances < self.window)).unsqueeze(1)  # (B, 1, L, old + L)
        keys, values = entries.unbind(1)
        out = scaled_dot_product_attention(q, keys, values, torch.where(mask, bias, -torch.inf))
        y = self.norm(x + self.proj(out.transpose(1, 2).flatten(2)))
        return y, {"entries": entries[:, :, :, length:], "count": count.clamp(max=old)}

    def initial_state(self, batch_size: int) -> State:
        weight, head_dim = self.proj.weight, self.proj.in_features // self.n_head
        return {
            "entries": weight.new_zeros(batch_size, 2, self.n_head, self.window - 1, head_dim),
            "count": weight.new_zeros(batch_size, dtype=torch.int64),
        }
