"""A gated recurrent unit along time (Cho et al. 2014, arXiv 1406.1078): the memory of recurrent MAPPO."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rllib_seqmarl.mixers.base import CausalMixer, MixerOptions, MixerShape, State


@dataclass(frozen=True)
class GRUOptions(MixerOptions):
    """Options of a GRU.

    Attributes:
        num_layers: Number of GRUs on top of each other.
        max_delay: The number of steps to remember initially: biases of update gates are drawn such that units forget
            within 2 to this many steps (Tallec and Ollivier 2018, arXiv 1804.11188). None for zeros, as in MAPPO, with
            which units forget half in every step.

    Raises:
        ValueError: An option has an invalid value.
    """

    num_layers: int = 1
    max_delay: int | None = None

    def __post_init__(self) -> None:
        self.check_counts("num_layers", *(["max_delay"] if self.max_delay is not None else []))
        if self.max_delay in (1, 2):
            raise ValueError(f"max_delay must be at least 3 steps, not {self.max_delay}; or None")


class GRU(CausalMixer):
    """torch's GRU and a LayerNorm of its outputs, as in MAPPO's published code (Yu et al. 2022, arXiv 2103.01955).

    The state, "hidden" (B, num_layers, d), is not normalised.
    """

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d, options = shape.embed_dim, shape.options or GRUOptions()
        self.rnn = nn.GRU(d, d, options.num_layers, batch_first=True)
        for name, parameter in self.rnn.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
            if options.max_delay is not None and name.startswith("bias_ih"):
                with torch.no_grad():  # gates are in the order reset, update, new
                    parameter[d : 2 * d] = torch.empty(d).uniform_(1, options.max_delay - 1).log()
        self.norm = nn.LayerNorm(d)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        before = self.initial_state(x.shape[0]) if state is None else state
        hidden = before["hidden"].transpose(0, 1).contiguous()  # (layers, B, d)
        # torch's GRU cannot reset its state, so run it from one position with resets to the next.
        inner = [] if resets is None else (resets[:, 1:].any(0).nonzero().squeeze(-1) + 1).tolist()
        outputs = []
        for begin, end in pairwise([0, *inner, x.shape[1]]):
            if resets is not None:
                hidden = hidden.masked_fill(resets[:, begin, None], 0)
            y, hidden = self.rnn(x[:, begin:end], hidden)
            outputs.append(y)
        y = self.norm(torch.cat(outputs, dim=1))  # (B, L, d)
        return y, None if state is None else {"hidden": hidden.transpose(0, 1)}

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.norm.weight.new_zeros(batch_size, self.rnn.num_layers, self.rnn.hidden_size)}
