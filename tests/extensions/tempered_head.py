"""An action head of one's own: choices with a learnt temperature."""

import torch
from torch import nn

from rllib_seqmarl import register_head
from rllib_seqmarl.networks.action_heads import CategoricalHead


class TemperedHead(CategoricalHead):
    def __init__(self, spec, embed_dim) -> None:
        super().__init__(spec, embed_dim)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def scores(self, outputs, action_mask):
        return super().scores(outputs / self.log_temperature.exp(), action_mask)


register_head("tempered", TemperedHead)
