"""The environments this package knows by name, and how any environment a user may name is made.

The suites and their tasks are in `suites/`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.adapters import adapt, is_multi_agent, is_parallel, refuse
from rllib_seqmarl.envs.batch_creators import makes_batches, of_size
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.options import check_names
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites import SUITES
from rllib_seqmarl.suggestions import did_you_mean

EnvConfig = Mapping[str, Any]
EnvSource = str | type | Callable[..., Any]


@dataclass(frozen=True)
class EnvEntry:
    """One task of a suite.

    Attributes:
        suite: What it belongs to.
        task: Its name within the suite.
    """

    suite: Suite
    task: str

    @property
    def name(self) -> str:
        """`suite/task`."""
        return f"{self.suite.name}/{self.task}"

    @property
    def summary(self) -> str:
        """One sentence; empty for tasks that are not listed."""
        return self.suite.tasks.get(self.task, "")

    def make(self, **options: Any) -> Any:
        """One environment: a ParallelEnv or MultiAgentEnv."""
        return call_with_keywords(partial(self.suite.make, self.task), options, self.name)

    def make_batch(self, num_envs: int, **options: Any) -> BatchedSimulator | None:
        """A batch of environments, where the suite steps many at once; otherwise None."""
        if self.suite.make_batch is None:
            return None
        self.require()
        return call_with_keywords(of_size(partial(self.suite.make_batch, self.task), num_envs), options, self.name)

    def require(self) -> None:
        """Raises ImportError, with the remedy, unless all that it needs is installed."""
        if self.missing():
            raise ImportError(f"{self.name} needs {', '.join(self.suite.requires)}: {self.missing()}")

    def missing(self) -> str:
        """How to install what this environment lacks; empty if nothing is missing."""
        if all(map(_is_importable, self.suite.requires)):
            return ""
        by_pip = f'pip install -e ".[{self.suite.extra}]"' if self.suite.extra else ""
        return " ".join(filter(None, (by_pip, self.suite.install)))


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package of a submodule is missing
        return False


CATALOG: dict[str, EnvEntry] = {
    entry.name: entry for suite in SUITES.values() for entry in (EnvEntry(suite, task) for task in suite.tasks)
}
"""All tasks that are listed. Some suites know more: :func:`find_entry` finds those as well."""


def find_entry(name: Any) -> EnvEntry | None:
    """The task that `name` ("suite/task") names, listed or not; None if there is none."""
    if not isinstance(name, str):
        return None
    suite_name, _, task = name.partition("/")
    suite = SUITES.get(suite_name)
    if name in CATALOG or suite is None or not suite.knows(task):
        return CATALOG.get(name)
    return EnvEntry(suite, task)


def unknown_name(name: str, others: Iterable[str] = ()) -> str:
    """The message for an unknown environment name: the nearest ones, also among `others`, and where to look."""
    suite = SUITES.get(name.partition("/")[0])
    words = f"Unknown environment {name!r}.{did_you_mean(name, [*CATALOG, *others])}"
    if suite is None:
        return f"{words} Known suites: {', '.join(SUITES)}; `rllib list` shows their tasks."
    others = f", and {suite.other_tasks}" if suite.other_tasks else ""
    return f"{words} Tasks of {suite.name}: {', '.join(suite.tasks)}{others}."


def make_env(source: EnvSource, env_config: EnvConfig | None = None) -> Any:
    """The environment that `source` names, as its author wrote it.

    Args:
        source: A name of the table above, a name registered with `ray.tune.register_env`, an environment
            class, or a creator. A class of RLlib's is called with `env_config`, a class of PettingZoo's with
            its keys as keywords; a creator with one positional parameter is called with `env_config`, others
            with keywords. A BatchedSimulator class, or a creator with a parameter `num_envs`, makes a batch of one.
        env_config: Options of the environment.

    Returns:
        A ParallelEnv, MultiAgentEnv or JointEnv.

    Raises:
        ValueError: An unknown name (the nearest known ones are named) or option.
        ImportError: The environment's packages are missing; says what to install.
        TypeError: `source` makes no multi-agent environment.
        JointEnvError: A BatchedSimulator's attributes are not in order, or it has not the number of copies asked for.
    """
    env = find_creator(source)({} if env_config is None else env_config)
    if not isinstance(env, JointEnv):
        adapt(env)  # raises for what is no team
    return env


def make_batch(source: EnvSource, num_envs: int, env_config: EnvConfig | None = None) -> BatchedSimulator | None:
    """A batch of environments, where `source` names a simulator that steps many at once; otherwise None.

    Raises:
        ValueError, ImportError, TypeError, JointEnvError: As :func:`make_env`.
    """
    options = {} if env_config is None else env_config
    entry = find_entry(source)
    if entry is not None:
        return entry.make_batch(num_envs, **options)
    maker = _resolve(source)
    return call_with_keywords(of_size(maker, num_envs), options) if makes_batches(maker) else None


def find_creator(source: EnvSource) -> Callable[[EnvConfig], Any]:
    """The function that makes the environment named by `source` from its `env_config`; nothing is made yet.

    Raises:
        ValueError, ImportError, TypeError: As :func:`make_env`.
    """
    entry = find_entry(source)
    if entry is not None:
        entry.require()
        return partial(call_with_keywords, entry.make)
    maker = _resolve(source)
    if makes_batches(maker):
        return partial(call_with_keywords, single(maker))
    if isinstance(source, str):
        return maker  # what is registered with Ray takes the config
    if isinstance(maker, type) and not (is_multi_agent(maker) or is_parallel(maker)):
        raise refuse(maker)
    return maker if _takes_config(maker) else partial(call_with_keywords, maker)


def make_joint_env(source: EnvSource, env_config: EnvConfig | None = None, **joint_options: Any) -> JointEnv:
    """As :func:`make_env`, joined: `joint_options` go to JointEnv (agent_ids, team_reward, global_state)."""
    env = make_env(source, env_config)
    if isinstance(env, JointEnv):
        return JointEnv(env.env, **joint_options) if joint_options else env
    joint_options.setdefault("name", source if isinstance(source, str) else None)
    return JointEnv(env, **joint_options)


def _resolve(source: EnvSource) -> Callable[..., Any]:
    """The class or creator itself, or that which is registered with Ray by this name."""
    if not isinstance(source, str):
        if not callable(source):
            raise TypeError(f"An environment is given by its name, its class or a creator, not by {source!r}.")
        return source
    if find_spec("ray"):
        from ray.tune.registry import ENV_CREATOR, _global_registry

        if _global_registry.contains(ENV_CREATOR, source):
            return _global_registry.get(ENV_CREATOR, source)
    if source in gym.registry:
        raise refuse(source)
    raise ValueError(
        f"{unknown_name(source)} Register your own with ray.tune.register_env(name, creator), or give its class."
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


def call_with_keywords(source: Callable[..., Any], config: EnvConfig, name: str | None = None) -> Any:
    """`source(**config)`, after a look at whether it has all these options."""
    known = inspect.signature(source).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        check_names(name or str(getattr(source, "__name__", source)), config, known)
    return source(**config)
