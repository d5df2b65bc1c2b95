"""The sizes and mixers of an encoder, and of an encoder-decoder network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from rllib_seqmarl.mixers import MIXERS, Mixers, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.networks.action_heads import DEFAULT_HEADS, HEADS, ActionHead
from rllib_seqmarl.networks.memory_config import MemoryConfig
from rllib_seqmarl.networks.policy_config import check_choice, check_counts
from rllib_seqmarl.ops.backends import AUTO, check_backend
from rllib_seqmarl.suggestions import did_you_mean

AGENT_ORDERS = ("fixed", "shuffled", "shuffled_steps")


@dataclass(frozen=True)
class EncoderConfig(MemoryConfig):
    """Sizes and mixers of an encoder, `rllib_seqmarl.networks.encoder.Encoder`.

    Attributes:
        n_block: Number of blocks in the encoder, and in the decoder if there is one.
        n_head: Number of heads, for mixers that have heads.
        embed_dim: The width of an agent's token; a multiple of `n_head`.
        encoder_mixer: The mixer of tokens in the encoder: "attention", "mamba", "retention", "rwkv4", "rwkv5",
            "rwkv6", or the name of a mixer registered with `rllib_seqmarl.register_mixer`.
        mixer_options: Options of the mixers, such as {"d_state": 8}: the fields of
            `rllib_seqmarl.mixers.mamba.MambaOptions`, `rllib_seqmarl.mixers.retention.RetentionOptions` and
            `rllib_seqmarl.mixers.rwkv6.RWKV6Options`.
        encoder_directions: 1, or 2 to run an RWKV encoder over the team in both directions. With 1, as published, an
            agent's value and representation depend only on its own and its predecessors' observations.
        backend: The implementation of scans and recurrences: "auto" selects the fastest one available for the device,
            "reference" is plain torch; docs/mixers.md lists the others.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"backend", "max_seq_len"})

    n_block: int = 1
    n_head: int = 1
    embed_dim: int = 64
    encoder_mixer: str = "attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    encoder_directions: int = 1
    backend: str = AUTO

    mixer_keys: ClassVar[tuple[str, ...]] = ("encoder_mixer",)  # the options that name mixers

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "n_block", "n_head", "embed_dim")
        self._check_heads()
        for key in self.mixer_keys:
            MIXERS.find(key, getattr(self, key))
        if self.encoder_directions not in (1, 2):
            raise ValueError(f"encoder_directions must be 1 or 2, not {self.encoder_directions!r}")
        if self.encoder_directions == 2 and isinstance(MIXERS[self.encoder_mixer], PostNormMixers):
            raise ValueError(
                f"encoder_directions=2 has no effect on encoder_mixer={self.encoder_mixer!r}, which already attends to "
                f"the whole team; remove it, or choose an rwkv encoder"
            )
        # A misspelt backend is rejected even if the network has no operations with backends.
        self._check_joint()
        along_time = [self.memory_mixers] if self.has_memory and not self.is_joint else []
        in_use = [operation for mixers in (*self.mixers, *along_time) for operation in mixers.operations]
        valid = {name for mixers in MIXERS.values() for operation in mixers.operations for name in operation.backends}
        if self.backend not in {AUTO, *valid}:
            raise ValueError(
                f"unknown backend={self.backend!r}.{did_you_mean(str(self.backend), valid)} Choose one of "
                f"{', '.join([AUTO, *sorted(valid)])}."
            )
        check_backend(self.backend, in_use)
        self._check_mixer_options()

    def _check_joint(self) -> None:
        if not self.is_joint:
            return
        for key in self.mixer_keys:
            if isinstance(mixers := MIXERS[getattr(self, key)], PostNormMixers) and mixers.state_grows:
                raise ValueError(
                    f"memory='joint' needs mixers with a state of constant size, but that of {key}="
                    f"{getattr(self, key)!r} grows with every step; choose mamba, retention or rwkv, or a memory of "
                    f"each agent, such as memory='gru'"
                )
        if self.encoder_directions == 2:
            raise ValueError(
                "encoder_directions=2 is not supported with memory='joint', since time has one direction; remove it"
            )

    def _check_heads(self) -> None:
        if self.embed_dim % self.n_head:
            raise ValueError(
                f"embed_dim={self.embed_dim} cannot be split among n_head={self.n_head} heads; "
                f"choose an embed_dim that is a multiple of {self.n_head}"
            )

    def _check_mixer_options(self) -> None:
        if not isinstance(self.mixer_options, Mapping):
            raise ValueError(
                f"mixer_options={self.mixer_options!r} is not a dict of options of the mixers, such as "
                f"{{'d_state': 8}}."
            )
        options = {f.name for mixers in self.mixers for f in fields(mixers.options)}
        listed = f"Their options are {', '.join(sorted(options))}." if options else "They have no options."
        for key in self.mixer_options:
            if key not in options:
                chosen = " or ".join(f"{name}={getattr(self, name)!r}" for name in self.mixer_keys)
                raise ValueError(f"{key!r} is not an option of {chosen}.{did_you_mean(str(key), options)} {listed}")
        for mixers in self.mixers:
            self.shapes(mixers)

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        del settings["mixer_options"]  # names of mixers come first, since options without their mixer mean little
        options = [self.shapes(mixers)[0].options for mixers in self.mixers]
        return settings | {"mixer_options": {key: value for each in options for key, value in asdict(each).items()}}

    @property
    def mixers(self) -> list[Mixers]:
        """The mixers of all blocks."""
        return [MIXERS[getattr(self, key)] for key in self.mixer_keys]

    def memory_shape(self, width: int) -> MixerShape:
        return replace(super().memory_shape(width), n_head=self.n_head, backend=self.backend)

    def shapes(self, mixers: Mixers) -> list[MixerShape]:
        """The shape of each block's ``mixers``, from the first block to the last."""
        names = {f.name for f in fields(mixers.options)}
        options = mixers.options(**{key: value for key, value in self.mixer_options.items() if key in names})
        options.check_sizes(self.embed_dim, self.n_head)
        first = MixerShape(self.embed_dim, self.n_head, 0, self.n_block, options, self.backend)
        return [replace(first, layer=i) for i in range(self.n_block)]


