"""What agents remember of earlier steps, as options of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from rllib_seqmarl.mixers import Mixers, MixerShape
from rllib_seqmarl.mixers.along_time import TimeMixers, find_memory
from rllib_seqmarl.networks.policy_config import PolicyConfig, check_counts
from rllib_seqmarl.suggestions import did_you_mean

DEFAULT_SEQ_LEN = 20  # RLlib's
JOINT = "joint"


@dataclass(frozen=True)
class MemoryConfig(PolicyConfig):
    """The memory of a policy, `rllib_seqmarl.networks.memory.Memory`.

    Attributes:
        memory: What is carried from step to step of an episode: None for nothing; the state of a causal mixer along
            each agent's steps, "gru", "attention" (to the last `window` steps), "mamba", "retention", "rwkv4", "rwkv5",
            "rwkv6", or the name of a mixer registered with `rllib_seqmarl.register_mixer`; or "joint" for the states of
            the encoder's and decoder's own mixers, which then run over the agents of all steps, as Sable's retention
            does.
        memory_options: Options of the memory's mixer, such as {"num_layers": 2}: the fields of
            `rllib_seqmarl.mixers.gru.GRUOptions`, `rllib_seqmarl.mixers.windowed_attention.WindowOptions`, or those in
            `mixer_options`.
        max_seq_len: With memory, the number of steps through which gradients flow back: training uses windows of this
            length, which begin with the state that the policy had when it acted. None for 20, or all steps of a sample
            if these are fewer.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"max_seq_len"})

    memory: str | None = None
    memory_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    max_seq_len: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory is None:
            for key, unset in (("memory_options", {}), ("max_seq_len", None)):
                if getattr(self, key) != unset:
                    raise ValueError(
                        f"{key}={getattr(self, key)!r} has no effect without memory; remove it, or set memory='gru'"
                    )
            return
        if self.max_seq_len is not None:
            check_counts(self, "max_seq_len")
        if self.is_joint:
            if self.memory_options != {}:
                raise ValueError("memory_options have no effect on memory='joint'; use mixer_options")
            return
        options = {f.name for f in fields(self.memory_mixers.options)}
        if not isinstance(self.memory_options, Mapping):
            raise ValueError(
                f"memory_options={self.memory_options!r} is not a dict of options of memory={self.memory!r}"
            )
        for key in self.memory_options:
            if key not in options:
                listed = f"Its options are {', '.join(sorted(options))}." if options else "It has no options."
                raise ValueError(
                    f"memory_options: {key!r} is not an option of memory={self.memory!r}."
                    f"{did_you_mean(str(key), options)} {listed}"
                )
        self.memory_mixers.options(**self.memory_options)

    @property
    def has_memory(self) -> bool:
        return self.memory is not None

    @property
    def seq_len(self) -> int:
        return self.max_seq_len or DEFAULT_SEQ_LEN

    @property
    def is_joint(self) -> bool:
        """Whether the mixers along agents run over time as well."""
        return self.memory == JOINT

    @property
    def needs_n_agents(self) -> bool:
        return self.has_memory  # a state has an axis of agents

    @property
    def memory_mixers(self) -> TimeMixers | Mixers:
        """The registry's entry of the memory."""
        return find_memory(str(self.memory))

    def memory_shape(self, width: int) -> MixerShape:
        """The shape of a memory for features of this width."""
        return MixerShape(width, options=self.memory_mixers.options(**self.memory_options))
