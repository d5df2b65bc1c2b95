"""The complete description of a joint policy network: sizes, actions and mixers. Plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from rllib_seqmarl.mixers import MIXERS, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.networks.image_embedding import ConvFilters, ImageShape, default_filters, feature_shape
from rllib_seqmarl.ops.backends import AUTO, check_backend
from rllib_seqmarl.suggestions import did_you_mean


@dataclass(frozen=True)
class ActionSpec:
    """The action of one agent. All agents of a team share it: smaller action spaces are padded and masked.

    ``kind="discrete"``: ``len(nvec)`` simultaneous choices, the k-th with ``nvec[k]`` options; gymnasium's
    ``Discrete(7)`` is ``nvec=(7,)``. ``kind="continuous"``: ``dim`` real numbers.
    """

    kind: Literal["discrete", "continuous"]
    nvec: tuple[int, ...] = ()
    dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "nvec", tuple(int(size) for size in self.nvec))  # a list if loaded from JSON
        if self.kind == "discrete":
            if not self.nvec or min(self.nvec) < 1 or self.dim:
                raise ValueError(
                    f"a discrete ActionSpec needs nvec with one size >= 1 per component and no dim, "
                    f"not nvec={self.nvec}, dim={self.dim}; for Discrete(7) use nvec=(7,)"
                )
        elif self.kind == "continuous":
            if self.dim < 1 or self.nvec:
                raise ValueError(
                    f"a continuous ActionSpec needs dim >= 1 and no nvec, not dim={self.dim}, nvec={self.nvec}"
                )
        else:
            raise ValueError(f"ActionSpec.kind must be 'discrete' or 'continuous', not {self.kind!r}")

    @property
    def width(self) -> int:
        """Number of outputs of the policy head for an agent, and the width of its action mask."""
        return sum(self.nvec) if self.kind == "discrete" else self.dim

    @property
    def token_dim(self) -> int:
        """Width of an action as a token: start flag and one-hots, or the continuous action itself."""
        return 1 + self.width if self.kind == "discrete" else self.dim

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: () for one choice, (k,) for k choices, (dim,) when continuous."""
        if self.kind == "continuous":
            return (self.dim,)
        return () if len(self.nvec) == 1 else (len(self.nvec),)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and mixers of a :class:`~rllib_seqmarl.networks.joint_policy_network.JointPolicyNetwork`.

    Attributes:
        obs_dim: Numbers in one agent's observation.
        action: The action of one agent.
        n_block: Blocks in the encoder and in the decoder.
        n_head: Heads per mixer, where the mixer has heads.
        embed_dim: Width d of a token inside the network.
        encoder_mixer: Name of the mixer of observations in ``rllib_seqmarl.mixers.MIXERS``.
        decoder_mixer: Name of the mixer of actions; independent of ``encoder_mixer``.
        mixer_options: Options of the two mixers, such as ``{"d_state": 16}`` for mamba.
        encoder_directions: 2 runs a causal encoder mixer (rwkv) in both directions, so that every agent's value and
            representation depend on all agents.
        decoder_cross: "mixer", or "addition" to replace a decoder's cross mixer by adding the encoder's output.
        backend: Implementation of the mixers' operations (see ``rllib_seqmarl.ops``); "auto" selects the fastest for
            the device.
        image_shape: Height, width and channels, if observations begin with the pixels (0 to 255, in this order) of an
            image, which is embedded by a convolutional network; None if observations are vectors.
        conv_filters: Its layers, [output channels, kernel size, stride] each; None to select them by the image's size,
            see :func:`~rllib_seqmarl.networks.image_embedding.default_filters`.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    obs_dim: int
    action: ActionSpec
    n_block: int = 1
    n_head: int = 1
    embed_dim: int = 64
    encoder_mixer: str = "attention"
    decoder_mixer: str = "attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    encoder_directions: int = 1
    decoder_cross: Literal["mixer", "addition"] = "mixer"
    backend: str = AUTO
    image_shape: ImageShape | None = None
    conv_filters: ConvFilters | None = None

    def __post_init__(self) -> None:
        for key in ("obs_dim", "n_block", "n_head", "embed_dim"):
            value = getattr(self, key)
            if not _is_positive(value):
                raise ValueError(f"{key} must be an integer >= 1, not {value!r}")
        if self.embed_dim % self.n_head:
            raise ValueError(
                f"embed_dim={self.embed_dim} cannot be split among n_head={self.n_head} heads; "
                f"choose an embed_dim that is a multiple of {self.n_head}"
            )
        for key in ("encoder_mixer", "decoder_mixer"):
            name = getattr(self, key)
            if name not in MIXERS:
                raise ValueError(
                    f"unknown {key} {name!r}.{did_you_mean(str(name), MIXERS)} Known mixers: "
                    f"{', '.join(sorted(MIXERS))}. If it is your own, import the module that calls "
                    f"rllib_seqmarl.register_mixer({str(name)!r}, ...) first."
                )
        self._check_arrangement()
        # A misspelt backend is rejected even if the network has no operations with backends.
        in_use = [*self.encoder_mixers.operations, *self.decoder_mixers.operations]
        valid = {name for mixers in MIXERS.values() for operation in mixers.operations for name in operation.backends}
        if self.backend not in {AUTO, *valid}:
            raise ValueError(
                f"unknown backend={self.backend!r}.{did_you_mean(str(self.backend), valid)} Choose one of "
                f"{', '.join([AUTO, *sorted(valid)])}."
            )
        check_backend(self.backend, in_use)
        self._check_mixer_options()
        self._check_images()

    def _check_arrangement(self) -> None:
        if self.encoder_directions not in (1, 2):
            raise ValueError(f"encoder_directions must be 1 or 2, not {self.encoder_directions!r}")
        if self.encoder_directions == 2 and isinstance(self.encoder_mixers, PostNormMixers):
            raise ValueError(
                f"encoder_directions=2 has no effect on encoder_mixer={self.encoder_mixer!r}, which already attends to "
                f"the whole team; remove it, or choose an rwkv encoder"
            )
        if self.decoder_cross not in ("mixer", "addition"):
            raise ValueError(f"decoder_cross must be 'mixer' or 'addition', not {self.decoder_cross!r}")
        if self.decoder_cross == "addition" and isinstance(self.decoder_mixers, PreNormMixers):
            raise ValueError(
                f"decoder_cross='addition' has no effect on decoder_mixer={self.decoder_mixer!r}, which has no cross "
                f"mixer: the encoder's output is already added to its tokens; remove it"
            )

    def _check_mixer_options(self) -> None:
        options = {f.name for mixers in (self.encoder_mixers, self.decoder_mixers) for f in fields(mixers.options)}
        for key in self.mixer_options:
            if key not in options:
                raise ValueError(
                    f"{key!r} is not an option of encoder_mixer={self.encoder_mixer!r} or "
                    f"decoder_mixer={self.decoder_mixer!r}.{did_you_mean(str(key), options)} "
                    f"{_list_options(options)}"
                )
        self.shapes(self.encoder_mixers)
        self.shapes(self.decoder_mixers)

    def _check_images(self) -> None:
        if self.conv_filters is not None:
            # Lists loaded from JSON become tuples, which can be hashed and compared.
            object.__setattr__(self, "conv_filters", checked_filters(self.conv_filters))
        if self.image_shape is None:
            if self.conv_filters is not None:
                raise ValueError(
                    "conv_filters has no effect unless all agents observe images of the same size; remove it"
                )
            return
        shape = tuple(self.image_shape)
        object.__setattr__(self, "image_shape", shape)
        if len(shape) != 3 or not all(map(_is_positive, shape)) or math.prod(shape) > self.obs_dim:
            raise ValueError(
                f"image_shape={shape} must be (height, width, channels) with at most obs_dim={self.obs_dim} numbers"
            )
        if min(feature_shape(shape, self.image_filters)) < 1:
            chosen = "" if self.conv_filters else ", the default for small images"
            raise ValueError(
                f"image_shape={shape} is too small for conv_filters={_as_lists(self.image_filters)}{chosen}; use "
                f"conv_filters with smaller kernels or strides, or larger images"
            )

    @property
    def image_filters(self) -> ConvFilters:
        """The layers that embed images: `conv_filters`, or defaults for the image's size."""
        assert self.image_shape is not None
        return self.conv_filters or default_filters(self.image_shape)

    @property
    def encoder_mixers(self) -> PostNormMixers | PreNormMixers:
        """The mixers of the encoder's blocks."""
        return MIXERS[self.encoder_mixer]

    @property
    def decoder_mixers(self) -> PostNormMixers | PreNormMixers:
        """The mixers of the decoder's blocks."""
        return MIXERS[self.decoder_mixer]

    def shapes(self, mixers: PostNormMixers | PreNormMixers) -> list[MixerShape]:
        """The shape of each block's ``mixers``, from the first block to the last."""
        names = {f.name for f in fields(mixers.options)}
        options = mixers.options(**{key: value for key, value in self.mixer_options.items() if key in names})
        first = MixerShape(self.embed_dim, self.n_head, 0, self.n_block, options, self.backend)
        return [replace(first, layer=i) for i in range(self.n_block)]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data that JSON can hold; the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkConfig:
        """Create a configuration from the output of :meth:`to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is invalid.
        """
        try:
            return cls(**{**data, "action": ActionSpec(**data["action"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a description of a network: {error}") from error


def _list_options(options: set[str]) -> str:
    return f"Their options are {', '.join(sorted(options))}." if options else "They have no options."


def checked_filters(filters: Any) -> ConvFilters:
    """Convert `filters` to tuples.

    Raises:
        ValueError: They are not [[output channels, kernel size, stride], ...] with integers >= 1.
    """
    try:
        layers = tuple(tuple(layer) for layer in filters)
    except TypeError:
        layers = ()
    if not layers or not all(len(layer) == 3 and all(map(_is_positive, layer)) for layer in layers):
        raise ValueError(
            f"conv_filters={filters!r} is not [[output channels, kernel size, stride], ...] with integers >= 1, "
            f"such as [[32, 8, 4], [64, 4, 2], [64, 3, 1]]"
        )
    return layers


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _as_lists(filters: ConvFilters) -> list[list[int]]:
    return [list(layer) for layer in filters]
