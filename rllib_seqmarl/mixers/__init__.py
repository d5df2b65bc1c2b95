"""The registry of mixers. To add a built-in mixer, add a file to this folder and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

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

BUILT_IN = frozenset(MIXERS)


def register_mixer(name: str, mixers: PostNormMixers | PreNormMixers) -> None:
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
    if not isinstance(name, str) or not name:
        raise ValueError(f"register_mixer: name={name!r} is not a valid name; pass a string such as 'my-mixer'.")
    if not isinstance(mixers, PostNormMixers | PreNormMixers):
        raise TypeError(
            f"register_mixer({name!r}, ...) takes PostNormMixers(encoder=..., decoder=..., cross=...) or "
            f"PreNormMixers(time=..., channel=...), not {mixers!r}."
        )
    if name in MIXERS and not _is_redefinition(mixers, MIXERS[name], name):
        kind = "a built-in mixer" if name in BUILT_IN else "already registered with other classes"
        raise ValueError(f"register_mixer: the name {name!r} is {kind}; choose another name.")
    MIXERS[name] = mixers


def _is_redefinition(new: Any, old: Any, name: str) -> bool:
    """Whether the same classes were defined again, as when reloading a module or rerunning a notebook cell."""
    return name not in BUILT_IN and _definition(new) == _definition(old)


def _definition(mixers: PostNormMixers | PreNormMixers) -> dict[str, Any]:
    """The mixers' fields, with classes and functions identified by module and name."""
    return {
        key: (value.__module__, value.__qualname__) if isinstance(value, type | FunctionType) else value
        for key, value in vars(mixers).items()
    }


def modules_of(*names: str) -> list[str]:
    """The modules outside this package that define these mixers."""
    parts = [part for name in names if name not in BUILT_IN for part in vars(MIXERS[name]).values()]
    modules = {part.__module__ for part in parts if isinstance(part, type | FunctionType)}
    return sorted(module for module in modules if not module.startswith("rllib_seqmarl."))


class _RegisteredMixers:
    """Registers this process's user-defined mixers wherever it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _know, ({name: mixers for name, mixers in MIXERS.items() if name not in BUILT_IN},)

    def __deepcopy__(self, memo: Any) -> _RegisteredMixers:
        return self


REGISTERED_MIXERS = _RegisteredMixers()


def _know(mixers: Mapping[str, PostNormMixers | PreNormMixers]) -> _RegisteredMixers:
    for name, value in mixers.items():
        MIXERS.setdefault(name, value)
    return REGISTERED_MIXERS


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
