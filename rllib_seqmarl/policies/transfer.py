"""Transfer of a trained policy's weights to a team that differs from the one it was trained with.

Only parameters with an axis of observation entries or actions depend on the team. Their rows or columns are matched by
meaning: the entries of an agent's own observation, the id of each agent, the global state, each choice or dimension of
actions. New entries keep their initial values; entries that no longer exist are dropped.

The first layer normalises over all entries of an observation, so the network's outputs stay exactly the same only if
the number of entries does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rllib_seqmarl.networks.policy_config import PolicyConfig
from rllib_seqmarl.policies.base import Policy

_REMEDIES = {
    "image_shape": "Use an environment with such images.",
    "n_agents": "Use a team of this size, or a policy whose agents share an actor.",
}


@dataclass(frozen=True)
class Trained:
    """A policy and the layout of its team's observations.

    Attributes:
        policy: The policy's class.
        config: Its configuration.
        n_ids: Number of observation entries that encode the agent's id, at the end of its own observation.
    """

    policy: type[Policy]
    config: PolicyConfig
    n_ids: int = 0


def check_alike(old: Trained, new: Trained) -> None:
    """Raise a ValueError unless weights of `old` can be transferred to `new`, regardless of the teams."""
    if old.policy is not new.policy:
        raise ValueError(f"it is a {old.policy.__name__}, but here a {new.policy.__name__} is trained.")
    kinds = old.config.action.kind, new.config.action.kind
    if kinds[0] != kinds[1]:
        raise ValueError(f"its actions are {kinds[0]}, but here they are {kinds[1]}. Use another policy.")
    theirs, ours = old.config.settings(), new.config.settings()
    for key, value in theirs.items():
        if value != ours[key]:
            remedy = _REMEDIES.get(key, f"Set {key}={value!r}.")
            raise ValueError(f"it has {key}={value!r}, but here {key}={ours[key]!r}. {remedy}")


def carried_over(
    old: Trained, weights: Mapping[str, Tensor], new: Trained, fresh: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Transfer parameters to another policy; between equal teams, all parameters are copied.

    Args:
        old: The policy and team that `weights` were trained for.
        weights: The trained parameters.
        new: The policy and team of the result.
        fresh: Newly initialised parameters of the new policy.

    Raises:
        ValueError: The policies differ in more than observations and numbers of agents or actions.
    """
    check_alike(old, new)
    old_axes, axes = old.policy.team_axes(old.config), new.policy.team_axes(new.config)
    result = {}
    for name, value in fresh.items():
        if name not in weights:
            raise ValueError(f"it has no parameter {name}; it was written by another version of this package.")
        source = weights[name].to(value.dtype)
        if name in axes:
            axis, parts = axes[name]
            old_sizes = _sizes(old, old_axes[name][1], source.shape[axis])
            result[name] = _merge(value, _sizes(new, parts, value.shape[axis]), source, old_sizes, axis)
        elif source.shape == value.shape:
            result[name] = source.clone()
        else:
            raise ValueError(
                f"its parameter {name} has shape {tuple(source.shape)}, but here {tuple(value.shape)}. Configure this "
                f"network with the same sizes."
            )
    return result


Part = tuple[str, int]  # what the entries are, and their number


def _sizes(team: Trained, parts: tuple[str, ...], width: int) -> list[Part]:
    """The parts of an axis of this width, see `Policy.team_axes`; each choice or dimension of actions is one."""
    action, sizes = team.config.action, {"own": 0, "ids": team.n_ids, "state": team.config.state_dim}
    if parts == ("action",):
        return [("action", size) for size in action.nvec or (action.dim,)]
    if "own" in parts:  # images become features before the first layer, so the number follows from the width
        sizes["own"] = (width - sum(sizes[part] for part in parts)) // parts.count("own")
    return [(part, sizes[part]) for part in parts]


def _merge(fresh: Tensor, parts: list[Part], source: Tensor, source_parts: list[Part], axis: int) -> Tensor:
    """A copy of `fresh` in which the leading entries along `axis` of each part that both have are those of `source`."""
    result = fresh.clone()
    begin = source_begin = 0
    for (part, size), (source_part, source_size) in zip(parts, source_parts, strict=False):
        if part == source_part:
            count = min(size, source_size)
            result.narrow(axis, begin, count).copy_(source.narrow(axis, source_begin, count))
        begin, source_begin = begin + size, source_begin + source_size
    return result
