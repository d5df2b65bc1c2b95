"""The table of mixers. A new one is a file in this folder and a line here."""

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention, SelfAttention
from rllib_seqmarl.mixers.base import Added, CausalMixer, Crossed, Mixer, MixerOptions, MixerShape

MIXERS: dict[str, Crossed | Added] = {
    "attention": Crossed(encoder=SelfAttention, decoder=CausalSelfAttention, cross=CrossAttention),
}

__all__ = ["MIXERS", "Added", "CausalMixer", "Crossed", "Mixer", "MixerOptions", "MixerShape"]
