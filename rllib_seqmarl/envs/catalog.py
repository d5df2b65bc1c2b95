"""The catalog of named environments, and the creation of environments from names, classes and creators.

The suites and their tasks are in `suites/`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.adapters import is_multi_agent, is_parallel, require_multi_agent, unsupported_env
from rllib_seqmarl.envs.batch_creators import makes_batches, with_num_envs
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
        suite: The suite.
        task: The task's name within the suite.
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
        """Make one environment: a ParallelEnv or MultiAgentEnv."""
        return call_with_keywords(partial(self.suite.make, self.task), options, self.name)

    def make_batch(self, num_envs: int, **options: Any) -> BatchedSimulator | None:
        """Make a batch of environments if the suite is a batched simulator; otherwise return None."""
        if self.suite.make_batch is None:
            return None
        self.require()
        return call_with_keywords(
            with_num_envs(partial(self.suite.make_batch, self.task), num_envs), options, self.name
        )

    def require(self) -> None:
        """Raise ImportError, with instructions, unless all required packages are installed."""
        if self.missing():
            raise ImportError(f"{self.name} needs {', '.join(self.suite.requires)}: {self.missing()}")

    def missing(self) -> str:
        """How to install the missing packages; empty if none are missing."""
        if all(map(_is_importable, self.suite.requires)):
            return ""
        pip_command = f'pip install -e ".[{self.suite.extra}]"' if self.suite.extra else ""
        return " ".join(filter(None, (pip_command, self.suite.install)))


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package of a submodule is missing
        return False


CATALOG: dict[str, EnvEntry] = {
    entry.name: entry for suite in SUITES.values() for entry in (EnvEntry(suite, task) for task in suite.tasks)
}
"""All listed tasks. Some suites have more, which :func:`find_entry` finds as well."""


def find_entry(name: Any) -> EnvEntry | None:
    """Find the task with the name "suite/task", listed or not; None if there is none."""
    if not isinstance(name, str):
        return None
    suite_name, _, task = name.partition("/")
    suite = SUITES.get(suite_name)
    if name in CATALOG or suite is None or not suite.knows(task):
        return CATALOG.get(name)
    return EnvEntry(suite, task)


def unknown_name(name: str, others: Iterable[str] = ()) -> str:
    """The message for an unknown environment name, with similar names (also from `others`) and where to look."""
    suite = SUITES.get(name.partition("/")[0])
    message = f"Unknown environment {name!r}.{did_you_mean(name, [*CATALOG, *others])}"
    if suite is None:
        return f"{message} Known suites: {', '.join(SUITES)}; `rllib list` shows their tasks."
    unlisted = f", and {suite.other_tasks}" if suite.other_tasks else ""
    return f"{message} Tasks of {suite.name}: {', '.join(suite.tasks)}{unlisted}."


def make_env(source: EnvSource, env_config: EnvConfig | None = None) -> Any:
    """Make the multi-agent environment given by `source`, without joining it.

    Args:
        source: A name in the catalog, a name registered with `ray.tune.register_env`, an environment class, or a
            creator. RLlib environment classes are called with `env_config`, PettingZoo classes with its items as
            keyword arguments; creators with one positional parameter are called with `env_config`, others with
            keyword arguments. BatchedSimulator classes and creators with a parameter `num_envs` make a batch of one.
        env_config: Options of the environment.

    Returns:
        A ParallelEnv, MultiAgentEnv or JointEnv.

    Raises:
        ValueError: An unknown name or option; the message suggests similar ones.
        ImportError: Required packages are missing; the message says how to install them.
        TypeError: `source` does not make a multi-agent environment.
        JointEnvError: A BatchedSimulator's number of copies or another attribute is wrong.
    """
    creator = find_creator(source)
    config = {} if env_config is None else env_config
    env = creator(config if takes_keywords(creator) else _env_context(config))
    if not isinstance(env, JointEnv):
        require_multi_agent(env)
    return env


def make_batch(source: EnvSource, num_envs: int, env_config: EnvConfig | None = None) -> BatchedSimulator | None:
    """Make a batch of environments if `source` is a batched simulator; otherwise return None.

    Raises:
        ValueError, ImportError, TypeError, JointEnvError: As in :func:`make_env`.
    """
    options = {} if env_config is None else env_config
    entry = find_entry(source)
    if entry is not None:
        return entry.make_batch(num_envs, **options)
    maker = _resolve(source)
    return call_with_keywords(with_num_envs(maker, num_envs), options) if makes_batches(maker) else None


def find_creator(source: EnvSource) -> Callable[[EnvConfig], Any]:
    """Return the function that makes the environment given by `source` from its `env_config`.

    Raises:
        ValueError, ImportError, TypeError: As in :func:`make_env`.
    """
    entry = find_entry(source)
    if entry is not None:
        entry.require()
        return partial(call_with_keywords, entry.make)
    maker = _resolve(source)
    if makes_batches(maker):
        return partial(call_with_keywords, single(maker))
    if isinstance(source, str):
        return maker  # creators registered with Ray take the config
    if isinstance(maker, type) and not (is_multi_agent(maker) or is_parallel(maker)):
        raise unsupported_env(maker)
    return maker if _takes_config(maker) else partial(call_with_keywords, maker)


def make_joint_env(source: EnvSource, env_config: EnvConfig | None = None, **joint_options: Any) -> JointEnv:
    """Make a JointEnv from the arguments of :func:`make_env` and the keyword arguments of JointEnv."""
    env = make_env(source, env_config)
    if isinstance(env, JointEnv):
        return JointEnv(env.env, **joint_options) if joint_options else env
    joint_options.setdefault("name", source if isinstance(source, str) else None)
    return JointEnv(env, **joint_options)


def _resolve(source: EnvSource) -> Callable[..., Any]:
    """Return the class or creator itself, or the creator registered with Ray by this name."""
    if not isinstance(source, str):
        if not callable(source):
            raise TypeError(f"An environment must be a name, a class or a creator, not {source!r}.")
        return source
    if find_spec("ray"):
        from ray.tune.registry import ENV_CREATOR, _global_registry

        if _global_registry.contains(ENV_CREATOR, source):
            return _global_registry.get(ENV_CREATOR, source)
    if source in gym.registry:
        raise unsupported_env(source)
    raise ValueError(
        f"{unknown_name(source)} Register your own with ray.tune.register_env(name, creator), or pass its class."
    )


def _takes_config(source: Callable[..., Any]) -> bool:
    """Return whether `source` follows RLlib's convention of one positional argument, the whole config."""
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


def takes_keywords(creator: Callable[..., Any]) -> bool:
    """Return whether a result of :func:`find_creator` passes the config as keyword arguments, not as one object."""
    return isinstance(creator, partial) and creator.func is call_with_keywords


def _env_context(config: EnvConfig) -> EnvConfig:
    """Return the config as RLlib's env runners pass it, with attributes such as `worker_index`, if Ray is installed."""
    if not find_spec("ray"):
        return config
    from ray.rllib.env.env_context import EnvContext

    return config if isinstance(config, EnvContext) else EnvContext(config, worker_index=0, num_workers=0)


def call_with_keywords(source: Callable[..., Any], config: EnvConfig, name: str | None = None) -> Any:
    """Call `source(**config)` after checking that it has all these options."""
    parameters = inspect.signature(source).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_names(name or str(getattr(source, "__name__", source)), config, parameters)
    return source(**config)
