"""Validation of joint-policy configs. Every error message names the key, the value and the remedy."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.policy import PolicySpec

from rllib_seqmarl.algorithms.evaluation import check_evaluation_options
from rllib_seqmarl.algorithms.initial_policy import check_initial_policy
from rllib_seqmarl.algorithms.unused_options import RETIRED_OPTIONS, UNUSED_OPTIONS
from rllib_seqmarl.algorithms.user_code import check_user_code
from rllib_seqmarl.envs.batch_creators import NUM_ENVS
from rllib_seqmarl.learners.objectives import find_objective
from rllib_seqmarl.networks.policy_config import ActionSpec, checked_filters, is_count
from rllib_seqmarl.policies import POLICIES, Policy
from rllib_seqmarl.suggestions import did_you_mean

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


def check_options(config: JointPPOConfig) -> None:
    """Check all options of a config.

    Raises:
        ValueError: An option is unknown, has no effect, has an invalid value, or is incompatible with a joint policy.
    """
    _check_stack(config)
    _check_unused(config)
    _check_names(config)
    check_user_code(config)
    _check_values(config)
    find_objective(config.objective)
    _check_policy(config)
    check_evaluation_options(config)


def _check_unused(config: JointPPOConfig) -> None:
    default = type(config)()
    for advice, where in ((RETIRED_OPTIONS, "RLlib's new API stack"), (UNUSED_OPTIONS, "a joint policy")):
        for key in sorted(advice.keys() & {*vars(config), "train_batch_size"} - {"policies"}):  # see _check_stack
            value, unset = getattr(config, key), getattr(default, key, None)
            if key == "simple_optimizer" and value is False:
                continue  # RLlib itself sets it
            if _differs(value, unset):
                if isinstance(value, dict) and isinstance(unset, dict):
                    value = {name: entry for name, entry in value.items() if _differs(entry, unset.get(name))}
                raise ValueError(f"{key}={reprlib.repr(value)} has no effect on {where}; {advice[key]}.")


def _differs(value: Any, default: Any) -> bool:
    try:
        return value is not default and bool(value != default)
    except Exception:  # values without a boolean comparison, such as arrays
        return True


def _check_names(config: JointPPOConfig) -> None:
    """Reject unknown keys, which RLlib would silently set as attributes."""
    # RLlib adds "class" to copied configs; configs of earlier versions have "train_batch_size".
    known = {*vars(type(config)()), *config._options, "class", "train_batch_size"}
    for key in vars(config):
        if key not in known and not key.startswith("_"):
            raise ValueError(
                f"{type(config).__name__} has no option {key!r}.{did_you_mean(key, known)} The options are the "
                f"keyword arguments of its methods `training`, `network`, `joint_env`, `env_runners`, ..."
            )


def _check_stack(config: JointPPOConfig) -> None:
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError(
            "Joint policies run on RLlib's new API stack only. Remove `enable_rl_module_and_learner=False` and "
            "`enable_env_runner_and_connector_v2=False` (or `api_stack(...)`) from the config."
        )
    if config.framework_str != "torch":
        raise ValueError(f"framework={config.framework_str!r} is not supported; remove it or write framework='torch'.")
    if set(config.policies) != {DEFAULT_MODULE_ID} or not _is_plain(config.policies[DEFAULT_MODULE_ID]):
        raise ValueError(
            f"One joint policy acts for the whole team, but policies={sorted(config.policies)} maps agents to policies "
            f"with their own settings. Remove `multi_agent(policies=..., policy_mapping_fn=...)`; for independent "
            f"policies use IPPO, with `network(share_actor=False)` for one per agent."
        )
    if config.use_kl_loss:
        raise ValueError(
            "use_kl_loss=True is not part of the joint objective, which clips each agent's ratio; remove it (the "
            "approximate KL divergence is still reported as `approx_kl`)."
        )
    _check_compiling(config)
    for key in ("use_critic", "use_gae"):
        if not getattr(config, key):
            raise ValueError(f"{key}=False is not supported: the joint update needs every agent's value; remove it.")


def _is_plain(policy: Any) -> bool:
    """Whether a (possibly serialized) policy of `multi_agent(policies=...)` has no settings of its own."""
    return not any(policy.get_state() if isinstance(policy, PolicySpec) else policy or ())


def _check_compiling(config: JointPPOConfig) -> None:
    if config.torch_compile_learner and config.torch_compile_learner_what_to_compile != "forward_train":
        raise ValueError(
            "torch_compile_learner_what_to_compile='complete_update' is not supported: an update logs metrics, which "
            "cannot be compiled; remove it to compile the network's forward and backward pass."
        )
    for key in ("torch_compile_learner", "torch_compile_worker"):
        backend = getattr(config, f"{key}_dynamo_backend")
        if getattr(config, key) and backend not in torch.compiler.list_backends(exclude_tags=()):
            raise ValueError(
                f"{key}_dynamo_backend={backend!r} is not an available backend of torch.compile. Available are "
                f"{', '.join(torch.compiler.list_backends())}; write `framework({key}_dynamo_backend='inductor')`."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_non_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_count_or_zero(value: Any) -> bool:
    return is_count(value) or (type(value) is int and value == 0)


def _is_schedule(value: Any) -> bool:
    """Whether a value is a number or a schedule of RLlib, [[timestep, value], ...]."""
    return _is_non_negative(value) or (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(p, list | tuple) and len(p) == 2 and all(map(_is_non_negative, p)) for p in value)
        and [timestep for timestep, _ in value] == sorted(timestep for timestep, _ in value)
    )


Check = tuple[Callable[[Any], bool], str]  # whether a value is valid, and what it must be


def _or_none(is_valid: Callable[[Any], bool], expected: str, meaning: str = "") -> Check:
    return lambda value: value is None or is_valid(value), f"{expected}, or None{meaning}"


def _one_of(*choices: str) -> Check:
    *others, last = map(repr, choices)
    return lambda value: value in choices, f"{', '.join(others)} or {last}"


_SCHEDULE: Check = (
    _is_schedule,
    "a number >= 0 or a schedule of such numbers, [[0, value], [timestep, value], ...], in order of timesteps",
)
_FRACTION: Check = (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
_NON_NEGATIVE: Check = (_is_non_negative, "a number >= 0")
_COUNT: Check = (is_count, "a whole number >= 1")
_DURATION: Check = (lambda value: _is_non_negative(value) or value == math.inf, "a number of seconds >= 0")

OPTION_CHECKS: dict[str, Check] = {
    "lr": _SCHEDULE,
    "critic_lr": _or_none(*_SCHEDULE, " for the value of lr"),
    "entropy_coeff": _SCHEDULE,
    "gamma": _FRACTION,
    "lambda_": _FRACTION,
    "clip_param": (_is_positive, "a number > 0, such as 0.2"),
    "vf_clip_param": _or_none(_is_positive, "a number > 0", " for the value of clip_param"),
    "huber_delta": _or_none(_is_positive, "a number > 0", " for a quadratic loss"),
    "adam_epsilon": (_is_positive, "a number > 0, such as 1e-5"),
    "vf_loss_coeff": _NON_NEGATIVE,
    "grad_clip": _or_none(_is_positive, "a number > 0", " for no clipping"),
    "grad_clip_by": _one_of("value", "norm", "global_norm"),
    "num_epochs": _COUNT,
    "minibatch_size": _or_none(is_count, "a whole number >= 1", " for the whole batch"),
    "train_batch_size_per_learner": _COUNT,
    "num_env_runners": (_is_count_or_zero, "a whole number >= 0; 0 samples in the algorithm's process"),
    "num_envs_per_env_runner": _COUNT,
    "rollout_fragment_length": (
        lambda value: value == "auto" or is_count(value),
        "a whole number >= 1, or 'auto' for a share of the batch",
    ),
    "batch_mode": _one_of("truncate_episodes", "complete_episodes"),
    "num_learners": (_is_count_or_zero, "a whole number >= 0; 0 learns in the algorithm's process"),
    "evaluation_interval": _or_none(_is_count_or_zero, "a whole number >= 1", " for no evaluation"),
    "evaluation_num_env_runners": (_is_count_or_zero, "a whole number >= 0"),
    "evaluation_duration_unit": _one_of("episodes", "timesteps"),
    "seed": _or_none(
        lambda value: _is_count_or_zero(value) and value < 2**32,  # the range of NumPy's global generator
        "a whole number from 0 to 2**32 - 1",
        " for a drawn one",
    ),
    "metrics_num_episodes_for_smoothing": _COUNT,
    "min_sample_timesteps_per_iteration": _or_none(*_NON_NEGATIVE),
    "min_train_timesteps_per_iteration": _or_none(*_NON_NEGATIVE),
    "min_time_s_per_iteration": _or_none(*_DURATION),
    "metrics_episode_collection_timeout_s": _DURATION,
    "sample_timeout_s": _DURATION,
    "evaluation_sample_timeout_s": _DURATION,
    "num_cpus_per_env_runner": _NON_NEGATIVE,
    "num_gpus_per_env_runner": _NON_NEGATIVE,
    "num_gpus_per_learner": _NON_NEGATIVE,
    "team_reward": _one_of("mean", "sum"),
    "initial_policy": _or_none(
        lambda value: isinstance(value, str | PathLike), "the path of a checkpoint or an exported policy"
    ),
    "update_order": _one_of("together", "sequential"),
    "env_config": (lambda value: isinstance(value, dict), "a dict of keyword arguments of the environment"),
}


def _check_values(config: JointPPOConfig) -> None:
    for key, (is_valid, expected) in OPTION_CHECKS.items():
        value = getattr(config, key)
        if not is_valid(value):
            raise ValueError(f"{key}={value!r} is not {expected}.")
    for key, default in vars(type(config)()).items():
        if isinstance(default, bool) and not key.startswith("_") and not isinstance(getattr(config, key), bool):
            raise ValueError(f"{key}={getattr(config, key)!r} is not True or False.")
    if NUM_ENVS in config.env_config and config.gym_env_vectorize_mode == "vector_entry_point":
        raise ValueError(
            f"env_config: {NUM_ENVS}={config.env_config[NUM_ENVS]!r} has no effect: RLlib replaces it by "
            f"num_envs_per_env_runner. Set that instead; or, if it means something else, rename the option."
        )
    if not (config.create_local_env_runner or config.num_env_runners or config.in_evaluation):
        raise ValueError("create_local_env_runner=False needs num_env_runners >= 1, since no env runner would be left.")
    batch_size = config.train_batch_size_per_learner
    if config.minibatch_size is not None and config.minibatch_size > batch_size:
        raise ValueError(
            f"minibatch_size={config.minibatch_size} is larger than train_batch_size_per_learner={batch_size}. Both "
            f"count team steps: lower minibatch_size, or set it to None to use the whole batch."
        )


def _check_policy(config: JointPPOConfig) -> None:
    """Run the policy's own checks of its options, with placeholders for the spaces, which are not known yet."""
    policy = POLICIES.find("policy", config.policy)
    if config.more_options is not None and config.policy != config.default_policy:
        raise ValueError(
            f"policy={config.policy!r} does not fit {type(config).__name__}, whose options are for policy="
            f"{config.default_policy!r}; use MAPPOConfig for 'independent', and JointPPOConfig for other policies."
        )
    for key, unset in type(config)()._options.items():
        if key not in config._options and _differs(value := getattr(config, key), unset):
            raise ValueError(
                f"{key}={value!r} has no effect: policy={config.policy!r} has no such option. Remove it; the policy's "
                f"options are {', '.join(config._options)}."
            )
    if config.critic_lr is not None and policy.parameter_groups is Policy.parameter_groups:
        raise ValueError(
            f"critic_lr={config.critic_lr!r} has no effect: policy={config.policy!r} has no separate critic; remove it."
        )
    options = {key: value for key, value in config.model_config.items() if key in policy.Config.options()}
    if (filters := options.pop("conv_filters", None)) is not None:
        checked_filters(filters)  # whether images are large enough is checked once their size is known
    action, state_dim = ActionSpec(kind="discrete", nvec=(2,)), int(config.global_state)
    made = policy.Config(obs_dim=1, action=action, state_dim=state_dim, **options)
    if made.has_memory and "max_seq_len" not in policy.Config.options():
        raise ValueError(
            f"policy={config.policy!r} has memory, but no option max_seq_len. Add the field `max_seq_len: int = 20` to "
            f"{policy.Config.__name__}: the steps of a window in training."
        )
    if made.has_memory and options["max_seq_len"] is not None and not config.in_evaluation:  # which does not learn
        _check_windows(config, options["max_seq_len"])
    has_state = made.has_memory or options.get("agent_order") == "shuffled"
    if has_state and config.episode_lookback_horizon == 0 and not config.in_evaluation:
        raise ValueError(
            f"episode_lookback_horizon=0 loses the state of policy={config.policy!r} between samples; set it to 1."
        )
    check_initial_policy(config, policy, {**options, "conv_filters": filters})


def _check_windows(config: JointPPOConfig, max_seq_len: Any) -> None:
    if not is_count(max_seq_len):
        raise ValueError(f"max_seq_len={max_seq_len!r} is not a whole number >= 1, the steps of a window.")
    if config.minibatch_size is not None and config.minibatch_size < max_seq_len:
        raise ValueError(
            f"minibatch_size={config.minibatch_size} is less than a window of max_seq_len={max_seq_len} steps. "
            f"Minibatches consist of whole windows: increase minibatch_size, or decrease max_seq_len."
        )
    fragment = config.get_rollout_fragment_length()
    if max_seq_len > fragment and config.batch_mode == "truncate_episodes":
        raise ValueError(
            f"max_seq_len={max_seq_len} is longer than the {fragment} steps that each environment adds to a sample "
            f"(rollout_fragment_length={config.rollout_fragment_length!r}), so no window would be whole. Decrease "
            f"max_seq_len or num_envs_per_env_runner, or increase rollout_fragment_length or "
            f"train_batch_size_per_learner."
        )
