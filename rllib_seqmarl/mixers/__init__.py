"""The registry of mixers. To add a built-in mixer, add a file to this folder and an entry here."""

from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention, SelfAttention
from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerOptions, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.mamba import BidirectionalMamba, CrossMamba, Mamba, MambaOptions
from rllib_seqmarl.mixers.retention import CausalRetention, CrossRetention, RetentionOptions, TeamRetention
from rllib_seqmarl.mixers.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options, RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import NarrowChannelMix
from rllib_seqmarl.ops.causal_conv1d import CAUSAL_CONV1D
from rllib_seqmarl.ops.retention import RETENTION
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN
from rllib_seqmarl.ops.token_shift import TOKEN_SHIFT
from rllib_seqmarl.ops.wkv import WKV4, WKV6
from rllib_seqmarl.registration import Registry

Mixers = PostNormMixers | PreNormMixers

_BUILT_IN: dict[str, Mixers] = {
    "attention": PostNormMixers(
        encoder=SelfAttention, decoder=CausalSelfAttention, cross=CrossAttention, state_grows=True
    ),
    "mamba": PostNormMixers(
        encoder=BidirectionalMamba,
        decoder=Mamba,
        cross=CrossMamba,
        options=MambaOptions,
        operations=(SELECTIVE_SCAN, CAUSAL_CONV1D),
    ),
    "retention": PostNormMixers(
        encoder=TeamRetention,
        decoder=CausalRetention,
        cross=CrossRetention,
        options=RetentionOptions,
        operations=(RETENTION,),
    ),
    "rwkv4": PreNormMixers(time=RWKV4TimeMix, channel=RWKV4ChannelMix, operations=(WKV4, TOKEN_SHIFT)),
    "rwkv5": PreNormMixers(time=RWKV5TimeMix, channel=NarrowChannelMix, operations=(WKV6, TOKEN_SHIFT)),
    "rwkv6": PreNormMixers(
        time=RWKV6TimeMix, channel=NarrowChannelMix, options=RWKV6Options, operations=(WKV6, TOKEN_SHIFT)
    ),
}

MIXERS = Registry("mixer", _BUILT_IN)


def register_mixer(name: str, mixers: Mixers) -> None:
    """Register mixers under a name, for `network(encoder_mixer=name, decoder_mixer=name)`.

    The registration also applies to env runners and learners in other processes. Experiment files list the module that
    calls this function in `mixer_modules`; import that module before loading a saved policy.

    Args:
        name: The name.
        mixers: The mixers of a block: classes that take a `MixerShape`, with their options and operations.

    The first network with them checks them, see :func:`rllib_seqmarl.check_mixer`.

    Raises:
        ValueError: The name is taken by other mixers, or is not a non-empty string.
        TypeError: `mixers` has the wrong type.
    """
    if not isinstance(mixers, PostNormMixers | PreNormMixers):
        raise TypeError(
            f"register_mixer({name!r}, ...) takes PostNormMixers(encoder=..., decoder=..., cross=...) or "
            f"PreNormMixers(time=..., channel=...), not {mixers!r}."
        )
    MIXERS.add(name, mixers)


def _know(mixers: dict[str, Mixers]) -> None:
    """Unpickle the mixers of a checkpoint of version 0.1, which refers to this function."""
    for name, entry in mixers.items():
        MIXERS.setdefault(name, entry)


__all__ = [
    "MIXERS",
    "CausalMixer",
    "Mixer",
    "MixerOptions",
    "MixerShape",
    "PostNormMixers",
    "PreNormMixers",
    "register_mixer",
]
