"""Checks of user-provided classes and functions that replace those of this package or RLlib."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list

from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner, RecordingJointEnvRunner
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.modules.joint_sequence_module import JointSequenceModule
from rllib_seqmarl.suggestions import did_you_mean

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


def check_user_code(config: JointPPOConfig) -> None:
    """Check user-provided classes, connectors and callbacks.

    Raises:
        ValueError: One of them is incompatible with a joint policy; the message names the base class to use.
    """
    _check_class("learner_class", config._learner_class, JointPPOTorchLearner)
    _check_class("env_runner_cls", config.env_runner_cls, RecordingJointEnvRunner if config.output else JointEnvRunner)
    _check_module_spec(config._rl_module_spec)
    _check_model_config(config._model_config, {"use_value_norm", *config._options})
    for key in ("env_to_module_connector", "module_to_env_connector", "learner_connector"):
        _check_connector(key, getattr(config, f"_{key}"))
    for callbacks in force_list(config.callbacks_class):
        if isinstance(callbacks, type):
            _check_class("callbacks_class", callbacks, RLlibCallback)
        elif not callable(callbacks):
            raise ValueError(f"callbacks_class={callbacks!r} is not a class; pass the class, not an instance.")
    for key, functions in vars(config).items():
        if key.startswith("callbacks_on_") and not all(map(callable, force_list(functions))):
            raise ValueError(f"{key}={functions!r} is not a function or a list of functions.")


def import_mixers(modules: Any) -> None:
    """Import the modules that register user-defined mixers.

    Raises:
        ValueError: A module does not exist or cannot be imported.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(name, str) for name in modules):
        raise ValueError(f"mixer_modules={modules!r} is not a list of importable modules, such as ['my_mixers'].")
    for name in modules:
        try:
            import_module(name)
        except Exception as error:
            raise ValueError(f"mixer_modules: {name!r} cannot be imported: {error}") from error


def _check_class(key: str, value: Any, base: type) -> None:
    if value is not None and not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(
            f"{key}={getattr(value, '__name__', repr(value))} cannot be used with a joint policy. Derive it from "
            f"{base.__module__}.{base.__name__}."
        )


def _check_module_spec(spec: Any) -> None:
    if spec is None:
        return
    if not isinstance(spec, RLModuleSpec):
        raise ValueError(
            f"rl_module_spec={type(spec).__name__}(...) is not supported: a team has one module. Pass an "
            f"RLModuleSpec(module_class=...) whose class derives from JointSequenceModule."
        )
    _check_class("rl_module_spec.module_class", spec.module_class, JointSequenceModule)
    if spec.model_config:
        raise ValueError("rl_module_spec.model_config is not supported; set the options with `config.network(...)`.")
    for name in ("observation_space", "action_space", "catalog_class", "learner_only"):  # set by the algorithm only
        if getattr(spec, name):
            raise ValueError(f"rl_module_spec.{name} has no effect on a joint policy; remove it.")


def _check_model_config(model_config: Any, options: set[str]) -> None:
    names: Iterable[str] = model_config if isinstance(model_config, dict) else vars(model_config)
    for name in names:
        if name not in options:
            raise ValueError(
                f"model_config has no entry {name!r}.{did_you_mean(name, options)} This policy takes "
                f"{', '.join(sorted(options))}; set them with `config.network(...)`."
            )


def _check_connector(key: str, function: Any) -> None:
    if function is not None and (isinstance(function, ConnectorV2 | type) or not callable(function)):
        raise ValueError(
            f"{key}={getattr(function, '__name__', f'{type(function).__name__}(...)')} is not a function that makes "
            f"connectors. Write `{key}=lambda *args, **kwargs: MyConnector()`; it may also return a list."
        )
