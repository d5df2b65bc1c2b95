"""Checks of an algorithm's config before anything starts: names, types, the algorithm's own validation."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS
from ray.tune.registry import ENV_CREATOR, TRAINABLE_CLASS, _global_registry, get_trainable_cls

from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.algorithms.unused_options import RETIRED_OPTIONS
from rllib_seqmarl.algorithms.user_code import import_mixers
from rllib_seqmarl.envs.catalog import find_entry, unknown_name
from rllib_seqmarl.experiments.errors import ExperimentError, Problems
from rllib_seqmarl.experiments.search_space import corners
from rllib_seqmarl.experiments.value_kinds import Where, describe_kind, fits, format_value, non_finite
from rllib_seqmarl.policies import POLICIES
from rllib_seqmarl.registry import ALGORITHMS, register
from rllib_seqmarl.suggestions import did_you_mean

# Config keys that differ from the name of their config attribute.
_ALIASES = {
    "lambda": "lambda_",
    "input": "input_",
    "framework": "framework_str",
    "callbacks": "callbacks_class",
    "create_env_on_driver": "create_env_on_local_worker",
    "custom_eval_function": "custom_evaluation_function",
}


def algorithm_class(name: str, where: Where) -> type[Algorithm]:
    """Return the algorithm class of a name: ours, RLlib's, or one registered with Tune.

    Raises:
        ExperimentError: The name is unknown or does not belong to an RLlib algorithm.
    """
    known = {*ALGORITHMS, *RLLIB_ALGORITHMS}
    if name not in known and not _global_registry.contains(TRAINABLE_CLASS, name):
        near = did_you_mean(name, known) or f" Known algorithms are {', '.join(sorted(known))}."
        raise ExperimentError(f"{where('run')}: unknown algorithm '{name}'.{near}")
    if name in ALGORITHMS and not _global_registry.contains(TRAINABLE_CLASS, name):
        register()  # `ray.shutdown` has deleted Tune's names
    cls = get_trainable_cls(name)
    if not (inspect.isclass(cls) and issubclass(cls, Algorithm)):
        raise ExperimentError(f"{where('run')}: '{name}' is registered with Ray Tune, but is not an RLlib algorithm.")
    return cls


def network_keys(run: str, config: dict[str, Any]) -> set[str]:
    """Return the config keys of an algorithm that determine its network, and so must fit its checkpoints."""
    default = get_trainable_cls(run).get_default_config()
    if not isinstance(default, JointPPOConfig):
        return set()
    policies = {default.default_policy, *_chosen_policies(default, config)}
    free = {key for name in policies for key in POLICIES[name].Config.free_options}
    own = inspect.signature(default.network).parameters
    return {*own, *_policy_kinds(default, config), "agent_ids", "global_state", "use_value_norm"} - free


def check_config(algorithm: type[Algorithm], config: dict[str, Any], where: Where) -> None:
    """Check a config, which may contain distributions, as far as possible without running it.

    Args:
        algorithm: The algorithm that the config is for.
        config: Config keys and values, including "env".
        where: Returns the source location of a key, for error messages.

    Raises:
        ExperimentError: A key is unknown or retired, a value has the wrong type, the environment is unknown, or the
            algorithm's `validate()` rejects a combination of values.
    """
    default = algorithm.get_default_config()
    if isinstance(default, JointPPOConfig):
        try:
            import_mixers(config.get("mixer_modules", default.mixer_modules))
        except ValueError as error:
            _raise_located(error, config, where)
    problems = Problems()
    problems.of(check_names, algorithm, config, where)
    kinds = dict(_declared_kinds(type(default))) | _policy_kinds(default, config)
    for candidate in corners(config):
        for key, value in candidate.items():
            if key in kinds and not fits(value, kinds[key]):
                problems.add(f"{where(key)}: {key} must be {describe_kind(kinds[key])}; got {format_value(value)}.")
        for path, value in non_finite(candidate):
            if path[1:] and "env_config" not in path:  # top-level values are reported above
                problems.add(f"{where(*path)}: {'/'.join(map(str, path))} must be finite; got {value}.")
    problems.report()
    for candidate in corners(config):
        if not isinstance(default, JointPPOConfig):  # which validates its environment
            _check_env_name(candidate.get("env"), where)
        try:
            algorithm.get_default_config().update_from_dict(candidate).validate()
        except Exception as error:  # RLlib may fail with any error on values that it does not check
            _raise_located(error, config, where)


def check_names(
    algorithm: type[Algorithm],
    config: Mapping[str, Any],
    where: Where,
    *path: str,
    whole: dict[str, Any] | None = None,
) -> None:
    """Reject keys of a config that are unknown, retired, or disable features that are always on.

    Args:
        algorithm: The algorithm that the config is for.
        config: The config or a part of it.
        where: Returns the source location of a path.
        path: The path of `config`.
        whole: The config that `config` is a part of.

    Raises:
        ExperimentError: Some keys are invalid; has a line for each.
    """
    default = algorithm.get_default_config()
    cls = type(default)
    settable = [name for name in dir(cls) if getattr(getattr(cls, name), "fset", None)]  # properties
    whole = dict(config) if whole is None else whole
    known = {key for key in [*vars(default), *settable] if not key.startswith("_")} | set(_ALIASES)
    known = (known | set(_policy_kinds(default, whole))) - set(RETIRED_OPTIONS)
    problems = Problems()
    for key, value in config.items():
        place = where(*path, key)
        advice = RETIRED_OPTIONS.get(key)
        if advice is not None:
            problems.add(f"{place}: key '{key}' belongs to RLlib's old API stack; {advice}.")
        elif key not in known:
            problems.add(f"{place}: unknown key '{key}' for {algorithm.__name__}.{did_you_mean(key, known)}")
        elif key.startswith("enable_") and key.endswith(("_learner", "_v2")) and value is False:
            problems.add(f"{place}: RLlib's old API stack is not supported; remove '{key}: false'.")
        elif key == "framework" and value != "torch":
            problems.add(f"{place}: framework {format_value(value)} is not supported; write 'torch' or omit the key.")
        elif key == "evaluation_config" and isinstance(value, dict):
            problems.of(check_names, algorithm, value, where, *path, key, whole=whole)
    problems.report()


def _policy_kinds(default: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The options, with their annotations, of the policies that a config chooses among."""
    policies = _chosen_policies(default, config)
    return {key: option.kind for name in policies for key, option in default.declared_options(name).items()}


