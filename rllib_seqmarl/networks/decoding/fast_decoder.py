"""The decoding loop over agents, on arrays, and which compiled step runs which module."""

from typing import Any

import numpy as np
from torch import Tensor

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention
from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.mixers.mamba import CrossMamba, Mamba
from rllib_seqmarl.mixers.retention import CausalRetention, CrossRetention
from rllib_seqmarl.mixers.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import NarrowChannelMix
from rllib_seqmarl.networks.action_heads import ActionHead, CategoricalHead, GaussianHead
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PreNormBlock
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding.attention import AttentionStep
from rllib_seqmarl.networks.decoding.blocks import DecoderStep, PostNormStep, PreNormStep
from rllib_seqmarl.networks.decoding.heads import CategoricalStep, GaussianStep, TorchHead
from rllib_seqmarl.networks.decoding.mamba import MambaStep
from rllib_seqmarl.networks.decoding.retention import RetentionStep
from rllib_seqmarl.networks.decoding.rwkv import ChannelMixStep, WKV4Step
from rllib_seqmarl.networks.decoding.rwkv_matrix import WKV5Step, WKV6Step
from rllib_seqmarl.networks.decoding.sable import SableDecoderStep
from rllib_seqmarl.networks.decoding.step import step_of
from rllib_seqmarl.networks.decoding.tiles import array
from rllib_seqmarl.networks.sable import SableCategoricalHead, SableDecoder

# Exact types only: a subclass may compute something else.
STEPS: dict[type, Any] = {
    CausalSelfAttention: AttentionStep,
    CrossAttention: AttentionStep,
    Mamba: MambaStep,
    CrossMamba: MambaStep,
    CausalRetention: RetentionStep.of,
    CrossRetention: RetentionStep.of,
    RWKV4TimeMix: WKV4Step,
    RWKV5TimeMix: WKV5Step,
    RWKV6TimeMix: WKV6Step,
    RWKV4ChannelMix: ChannelMixStep,
    NarrowChannelMix: ChannelMixStep,
    PostNormDecoderBlock: PostNormStep,
    PreNormBlock: PreNormStep,
    Decoder: DecoderStep,
    SableDecoder: SableDecoderStep,
}
HEADS: dict[type, Any] = {
    CategoricalHead: CategoricalStep,
    GaussianHead: GaussianStep,
    SableCategoricalHead: CategoricalStep,
}


class FastDecoder:
    """A decoder and an action head with packed weights, for any number of decisions, one after another."""

    def __init__(self, decoder: Decoder | SableDecoder, head: ActionHead) -> None:
        self.dtype = array(decoder.norm.weight).dtype
        self.decoder, self.head = step_of(decoder), HEADS.get(type(head), TorchHead)(head)

    def __call__(
        self, encoder_output: Tensor, action_mask: Tensor | None, noise: Tensor | None, state: State = None
    ) -> tuple[Tensor, Tensor, State]:
        """As :func:`rllib_seqmarl.networks.decisions.decide`, without gradients; without a state, returns none."""
        contexts = np.ascontiguousarray(encoder_output.detach().transpose(0, 1).numpy(), self.dtype)  # (n, B, d)
        if state is None:
            self.decoder.start(encoder_output.shape[0], len(contexts))
        else:
            self.decoder.load(state)
        token = self.head.begin(contexts, action_mask, noise)  # (B, d)
        for context in contexts:
            token = self.head(self.decoder(token, context))
        return self.head.scores, self.head.actions, None if state is None else self.decoder.state
