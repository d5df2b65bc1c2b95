"""Descriptions of tasks: the number of agents, their observations and actions.

Describing an environment means making it, which takes seconds for some and fails if a package is missing. Descriptions
are therefore stored in `descriptions.json` next to this file. Tests compare them with the environments;
`python -m rllib_seqmarl.envs.descriptions` regenerates it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from rllib_seqmarl.envs.agent_spaces import AgentAction
from rllib_seqmarl.envs.catalog import CATALOG, make_env
from rllib_seqmarl.envs.joint_env import JointEnv

_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class EnvDescription:
    """The description of a task.

    Attributes:
        agents: Number of agents.
        observation: An agent's flattened observation size without IDs, such as "18", or "3-11" if agents differ.
        action: An agent's action, such as "5 choices", "5 x 10 choices" or "2 real"; several kinds are joined by "or".
        action_mask: Whether the environment masks actions.
        state: Size of the global state; 0 if there is none.
    """

    agents: int
    observation: str
    action: str
    action_mask: bool
    state: int

    @classmethod
    def of(cls, env: Any) -> Self:
        """Describe a JointEnv, ParallelEnv or MultiAgentEnv, which may be reset."""
        layout = (env if isinstance(env, JointEnv) else JointEnv(env)).layout
        sizes = sorted(set(layout.obs_sizes))
        return cls(
            agents=layout.n_agents,
            observation="-".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))),
            action=" or ".join(dict.fromkeys(map(action_in_words, layout.action_spaces))),
            action_mask=layout.declares_masks,
            state=_state_size(env),
        )


def action_in_words(space: Any) -> str:
    """Describe an agent's action space as in `EnvDescription.action`."""
    action = AgentAction.of("", space)
    if action.is_discrete:
        return f"{' x '.join(map(str, action.nvec))} choices"
    return f"{action.dim} real"


def _state_size(env: Any) -> int:
    team = env.env if isinstance(env, JointEnv) else env
    try:
        return int(np.size(team.state()))
    except (AttributeError, NotImplementedError):
        return 0


def known_descriptions() -> dict[str, EnvDescription]:
    """The stored descriptions of listed tasks, by name."""
    return {name: EnvDescription(**fields) for name, fields in json.loads(_FILE.read_text()).items()}


def write_descriptions(names: Iterable[str]) -> None:
    """Regenerate and save the descriptions of these tasks; tasks that are no longer listed are dropped."""
    descriptions = known_descriptions() if _FILE.exists() else {}
    for name in names:
        env = make_env(name)
        descriptions[name] = EnvDescription.of(env)
        env.close()
    kept = [(name, asdict(descriptions[name])) for name in CATALOG if name in descriptions]
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in kept]
    _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_descriptions(name for name, entry in CATALOG.items() if not (entry.missing() or entry.suite.external))
