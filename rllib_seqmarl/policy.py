"""A trained team that acts: from a checkpoint or an exported file, without a Ray cluster and without unpickling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.networks import JointPolicyNetwork, ValueNormalizer
from rllib_seqmarl.networks.export import ExportError, load_network, save_network

POLICY_NAME = "policy"  # `policy.safetensors` and `policy.json`
_MODULE_IN_CHECKPOINT = Path("learner_group/learner/rl_module/default_policy")


def find_policy(path: str | os.PathLike[str]) -> Path:
    """Where a policy's two files are, without their endings.

    Args:
        path: A checkpoint's directory, the directory of the RLModule in it, or the files' name with or without ending.

    Raises:
        ExportError: There is no policy.
    """
    path = Path(path).expanduser()
    exported = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    for found in (path / _MODULE_IN_CHECKPOINT / POLICY_NAME, path / POLICY_NAME, exported):
        if Path(f"{found}.json").exists():
            return found
    raise ExportError(
        f"{path} holds no policy of this package. Name the directory of a checkpoint (it has a file "
        f"rllib_checkpoint.json), written by MAT or another joint-policy algorithm of this version."
    )


class JointPolicy:
    """Acts for a team in the agents' own spaces.

    ```python
    from rllib_seqmarl import JointPolicy

    policy = JointPolicy.from_checkpoint("results/.../checkpoint_000009")
    actions = policy.act(observations)  # {agent: observation} -> {agent: action}
    ```

    Attributes:
        network: The joint network.
        layout: How the team's observations and actions lie in the network's arrays.
        deployment: What the policy was trained with: "env", "env_config" and "joint_options" name the environment;
            "normalize_actions" and "clip_actions" say how continuous actions fit into their bounds.
    """

    def __init__(
        self,
        network: JointPolicyNetwork,
        layout: TeamLayout,
        value_normalizer: ValueNormalizer | None,
        deployment: dict[str, Any],
    ) -> None:
        self.network = network.eval()
        self.layout = layout
        self.value_normalizer = value_normalizer
        self.deployment = deployment

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> Self:
        """Loads the policy of an `Algorithm` checkpoint.

        Every checkpoint holds a copy of its policy as safetensors and JSON; only these files are read.

        Args:
            path: As for `find_policy`.

        Raises:
            ExportError: There is no policy at `path`, or its files are damaged or of another version.
            ValueError: The policy was trained with custom connectors, whose work is not part of it.
        """
        return cls.load(find_policy(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Loads what `save` wrote: `path` names the two files without their endings."""
        network, tensors, description = load_network(path)
        if description["deployment"]["has_custom_connectors"]:
            raise ValueError(
                f"{path} was trained with custom connectors between environment and module, which are code and not "
                f"part of the policy's files. Restore it with `Algorithm.from_checkpoint(...)`, which runs them."
            )
        normalizer = None
        if tensors:
            normalizer = ValueNormalizer()
            normalizer.load_state_dict(tensors)
        return cls(network, TeamLayout.from_dict(description["layout"]), normalizer, description["deployment"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `path`.safetensors and `path`.json, from which `load` restores this policy without unpickling."""
        tensors = {} if self.value_normalizer is None else self.value_normalizer.state_dict()
        description = {"layout": self.layout.to_dict(), "deployment": self.deployment}
        save_network(path, self.network, tensors, description)

    def act(
        self,
        observations: Mapping[Any, Any],
        action_masks: Mapping[Any, Any] | None = None,
        *,
        state: Any = None,
        explore: bool = False,
    ) -> dict[Any, Any]:
        """Decides for the team.

        Args:
            observations: What each living agent observes, in its own observation space; absent agents are dead.
            action_masks: The legal actions of each living agent, if the environment gives them beside observations.
            state: The global state, if the policy was trained with it.
            explore: Whether to sample actions, rather than take the most probable ones.

        Returns:
            The action of every agent that has an observation, in its own action space.

        Raises:
            LayoutError: An observation, mask or state does not fit; names the agent.
        """
        joint_action = self.act_jointly(self.layout.observe(observations, action_masks, state), explore=explore)
        return self.layout.split(joint_action, [agent for agent in self.layout.agents if agent in observations])

    def act_jointly(self, observation: Mapping[str, np.ndarray], *, explore: bool = False) -> np.ndarray:
        """A joint action for a joint observation, both as a `JointEnv` gives and takes them; `explore` as for `act`."""
        return self.act_for_many({key: array[None] for key, array in observation.items()}, explore=explore)[0]

    def act_for_many(self, observations: Mapping[str, np.ndarray], *, explore: bool = False) -> np.ndarray:
        """Joint actions (teams, n, ...) of several teams at once, for their joint observations (teams, n, ...)."""
        batch = {key: torch.as_tensor(array) for key, array in observations.items()}
        actions, _, _ = self.network.act(
            network_input(batch), batch.get("action_mask"), batch["alive"], deterministic=not explore
        )
        return self.layout.fit(
            actions.numpy(), normalize=self.deployment["normalize_actions"], clip=self.deployment["clip_actions"]
        )

    def values(self, observations: Mapping[Any, Any], *, state: Any = None) -> dict[Any, float]:
        """Each living agent's expected discounted return from here on, in reward units."""
        arrays = self.layout.observe(observations, state=state, last=True)
        batch = {key: torch.as_tensor(array).unsqueeze(0) for key, array in arrays.items()}
        with torch.no_grad():
            values = self.network.values(network_input(batch))
        if self.value_normalizer is not None:
            values = self.value_normalizer.denormalize(values)
        values_of = dict(zip(self.layout.agents, values[0].tolist(), strict=True))
        return {agent: values_of[agent] for agent in self.layout.agents if agent in observations}


def network_input(observation: Mapping[str, Tensor]) -> Tensor:
    """What the encoder reads of a joint observation: (B, n, obs_dim), each with the global state if there is one."""
    observations = observation["observations"]
    if "state" not in observation:
        return observations
    state = observation["state"].unsqueeze(1).expand(-1, observations.shape[1], -1)  # (B, n, state_dim)
    return torch.cat([observations, state], dim=-1)
