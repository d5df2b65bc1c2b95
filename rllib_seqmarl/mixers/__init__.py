"""The table of mixers. A new one is a file in this folder and a line here."""

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention, SelfAttention
from rllib_seqmarl.mixers.base import Added, CausalMixer, Crossed, Mixer, MixerOptions, MixerShape
from rllib_seqmarl.mixers.mamba import BidirectionalMamba, CrossMamba, Mamba, MambaOptions
from rllib_seqmarl.ops.causal_conv1d import CAUSAL_CONV1D
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN

MIXERS: dict[str, Crossed | Added] = {
    "attention": Crossed(encoder=SelfAttention, decoder=CausalSelfAttention, cross=CrossAttention),
    "mamba": Crossed(
        encoder=BidirectionalMamba,
        decoder=Mamba,
        cross=CrossMamba,
        options=MambaOptions,
        operations=(SELECTIVE_SCAN, CAUSAL_CONV1D),
    ),
}

__all__ = ["MIXERS", "Added", "CausalMixer", "Crossed", "Mixer", "MixerOptions", "MixerShape"]
