"""Which compiled step runs which module. Exact types only: a subclass may compute something else."""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention
from rllib_seqmarl.mixers.mamba import CrossMamba, Mamba
from rllib_seqmarl.mixers.retention import CausalRetention, CrossRetention
from rllib_seqmarl.mixers.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import NarrowChannelMix
from rllib_seqmarl.networks.action_heads import CategoricalHead, GaussianHead
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PreNormBlock
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding.attention import AttentionStep
from rllib_seqmarl.networks.decoding.blocks import DecoderStep, PostNormStep, PreNormStep
from rllib_seqmarl.networks.decoding.heads import CategoricalStep, GaussianStep
from rllib_seqmarl.networks.decoding.mamba import MambaStep
from rllib_seqmarl.networks.decoding.retention import RetentionStep
from rllib_seqmarl.networks.decoding.rwkv import ChannelMixStep
from rllib_seqmarl.networks.decoding.rwkv4 import WKV4Step
from rllib_seqmarl.networks.decoding.rwkv_matrix import WKV5Step, WKV6Step

STEPS: dict[type, Any] = {
    CausalSelfAttention: AttentionStep,
    CrossAttention: AttentionStep,
    Mamba: MambaStep,
    CrossMamba: MambaStep,
    CausalRetention: RetentionStep,
    CrossRetention: RetentionStep,
    RWKV4TimeMix: WKV4Step,
    RWKV5TimeMix: WKV5Step,
    RWKV6TimeMix: WKV6Step,
    RWKV4ChannelMix: ChannelMixStep,
    NarrowChannelMix: ChannelMixStep,
    PostNormDecoderBlock: PostNormStep,
    PreNormBlock: PreNormStep,
    Decoder: DecoderStep,
}

HEADS: dict[type, Any] = {CategoricalHead: CategoricalStep, GaussianHead: GaussianStep}
