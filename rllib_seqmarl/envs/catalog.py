"""The environments this package knows by name, and how any environment a user may name is made.

A new suite is one adapter file and its lines in the table below.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.adapters import adapt, is_multi_agent, is_parallel, refuse
from rllib_seqmarl.envs.agent_spaces import AgentAction
from rllib_seqmarl.envs.distinct_choice import DistinctChoice, UnrepeatedChoice
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.mpe import make_mpe
from rllib_seqmarl.suggestions import did_you_mean

EnvConfig = Mapping[str, Any]
EnvSource = str | type | Callable[..., Any]


@dataclass(frozen=True)
class EnvEntry:
    """One line of the table.

    Attributes:
        name: `suite/task`.
        creator: called with the keys of `env_config` as keywords; returns a ParallelEnv or MultiAgentEnv.
        summary: one sentence.
        requires: importable packages it needs beyond the core dependencies.
        extra: the extra of this package that installs them.
    """

    name: str
    creator: Callable[..., Any]
    summary: str
    requires: tuple[str, ...] = ()
    extra: str = ""

    def missing(self) -> str:
        """What to do before this environment can be made; empty if nothing."""
        if all(find_spec(package) for package in self.requires):
            return ""
        return f'pip install "rllib_seqmarl[{self.extra}]"'


@dataclass(frozen=True)
class EnvDescription:
    """What `describe` finds out about an entry by making it.

    Attributes:
        agents: their names.
        obs_sizes: each agent's flattened observation size, without ids.
        actions: each agent's action space, in words: "5 choices", "5 x 10 choices", "2 real".
    """

    agents: tuple[str, ...]
    obs_sizes: tuple[int, ...]
    actions: tuple[str, ...]


def _mpe(task: str, version: int, summary: str) -> EnvEntry:
    return EnvEntry(f"mpe/{task}", partial(make_mpe, f"{task}_v{version}"), summary, ("mpe2",), "mpe")


CATALOG: dict[str, EnvEntry] = {
    entry.name: entry
    for entry in (
        _mpe("simple_spread", 3, "N agents cover N landmarks without colliding."),
        _mpe("simple_reference", 3, "Two agents tell each other which landmark to go to."),
        _mpe("simple_speaker_listener", 4, "One agent sees the goal and speaks; the other one goes there."),
        EnvEntry(
            "coordination/distinct_choice",
            DistinctChoice,
            "All choose differently, around a choice that only the first agent knows.",
        ),
        EnvEntry(
            "coordination/unrepeated_choice",
            UnrepeatedChoice,
            "All choose differently, and never in the same way twice running.",
        ),
    )
}


def make_env(source: EnvSource, env_config: EnvConfig | None = None) -> Any:
    """The environment that `source` names, as its author wrote it.

    Args:
        source: a name of the table above, a name registered with `ray.tune.register_env`, an environment
            class, or a creator. A class of RLlib's is called with `env_config`, a class of PettingZoo's with
            its keys as keywords; a creator with one positional parameter is called with `env_config`, others
            with keywords.
        env_config: options of the environment.

    Returns:
        A ParallelEnv, MultiAgentEnv or JointEnv.

    Raises:
        ValueError: an unknown name (the nearest known ones are named) or option.
        ImportError: the environment's packages are missing; says what to install.
        TypeError: `source` makes no multi-agent environment.
    """
    env = find_creator(source)({} if env_config is None else env_config)
    if not isinstance(env, JointEnv):
        adapt(env)  # raises for what is no team
    return env


def find_creator(source: EnvSource) -> Callable[[EnvConfig], Any]:
    """What makes the environment that `source` names out of its `env_config`; nothing is made yet.

    Raises:
        ValueError, ImportError, TypeError: as :func:`make_env`.
    """
    if isinstance(source, str):
        return _named_creator(source)
    if isinstance(source, type) and not (is_multi_agent(source) or is_parallel(source)):
        raise refuse(source)
    if not callable(source):
        raise TypeError(f"An environment is given by its name, its class or a creator, not by {source!r}.")
    return source if _takes_config(source) else partial(call_with_keywords, source)


def make_joint_env(source: EnvSource, env_config: EnvConfig | None = None, **joint_options: Any) -> JointEnv:
    """As :func:`make_env`, joined: `joint_options` go to JointEnv (agent_ids, team_reward, global_state)."""
    env = make_env(source, env_config)
    if isinstance(env, JointEnv):
        return JointEnv(env.env, **joint_options) if joint_options else env
    joint_options.setdefault("name", source if isinstance(source, str) else None)
    return JointEnv(env, **joint_options)


def describe(name: str, env_config: EnvConfig | None = None) -> EnvDescription:
    """What one sees of an entry of the table by making it; raises as :func:`make_env`."""
    env = make_joint_env(name, env_config)
    layout = env.layout
    env.close()
    return EnvDescription(
        agents=tuple(map(str, layout.agents)),
        obs_sizes=layout.obs_sizes,
        actions=tuple(map(action_in_words, layout.action_spaces)),
    )


def action_in_words(space: Any) -> str:
    action = AgentAction.of("", space)
    if action.is_discrete:
        return f"{' x '.join(map(str, action.nvec))} choices"
    return f"{action.dim} real"


def _named_creator(name: str) -> Callable[[EnvConfig], Any]:
    entry = CATALOG.get(name)
    if entry is not None:
        if entry.missing():
            raise ImportError(f"{name} needs {', '.join(entry.requires)}: {entry.missing()}")
        return partial(call_with_keywords, entry.creator)
    if find_spec("ray"):
        from ray.tune.registry import ENV_CREATOR, _global_registry

        if _global_registry.contains(ENV_CREATOR, name):
            return _global_registry.get(ENV_CREATOR, name)
    if name in gym.registry:
        raise refuse(name)
    raise ValueError(
        f"Unknown environment {name!r}.{did_you_mean(name, CATALOG)} Known: {', '.join(CATALOG)}. "
        "Register your own with ray.tune.register_env(name, creator), or give its class."
    )


def _takes_config(source: Callable[..., Any]) -> bool:
    """Whether RLlib's convention holds: one positional argument, the whole config."""
    if isinstance(source, type):
        return is_multi_agent(source)
    positional = [
        parameter
        for parameter in inspect.signature(source).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) != 1:
        return False
    (only,) = positional
    return only.default is only.empty or only.name in ("config", "env_config", "cfg", "env_context")


def call_with_keywords(source: Callable[..., Any], config: EnvConfig) -> Any:
    known = inspect.signature(source).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        name = getattr(source, "__name__", source)
        for key in config:
            if key not in known:
                raise ValueError(
                    f"{name} has no option {key!r}.{did_you_mean(key, known)} It has: {', '.join(known) or 'none'}."
                )
    return source(**config)
