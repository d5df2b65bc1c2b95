"""The table of mixers. A new one is a file in this folder and a line here."""

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention, SelfAttention
from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerOptions, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.mamba import BidirectionalMamba, CrossMamba, Mamba, MambaOptions
from rllib_seqmarl.mixers.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options, RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import NarrowChannelMix
from rllib_seqmarl.ops.causal_conv1d import CAUSAL_CONV1D
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN
from rllib_seqmarl.ops.token_shift import TOKEN_SHIFT
from rllib_seqmarl.ops.wkv import WKV4, WKV6

MIXERS: dict[str, PostNormMixers | PreNormMixers] = {
    "attention": PostNormMixers(encoder=SelfAttention, decoder=CausalSelfAttention, cross=CrossAttention),
    "mamba": PostNormMixers(
        encoder=BidirectionalMamba,
        decoder=Mamba,
        cross=CrossMamba,
        options=MambaOptions,
        operations=(SELECTIVE_SCAN, CAUSAL_CONV1D),
    ),
    "rwkv4": PreNormMixers(time=RWKV4TimeMix, channel=RWKV4ChannelMix, operations=(WKV4, TOKEN_SHIFT)),
    "rwkv5": PreNormMixers(time=RWKV5TimeMix, channel=NarrowChannelMix, operations=(WKV6, TOKEN_SHIFT)),
    "rwkv6": PreNormMixers(
        time=RWKV6TimeMix, channel=NarrowChannelMix, options=RWKV6Options, operations=(WKV6, TOKEN_SHIFT)
    ),
}

__all__ = ["MIXERS", "Added", "CausalMixer", "Crossed", "Mixer", "MixerOptions", "MixerShape"]
