"""What differs between PettingZoo's ParallelEnv and RLlib's MultiAgentEnv.

Both step with dictionaries. They differ in where the agents' names and spaces are; in which agents act next: those in
PettingZoo's `agents`, but those with an observation in RLlib; and in how the end of an episode is signalled: PettingZoo
empties `agents`, RLlib sets a flag for `__all__`. Environments are recognised by their methods, so that neither library
has to be installed for the other's environments.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.agent_spaces import AgentID, Space
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.errors import JointEnvError

ALL = "__all__"  # RLlib's key for the whole team


def agent_names(env: Any) -> tuple[AgentID, ...]:
    """The names of all agents; empty if the environment lists none.

    A set of strings has another order in every process, so it is sorted: all env runners need the same rows.
    """
    # RLlib's current API lists the agents; its older environments only have dictionaries of spaces.
    older = ("agents", "action_spaces", "observation_spaces") if is_multi_agent(env) else ()
    for attribute in ("possible_agents", *older):
        names = getattr(env, attribute, None)
        if not (names is None or isinstance(names, Iterable)):
            raise JointEnvError(f"its agents are {names!r}. Set `possible_agents` to a list of the agents' names.")
        if isinstance(names, set | frozenset):
            names = sorted(names, key=lambda name: (len(repr(name)), repr(name)))
        found = () if names is None else tuple(names)
        if found:
            return found
    return ()


def spaces_of(env: Any, agent: AgentID) -> tuple[Space, Space]:
    """The agent's observation and action space."""
    if not is_multi_agent(env):
        return env.observation_space(agent), env.action_space(agent)
    observation, action = env.get_observation_space(agent), env.get_action_space(agent)
    if observation is None or action is None:
        raise JointEnvError(
            f"agent {agent!r} has no spaces. Set `observation_spaces` and `action_spaces` "
            "(agent -> space) in the environment's __init__."
        )
    return observation, action


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


def require_multi_agent(env: Any) -> None:
    """Raise TypeError, with a remedy, unless `env` is a multi-agent environment."""
    if not (is_multi_agent(env) or is_parallel(env)):
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
