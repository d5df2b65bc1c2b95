"""The decoding loop over agents, on arrays."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rllib_seqmarl.networks.action_heads import ActionHead
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding.heads import TorchHead
from rllib_seqmarl.networks.decoding.step import step_of
from rllib_seqmarl.networks.decoding.table import HEADS
from rllib_seqmarl.networks.decoding.tiles import array


class FastDecoder:
    """A decoder and an action head with packed weights, for any number of decisions, one after another."""

    def __init__(self, decoder: Decoder, head: ActionHead) -> None:
        self.dtype = array(decoder.norm.weight).dtype
        self.decoder, self.head = step_of(decoder), HEADS.get(type(head), TorchHead)(head)

    def __call__(
        self, encoder_output: Tensor, action_mask: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scores and actions, as by :func:`rllib_seqmarl.networks.decisions.decide`, without gradients."""
        contexts = np.ascontiguousarray(encoder_output.detach().transpose(0, 1).numpy(), self.dtype)  # (n, B, d)
        self.decoder.start(encoder_output.shape[0], len(contexts))
        token = self.head.begin(contexts, action_mask, noise)  # (B, d)
        for context in contexts:
            token = self.head(self.decoder(token, context))
        return self.head.scores, self.head.actions
