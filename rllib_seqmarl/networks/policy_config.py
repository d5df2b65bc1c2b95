"""What a policy knows about its team, and how it declares its options. Plain data that JSON can hold."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_origin, get_type_hints

from rllib_seqmarl.networks.image_embedding import ConvFilters, ImageShape, default_filters, feature_shape


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
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: () for one choice, (k,) for k choices, (dim,) when continuous."""
        if self.kind == "continuous":
            return (self.dim,)
        return () if len(self.nvec) == 1 else (len(self.nvec),)


RESERVED: set[str] = set()  # names that options cannot have, since the configs of algorithms use them


class Option(NamedTuple):
    """An option as declared: its type, its default and its description."""

    kind: Any
    default: Any
    text: str


@cache
def declared_options(cls: type) -> dict[str, Option]:
    """The fields of a dataclass, described by the "Attributes" in the docstrings of the class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    try:
        kinds = get_type_hints(cls)
    except NameError:  # a class sent to another process by value leaves its module's names behind
        kinds = {}
    for name in kinds.keys() - {f.name for f in fields(cls)}:
        if get_origin(kinds[name]) is not ClassVar:
            raise TypeError(f"{cls.__name__}.{name} is no field: put @dataclass(frozen=True) above its class")
    return {f.name: Option(kinds.get(f.name, Any), _default(f), texts.get(f.name, "")) for f in fields(cls)}


def _default(option: Any) -> Any:
    # Compared by `callable`, since a class sent to another process by value has a MISSING of its own.
    return option.default_factory() if callable(option.default_factory) else option.default


@dataclass(frozen=True)
class PolicyConfig:
    """What every policy knows about its team. Policies add their options as fields with defaults.

    The options' names, types, defaults and descriptions (in the class's "Attributes") are also those of the keywords of
    an algorithm config's `network` method.

    Attributes:
        free_options: Options that change neither the parameters nor their function, so trained weights fit any value.
        obs_dim: Numbers in one agent's observation.
        action: The action of one agent.
        n_agents: Number of agents; None if any number can act.
        state_dim: Numbers in the global state; 0 if there is none.
        has_agent_states: Whether every agent has its own global state, (B, n, state_dim).
        conv_filters: The convolutional layers that embed image observations: [output channels, kernel size, stride] of
            each layer, such as [[32, 8, 4], [64, 4, 2], [64, 3, 1]], without padding; None to choose by image size.
        image_shape: Height, width and channels, if observations begin with the pixels (0 to 255, in this order) of an
            image; None if observations are vectors.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    free_options: ClassVar[frozenset[str]] = frozenset()

    obs_dim: int
    action: ActionSpec
    n_agents: int | None = field(default=None, kw_only=True)
    state_dim: int = field(default=0, kw_only=True)
    has_agent_states: bool = field(default=False, kw_only=True)
    image_shape: ImageShape | None = field(default=None, kw_only=True)
    conv_filters: ConvFilters | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_counts(self, "obs_dim", *(["n_agents"] if self.n_agents is not None else []))
        if not (self.state_dim == 0 or is_count(self.state_dim)):
            raise ValueError(f"state_dim must be an integer >= 0, not {self.state_dim!r}")
        self._check_images()

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
        if len(shape) != 3 or not all(map(is_count, shape)) or math.prod(shape) > self.obs_dim:
            raise ValueError(
                f"image_shape={shape} must be (height, width, channels) with at most obs_dim={self.obs_dim} numbers"
            )
        if min(feature_shape(shape, self.image_filters)) < 1:
            filters = [list(layer) for layer in self.image_filters]
            chosen = "" if self.conv_filters else ", the default for small images"
            raise ValueError(
                f"image_shape={shape} is too small for conv_filters={filters}{chosen}; use "
                f"conv_filters with smaller kernels or strides, or larger images"
            )

    @property
    def has_memory(self) -> bool:
        """Whether evaluation depends on earlier steps, so that it takes windows of `max_seq_len` steps, an option."""
        return False

    @property
    def seq_len(self) -> int:
        """With memory, the number of steps in a window of training."""
        return self.to_dict().get("max_seq_len") or 0

    @property
    def needs_n_agents(self) -> bool:
        """Whether the policy works with `n_agents` agents only."""
        return False

    @property
    def image_filters(self) -> ConvFilters:
        """The layers that embed images: `conv_filters`, or defaults for the image's size."""
        assert self.image_shape is not None
        return self.conv_filters or default_filters(self.image_shape)

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The policy's own options, by name; raises a ValueError if one has a reserved name."""
        own = {name: option for name, option in declared_options(cls).items() if name not in _TEAM}  # type: ignore[arg-type]
        if taken := sorted(RESERVED & own.keys()):
            raise ValueError(f"{cls.__name__}.{taken[0]} is also an attribute of algorithms' configs; rename it")
        return own

    def settings(self) -> dict[str, Any]:
        """The settings that must be equal for weights to be transferred."""
        return {key: getattr(self, key) for key in (*self.options(), "image_shape") if key not in self.free_options}

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data that JSON can hold; the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Create a configuration from the output of :meth:`to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is invalid.
        """
        try:
            return cls(**{**data, "action": ActionSpec(**data["action"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a description of a network: {error}") from error


_TEAM = {f.name for f in fields(PolicyConfig)} - {"conv_filters"}


def is_count(value: Any) -> bool:
    """Whether `value` is an integer >= 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_counts(config: PolicyConfig, *keys: str) -> None:
    """Raise a ValueError unless these options are integers >= 1."""
    for key in keys:
        value = getattr(config, key)
        if not is_count(value):
            raise ValueError(f"{key} must be an integer >= 1, not {value!r}")


def check_choice(config: PolicyConfig, key: str, choices: Sequence[Any]) -> None:
    """Raise a ValueError unless the option is one of `choices`."""
    value = getattr(config, key)
    if value not in choices:
        listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{key} must be {listed}, not {value!r}")


def checked_filters(filters: Any) -> ConvFilters:
    """Convert `filters` to tuples.

    Raises:
        ValueError: They are not [[output channels, kernel size, stride], ...] with integers >= 1.
    """
    try:
        layers = tuple(tuple(layer) for layer in filters)
    except TypeError:
        layers = ()
    if not layers or not all(len(layer) == 3 and all(map(is_count, layer)) for layer in layers):
        raise ValueError(
            f"conv_filters={filters!r} is not [[output channels, kernel size, stride], ...] with integers >= 1, "
            f"such as [[32, 8, 4], [64, 4, 2], [64, 3, 1]]"
        )
    return layers
