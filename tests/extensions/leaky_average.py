"""A mixer of one's own: a leaky average of the tokens so far."""

import torch
from torch import Tensor, nn

from rllib_seqmarl import register_mixer
from rllib_seqmarl.mixers import CausalMixer, MixerShape, PreNormMixers
from rllib_seqmarl.mixers.base import reset_state


class LeakyAverage(CausalMixer):
    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(shape.embed_dim))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.rate.new_zeros(batch_size, len(self.rate))

    def forward(self, x, context=None, state=None, resets=None):
        average = self.initial_state(len(x)) if state is None else state  # (B, d)
        outputs = []
        for t, token in enumerate(x.unbind(1)):
            average = average if resets is None else reset_state(average, resets[:, t])
            average = average + self.rate.sigmoid() * (token - average)
            outputs.append(average)
        return torch.stack(outputs, dim=1), None if state is None else average


register_mixer("leaky-average", PreNormMixers(time=LeakyAverage, channel=LeakyAverage))
