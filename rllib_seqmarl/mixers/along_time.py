"""The mixers that can serve as an agent's memory: any causal mixer, and some for time only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rllib_seqmarl.mixers import MIXERS, CausalMixer, MixerOptions, Mixers, MixerShape
from rllib_seqmarl.mixers.gru import GRU, GRUOptions
from rllib_seqmarl.mixers.windowed_attention import WindowedAttention, WindowOptions
from rllib_seqmarl.ops.backends import Operation
from rllib_seqmarl.suggestions import did_you_mean


@dataclass(frozen=True)
class TimeMixers:
    """A mixer for time only, complete with its residual and norms. Fields are those of ``PostNormMixers``."""

    mixer: Callable[[MixerShape], CausalMixer]
    options: type[MixerOptions] = MixerOptions
    operations: Sequence[Operation] = ()


TIME_MIXERS: dict[str, TimeMixers] = {
    "gru": TimeMixers(GRU, GRUOptions),
    "attention": TimeMixers(WindowedAttention, WindowOptions),  # the one along agents keeps all positions
}


def find_memory(name: str) -> TimeMixers | Mixers:
    """The entry of a memory: of ``TIME_MIXERS``, or else of the registry of mixers.

    Raises:
        ValueError: There is no such mixer.
    """
    names = {**MIXERS, **TIME_MIXERS, **MIXERS.of_users}
    if name not in names:
        raise ValueError(
            f"unknown memory={name!r}.{did_you_mean(str(name), names)} Choose one of {', '.join(sorted(names))}, "
            f"joint, or None for no memory."
        )
    return names[name]
