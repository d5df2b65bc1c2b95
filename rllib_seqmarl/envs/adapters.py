"""A common interface for PettingZoo's ParallelEnv and RLlib's MultiAgentEnv.

Both step with dictionaries. They differ in where the agents' names and spaces are, which agents act next, and how the
end of an episode is signalled. Environments are recognised by their methods, so that neither library has to be
installed for the other's environments.
"""

import inspect
from collections.abc import Iterable
from typing import Any, Protocol

import gymnasium as gym

from rllib_seqmarl.envs.agent_spaces import AgentID, Space
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.errors import JointEnvError

ALL = "__all__"  # RLlib's key for the whole team


class TeamAdapter(Protocol):
    """The interface that JointEnv needs from an environment."""

    agents: tuple[AgentID, ...]
    is_parallel: bool
    """Whether `env.agents` lists the agents that act next; otherwise those with an observation act."""

    def spaces_of(self, agent: AgentID) -> tuple[Space, Space]:
        """The agent's observation and action space."""


class ParallelAdapter:
    """PettingZoo: `agents` lists the agents that act next and is empty when the episode is over."""

    is_parallel = True

    def __init__(self, env: Any):
        self.env = env
        self.agents: tuple[AgentID, ...] = _names(getattr(env, "possible_agents", ()))

    def spaces_of(self, agent: AgentID) -> tuple[Space, Space]:
        return self.env.observation_space(agent), self.env.action_space(agent)


class MultiAgentAdapter:
    """RLlib: agents with an observation act next (others pause); `__all__` ends the episode."""

    is_parallel = False

    def __init__(self, env: Any):
        self.env = env
        # The current API lists the agents; older environments only have dictionaries of spaces.
        attributes = ("possible_agents", "agents", "action_spaces", "observation_spaces")
        candidates = (_names(getattr(env, attribute, None)) for attribute in attributes)
        self.agents: tuple[AgentID, ...] = next(filter(None, candidates), ())

    def spaces_of(self, agent: AgentID) -> tuple[Space, Space]:
        observation, action = self.env.get_observation_space(agent), self.env.get_action_space(agent)
        if observation is None or action is None:
            raise JointEnvError(
                f"agent {agent!r} has no spaces. Set `observation_spaces` and `action_spaces` "
                "(agent -> space) in the environment's __init__."
            )
        return observation, action


def _names(names: Any) -> tuple[AgentID, ...]:
    """The agents' names in an attribute of an environment; empty if it is None.

    A set of strings has another order in every process, so it is sorted: all env runners need the same rows.
    """
    if names is None:
        return ()
    if not isinstance(names, Iterable):
        raise JointEnvError(f"its agents are {names!r}. Set `possible_agents` to a list of the agents' names.")
    is_set = isinstance(names, set | frozenset)
    return tuple(sorted(names, key=lambda name: (len(repr(name)), repr(name))) if is_set else names)


def reset_options(env: Any) -> set[str]:
    """The subset of `seed` and `options` that the environment's reset accepts."""
    names = {"seed", "options"}
    try:
        parameters = inspect.signature(env.reset).parameters
    except (TypeError, ValueError):  # implemented in C
        return names
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    return names & parameters.keys()


def is_multi_agent(env: Any) -> bool:
    """Return whether `env` (an environment or a class) has RLlib's MultiAgentEnv interface."""
    return all(callable(getattr(env, name, None)) for name in ("get_observation_space", "get_action_space", "step"))


def is_parallel(env: Any) -> bool:
    """Return whether `env` (an environment or a class) has PettingZoo's ParallelEnv interface."""
    methods = ("observation_space", "action_space", "reset", "step")
    return not is_turn_based(env) and all(callable(getattr(env, name, None)) for name in methods)


def is_turn_based(env: Any) -> bool:
    """Return whether `env` (an environment or a class) is a PettingZoo AECEnv."""
    return callable(getattr(env, "agent_iter", None))


def adapt(env: Any) -> TeamAdapter:
    """Return the adapter for a multi-agent environment.

    Raises:
        TypeError: `env` is anything else; the message suggests a remedy.
    """
    if is_multi_agent(env):
        return MultiAgentAdapter(env)
    if is_parallel(env):
        return ParallelAdapter(env)
    raise unsupported_env(env)


def unsupported_env(env: Any) -> TypeError:
    """The error for an `env` (an environment, a class or a gymnasium ID) that is not supported, with a remedy."""
    cls = env if isinstance(env, type) else type(env)
    kind = repr(env) if isinstance(env, str) else cls.__name__
    if is_turn_based(env):
        return TypeError(
            f"{kind} is a turn-based PettingZoo AECEnv. If its agents can act simultaneously, convert it with "
            "pettingzoo.utils.aec_to_parallel(env)."
        )
    if issubclass(cls, BatchedSimulator):
        return TypeError(
            f"{kind} is an instance of BatchedSimulator, whose number of copies is fixed. Pass its class or a creator "
            "with a parameter `num_envs` instead."
        )
    if issubclass(cls, gym.Env) or isinstance(env, str):
        wrap = "Wrap it in a PettingZoo ParallelEnv that names the entries (agent_0, agent_1, ...)"
        match getattr(env, "action_space", None):  # an attribute of instances and some classes
            case gym.spaces.Tuple():
                return TypeError(f"{kind} is a gymnasium.Env with one entry of its Tuple spaces per agent. {wrap}.")
            case gym.Space():
                return TypeError(
                    f"{kind} is a single-agent environment. Train it with RLlib's PPO, or wrap it in a PettingZoo "
                    "ParallelEnv with one agent."
                )
        return TypeError(
            f"{kind} is a gymnasium.Env. If it is a team with one entry of its Tuple spaces per agent, "
            f"{wrap[0].lower()}{wrap[1:]}. If it is a single agent, train it with RLlib's PPO, or wrap it in a "
            f"ParallelEnv with one agent."
        )
    return TypeError(f"{kind} is neither an RLlib MultiAgentEnv nor a PettingZoo ParallelEnv.")