@dataclass(frozen=True)
class NetworkConfig(EncoderConfig):
    """Sizes and mixers of an encoder-decoder policy, `rllib_seqmarl.policies.sequence.SequencePolicy`.

    Attributes:
        decoder_mixer: The mixer in the decoder; independent of the encoder's.
        head: The action head: "auto" for "categorical" or "gaussian" by the kind of actions, or the name of a head
            registered with `rllib_seqmarl.register_head`.
        decoder_cross: "mixer", or "addition" to replace the cross mixer of an attention or mamba decoder by the sum
            with the encoder's output (an ablation).
        agent_order: The order in which agents decide: "fixed" as in the environment, "shuffled" in every episode,
            or "shuffled_steps" in every step.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"agent_order", "backend", "max_seq_len"})

    decoder_mixer: str = "attention"
    head: str = "auto"
    decoder_cross: Literal["mixer", "addition"] = "mixer"
    agent_order: Literal["fixed", "shuffled", "shuffled_steps"] = "fixed"

    mixer_keys: ClassVar[tuple[str, ...]] = ("encoder_mixer", "decoder_mixer")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "agent_order", AGENT_ORDERS)
        if self.head != "auto":
            HEADS.find("head", self.head)
        check_choice(self, "decoder_cross", ("mixer", "addition"))
        if self.decoder_cross == "addition" and isinstance(MIXERS[self.decoder_mixer], PreNormMixers):
            raise ValueError(
                f"decoder_cross='addition' has no effect on decoder_mixer={self.decoder_mixer!r}, which has no cross "
                f"mixer: the encoder's output is already added to its tokens; remove it"
            )

    @property
    def needs_n_agents(self) -> bool:
        # The order of an episode is carried from step to step.
        return self.agent_order == "shuffled" or self.has_memory

    @property
    def head_class(self) -> type[ActionHead]:
        """The class of the action head.

        Raises:
            ValueError: The head is for another kind of actions.
        """
        head = HEADS[DEFAULT_HEADS[self.action.kind] if self.head == "auto" else self.head]
        if head.kind != self.action.kind:
            raise ValueError(f"head={self.head!r} is for {head.kind} actions, not {self.action.kind} ones; remove it")
        return head
