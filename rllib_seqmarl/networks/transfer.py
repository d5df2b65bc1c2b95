"""Transfer of a trained network's weights to a team that differs from the one it was trained with.

Only parameters with an axis of observation entries or actions depend on the team. Their rows or columns are matched by
meaning: the entries of an agent's own observation, the id of each agent, the global state, each choice or dimension of
actions. New entries keep their initial values; entries that no longer exist are dropped.

The first layer normalises over all entries of an observation, so the network's outputs stay exactly the same only if
the number of entries does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from rllib_seqmarl.networks.config import NetworkConfig

# Settings that must be equal, since they determine the parameters or their function.
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
    """A network and the layout of its team's observations.

    Attributes:
        config: The network's configuration.
        n_ids: Number of observation entries that encode the agent's id.
        state_dim: Number of entries of the global state, which follow the id.
    """

    config: NetworkConfig
    n_ids: int = 0
    state_dim: int = 0


def check_alike(old: NetworkConfig, new: NetworkConfig) -> None:
    """Raise a ValueError unless weights of `old` can be transferred to `new`, regardless of the teams."""
    if old.action.kind != new.action.kind:
        raise ValueError(f"its actions are {old.action.kind}, but here they are {new.action.kind}. Use another policy.")
    for key in SAME:
        theirs, ours = _setting(old, key), _setting(new, key)
        if theirs != ours:
            remedy = "Use an environment with such images." if key == "image_shape" else f"Set {key}={theirs!r}."
            raise ValueError(f"it has {key}={theirs!r}, but here {key}={ours!r}. {remedy}")


def _setting(config: NetworkConfig, key: str) -> Any:
    if key != "mixer_options":
        return getattr(config, key)
    options = [config.shapes(mixers)[0].options for mixers in (config.encoder_mixers, config.decoder_mixers)]
    return {name: value for option in options for name, value in asdict(option).items()}


def carried_over(
    old: Trained, weights: Mapping[str, Tensor], new: Trained, fresh: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Transfer parameters to another network; between equal teams, all parameters are copied.

    Args:
        old: The network and team that `weights` were trained for.
        weights: The trained parameters.
        new: The network and team of the result.
        fresh: Newly initialised parameters of the new network.

    Raises:
        ValueError: The networks differ in more than observations and numbers of agents or actions.
    """
    check_alike(old.config, new.config)
    observations = list(_observation_entries(old, weights, new, fresh))
    actions = list(_action_entries(old.config, new.config))
    result = {}
    for name, value in fresh.items():
        if name not in weights:
            raise ValueError(f"it has no parameter {name}; it was written by another version of this package.")
        source = weights[name].to(value.dtype)
        if name in OBSERVATION_AXES:
            result[name] = _merge(value, source, observations, OBSERVATION_AXES[name])
        elif name in ACTION_AXES:
            result[name] = _merge(value, source, actions, ACTION_AXES[name])
        elif source.shape == value.shape:
            result[name] = source.clone()
        else:
            raise ValueError(
                f"its parameter {name} has shape {tuple(source.shape)}, but here {tuple(value.shape)}. Configure this "
                f"network with the same sizes."
            )
    return result


Span = tuple[int, int, int]  # start in the old network, start in the new network, length


def _observation_entries(
    old: Trained, weights: Mapping[str, Tensor], new: Trained, fresh: Mapping[str, Tensor]
) -> Iterator[Span]:
    # Images become features before the first layer, so the layer's width gives the number of entries.
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
    """The spans shared by two sequences of parts with sizes `old` and `new`: the leading entries of each part."""
    begin_old = begin_new = 0
    for size_old, size_new in zip(old, new, strict=False):
        yield begin_old, begin_new, min(size_old, size_new)
        begin_old, begin_new = begin_old + size_old, begin_new + size_new


def _merge(fresh: Tensor, source: Tensor, spans: list[Span], axis: int) -> Tensor:
    """A copy of `fresh` with the spans along `axis` replaced by those of `source`."""
    result = fresh.clone()
    for begin_old, begin_new, count in spans:
        result.narrow(axis, begin_new, count).copy_(source.narrow(axis, begin_old, count))
    return result