def _chosen_policies(default: Any, config: dict[str, Any]) -> list[str]:
    """The policies that a config chooses among, without unknown ones, which its validation rejects."""
    if not isinstance(default, JointPPOConfig):
        return []
    names = [candidate["policy"] for candidate in corners({"policy": config.get("policy", default.policy)})]
    return [name for name in names if isinstance(name, str) and name in POLICIES]


def _declared_kinds(config_class: type) -> Iterator[tuple[str, Any]]:
    """Yield the options declared by config methods with their annotations, those of subclasses last."""
    for cls in reversed(config_class.__mro__):
        for method in vars(cls).values():
            if not inspect.isfunction(method):
                continue
            try:
                parameters = inspect.signature(method, eval_str=True).parameters
            except NameError:  # annotations that only a type checker can resolve; RLlib checks those values
                parameters = inspect.signature(method).parameters
            for name, parameter in parameters.items():
                if parameter.default is NotProvided and parameter.annotation is not parameter.empty:
                    yield name, parameter.annotation


def _check_env_name(env: Any, where: Where) -> None:
    if not isinstance(env, str) or "." in env or ":" in env:
        return  # an offline run without an environment, or the path of a class, which RLlib imports
    if find_entry(env) or env in gym.registry or _global_registry.contains(ENV_CREATOR, env):
        return
    raise ExperimentError(f"{where('env')}: {unknown_name(env, gym.registry)}")


def _raise_located(error: Exception, config: dict[str, Any], where: Where) -> NoReturn:
    """Raise a validation error with the location of the key it names and without RLlib's hint on silencing it."""
    message = str(error).split("\nTo suppress all validation errors")[0]
    message = " ".join(message.split())
    named = [key for key in config if re.search(rf"(?<![\w.]){re.escape(_ALIASES.get(key, key))}(?!\w)", message)]
    if isinstance(error, ImportError) or repr(config.get("env")) in message:  # only environments import packages
        named.insert(0, "env")
    raise ExperimentError(f"{where(*named[:1])}: {message}") from error
