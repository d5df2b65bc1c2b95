"""Weights of a trained network for a team that is not quite the one it was trained with.

Of all parameters only those that meet observations or actions depend on the team. Their rows or columns are carried
over by what they mean: an agent's own observation entry by entry, the id of each agent, the global state, each choice
or dimension of actions. What is new keeps its fresh values, what is no longer there is left out.

The first layer normalises over all entries of an observation, so what a network computes stays exactly the same only
where their number does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from rllib_seqmarl.networks.config import NetworkConfig

# What has to be equal, because it decides which parameters there are or what they do.
SAME = (
    "embed_dim",
    "n_block",
    "n_head",
    "encoder_mixer",
    "decoder_mixer",
    "mixer_options",
    "encoder_directions",
    "decoder_cross",
    "image_shape",
    "conv_filters",
)
# Parameters with an axis of observation entries, or of choices or action dimensions.
OBSERVATION_AXES = {"encoder.embedding.0.weight": 0, "encoder.embedding.0.bias": 0, "encoder.embedding.1.weight": 1}
ACTION_AXES = {
    "head.policy.3.weight": 0,
    "head.policy.3.bias": 0,
    "head.choice_rows": 0,
    "head.action_embedding.weight": 1,
    "head.log_std": 0,
}


@dataclass(frozen=True)
class Trained:
    """The team that a network is made for.

    Attributes:
        config: The network.
        n_ids: Entries of an observation that tell which agent it is.
        state_dim: Entries after these that are the global state.
    """

    config: NetworkConfig
    n_ids: int = 0
    state_dim: int = 0


def check_alike(old: NetworkConfig, new: NetworkConfig) -> None:
    """Raises ValueError unless weights of `old` can be carried over to `new`, whatever their teams."""
    if old.action.kind != new.action.kind:
        raise ValueError(f"its actions are {old.action.kind}, but here they are {new.action.kind}. Choose another one.")
    for key in SAME:
        theirs, ours = _chosen(old, key), _chosen(new, key)
        if theirs != ours:
            remedy = "Give it an environment with such images." if key == "image_shape" else f"Write {key}={theirs!r}."
            raise ValueError(f"it has {key}={theirs!r}, but here {key}={ours!r}. {remedy}")


def _chosen(config: NetworkConfig, key: str) -> Any:
    if key != "mixer_options":
        return getattr(config, key)
    options = [config.shapes(mixers)[0].options for mixers in (config.encoder_mixers, config.decoder_mixers)]
    return {name: value for option in options for name, value in asdict(option).items()}


def carried_over(
    old: Trained, weights: Mapping[str, Tensor], new: Trained, fresh: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A network's parameters, from those of another; those of equal teams are all carried over.

    Args:
        old: What `weights` were trained for.
        weights: The other network's.
        new: What the result is for.
        fresh: Parameters of such a network, as it is made.

    Raises:
        ValueError: The networks differ in more than observations and numbers of agents or actions.
    """
    check_alike(old.config, new.config)
    observations = list(_observation_entries(old, weights, new, fresh))
    actions = list(_action_entries(old.config, new.config))
    result = {}
    for name, value in fresh.items():
        if name not in weights:
            raise ValueError(f"it has no parameter {name}. It was written by another version of this package.")
        source = weights[name].to(value.dtype)
        if name in OBSERVATION_AXES:
            result[name] = _merged(value, source, observations, OBSERVATION_AXES[name])
        elif name in ACTION_AXES:
            result[name] = _merged(value, source, actions, ACTION_AXES[name])
        elif source.shape == value.shape:
            result[name] = source.clone()
        else:
            raise ValueError(
                f"its parameter {name} has shape {tuple(source.shape)}, but here {tuple(value.shape)}. Give this "
                f"network the sizes of that one."
            )
    return result


Span = tuple[int, int, int]  # from, in the old network; from, in the new one; how many


def _observation_entries(
    old: Trained, weights: Mapping[str, Tensor], new: Trained, fresh: Mapping[str, Tensor]
) -> Iterator[Span]:
    # Images become features before the first layer, so its own width tells how many entries there are.
    widths = [len(parameters["encoder.embedding.0.weight"]) for parameters in (weights, fresh)]
    sizes = [
        (width - team.n_ids - team.state_dim, team.n_ids, team.state_dim)
        for width, team in zip(widths, (old, new), strict=True)
    ]
    return _spans(*sizes)


def _action_entries(old: NetworkConfig, new: NetworkConfig) -> Iterator[Span]:
    if old.action.kind == "continuous":
        return _spans((old.action.dim,), (new.action.dim,))
    return _spans(old.action.nvec, new.action.nvec)


def _spans(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Span]:
    """The entries that two rows of parts, of sizes `old` and `new`, share: the first ones of each part."""
    begin_old = begin_new = 0
    for size_old, size_new in zip(old, new, strict=False):
        yield begin_old, begin_new, min(size_old, size_new)
        begin_old, begin_new = begin_old + size_old, begin_new + size_new


def _merged(fresh: Tensor, source: Tensor, spans: list[Span], axis: int) -> Tensor:
    """`fresh` with the entries of `source` along `axis` in their places."""
    result = fresh.clone()
    for begin_old, begin_new, count in spans:
        result.narrow(axis, begin_new, count).copy_(source.narrow(axis, begin_old, count))
    return result
