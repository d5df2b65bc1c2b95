"""The options of PPO for a whole team, with any policy; the base of the algorithms' configs."""

import copy
import json
from typing import Any, ClassVar, Never, Self

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.connectors.module_to_env import NormalizeAndClipActions
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.util.debug import log_once

from rllib_seqmarl.algorithms.initial_policy import load_initial_policy
from rllib_seqmarl.algorithms.policy_options import document_options
from rllib_seqmarl.algorithms.resolved_options import resolved_option
from rllib_seqmarl.algorithms.user_code import import_mixers
from rllib_seqmarl.algorithms.user_parts import USER_PARTS
from rllib_seqmarl.algorithms.validation import check_options
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner, RecordingJointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.env_runners.team_metrics import TeamMetrics
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.modules.joint_sequence_module import JointSequenceModule
from rllib_seqmarl.modules.team_connectors import FitActionsToBounds, ModuleToTeam, TeamToModule
from rllib_seqmarl.modules.users_connectors import adapt_connectors
from rllib_seqmarl.networks.policy_config import Option, declared_options
from rllib_seqmarl.policies import POLICIES
from rllib_seqmarl.suggestions import did_you_mean


class JointPPOConfig(PPOConfig):
    """RLlib's PPO config plus the options of a team's policy; the base of the algorithms' configs.

    All other options (env runners, learners, evaluation, callbacks, connectors, checkpoints, offline recording, ...)
    are RLlib's own and are set as for PPO. The environment may be an RLlib `MultiAgentEnv`, a PettingZoo `ParallelEnv`,
    a `BatchedSimulator` that steps many teams at once (the class, a creator function or a registered name) or one that
    this package registers; it is converted to a joint environment automatically. In `train_batch_size_per_learner`,
    `minibatch_size` and all counters, a step is one step of the whole team.
    """

    output: Any
    default_algorithm: ClassVar[type[Algorithm]]  # set by the algorithm, see `JointPPO.__init_subclass__`
    default_policy: ClassVar[str] = "sequence"
    more_options: ClassVar[type | None] = None  # a dataclass of further keywords of `network` for the default policy

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        document_options(cls)

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or self.default_algorithm)
        self.train_batch_size = None

        # PPO's settings, with the defaults of the published MAT (arXiv 2205.14953, appendix).
        self.lr = 5e-4
        self.num_epochs = 15
        self.minibatch_size: int | None = None  # the whole batch
        self.train_batch_size_per_learner = 3200
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.vf_clip_param = None  # same as clip_param
        self.entropy_coeff = 0.01
        self.grad_clip = 10.0
        self.log_gradients = True  # reports the gradient norm before and after clipping
        self.use_kl_loss = False
        self.kl_coeff = 0.0
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 32
        self.gym_env_vectorize_mode = "vector_entry_point"  # one batch of teams, see JointVectorEnv

        # Settings of the joint update.
        self.use_value_norm = True
        self.huber_delta: float | None = 10.0
        self.adam_epsilon = 1e-5
        self.critic_lr: Any = None  # same as lr
        self.shared_reward = False
        self.sample_while_learning = False
        self.objective: Any = None
        self.update_order = "together"

        # Settings of the policy.
        self.policy = self.default_policy
        self._set(**copy.deepcopy(self._options))
        self.mixer_modules: list[str] = []
        self._user_parts = USER_PARTS
        self.initial_policy: str | None = None

        # Settings of the joint environment.
        self.agent_ids = True
        self.team_reward = "mean"
        self.global_state = False

    @override(PPOConfig)
    def training(
        self,
        *,
        use_value_norm: bool = NotProvided,
        huber_delta: float | None = NotProvided,
        adam_epsilon: float = NotProvided,
        critic_lr: float | list[list[float]] | None = NotProvided,
        shared_reward: bool = NotProvided,
        sample_while_learning: bool = NotProvided,
        objective: Any = NotProvided,
        update_order: str = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training-related configuration.

        Args:
            use_value_norm: Whether the critic predicts returns normalised by their running mean and standard
                deviation (decay 0.99999, debiased), so that the value loss does not depend on the reward scale.
            huber_delta: The error, in units of normalised returns, beyond which the value loss grows linearly
                instead of quadratically; None for a quadratic loss everywhere.
            adam_epsilon: Adam's epsilon.
            critic_lr: The learning rate, or a schedule of it, of a critic that shares no parameters with actors; None
                for the value of `lr`. Each actor and the critic have their own optimiser and gradient norm.
            shared_reward: Whether every agent learns from the team's reward rather than its own.
            sample_while_learning: Whether env runners collect the next sample while the learner uses the current one.
                With enough cores or GPUs for both, an iteration takes as long as the slower of the two. Samples are
                off-policy by one update; ratios are clipped around the policy at the start of the update, and
                importance weights correct for the behaviour policy (decoupled PPO, arXiv 2110.00641).
            objective: A function of a batch's columns, the module's outputs and this config's options that returns the
                weighted sums to minimise and to log, see `rllib_seqmarl.learners.objectives.Objective`; or its name,
                "module:function". None for the joint PPO objective.
            update_order: "together" to update all agents at once, or "sequential" to update one after another, in a
                random order with all epochs of each, and then the critic. In the latter case, an agent's surrogate is
                multiplied by the change of its predecessors' policies, as in HAPPO (arXiv 2109.11251).
            **kwargs: RLlib's PPO settings. `clip_param` applies to each agent's ratio (with continuous actions, to each
                dimension's), and `vf_clip_param` to the change of the normalised value prediction; None means the
                value of `clip_param`. `minibatch_size=None` uses the whole batch in each epoch.
        """
        super().training(**kwargs)
        return self._set(
            use_value_norm=use_value_norm,
            huber_delta=huber_delta,
            adam_epsilon=adam_epsilon,
            critic_lr=critic_lr,
            shared_reward=shared_reward,
            sample_while_learning=sample_while_learning,
            objective=objective,
            update_order=update_order,
        )

    def network(
        self,
        *,
        policy: str = NotProvided,
        mixer_modules: list[str] = NotProvided,
        initial_policy: str | None = NotProvided,
        **options: Any,
    ) -> Self:
        """Set the policy and its options.

        Args:
            policy: The policy: "sequence" (encoder and decoder), "independent" (actors that read their own
                observation), or the name of a policy registered with `rllib_seqmarl.register_policy`. Its options are
                further keywords.
            mixer_modules: Modules that register mixers or policies and are imported first, such as ["my_mixers"].
                Needed in experiment files; scripts can register them themselves.
            initial_policy: A checkpoint directory or an exported policy whose weights training starts from; None to
                start from scratch. The number of agents, observations and actions may differ: parameters that both
                teams share are copied, and all other options of the policy must be equal. Later checkpoints do not
                depend on it.
            **options: The policy's options.

        Raises:
            TypeError: The policy has no such option.
            ValueError: The policy is unknown.
        """
        self._set(policy=policy, mixer_modules=mixer_modules, initial_policy=initial_policy)
        if options and self.policy not in POLICIES:
            import_mixers(self.mixer_modules)
            POLICIES.find("policy", self.policy)
        known = self._options
        for key in options:
            if key not in known:
                raise TypeError(
                    f"network() got an unexpected keyword {key!r}.{did_you_mean(key, known)} The options of policy "
                    f"{self.policy!r} are {', '.join(known)}."
                )
        return self._set(**options)

    def joint_env(
        self,
        *,
        agent_ids: bool = NotProvided,
        team_reward: str = NotProvided,
        global_state: bool = NotProvided,
        **unknown: Never,
    ) -> Self:
        """Set how a multi-agent environment is converted to a joint environment.

        Args:
            agent_ids: Whether observations end with a one-hot agent id. The encoder is permutation-equivariant, so
                without ids, agents with equal observations act alike.
            team_reward: How the agents' rewards are combined into the team's: "mean" or "sum".
            global_state: Whether the environment's global state is observed too.

        Raises:
            TypeError: There is no such option.
        """
        for key in unknown:
            hint = f" It is an option of the policy: use network({key}=...)." if key in self._options else ""
            raise TypeError(f"joint_env() got an unexpected keyword {key!r}.{hint}")
        return self._set(agent_ids=agent_ids, team_reward=team_reward, global_state=global_state)

    @resolved_option
    def env(self, chosen: Any) -> JointEnvCreator | None:
        """The environment, wrapped in a creator of joint environments."""
        chosen = chosen.env if isinstance(chosen, JointEnvCreator) else chosen
        return None if chosen is None else JointEnvCreator(chosen, **self._joint_options)

    @resolved_option
    def gym_env_vectorize_mode(self, chosen: Any) -> Any:
        """The vectorization mode of environments; "sync" if the creator reads RLlib's `EnvContext`.

        The vector entry point would pass it a plain dict, without `worker_index` and `vector_index`.
        """
        if chosen == "vector_entry_point" and self.env is not None and not self.env.takes_keywords:
            return "sync"
        return chosen

    @resolved_option
    def env_runner_cls(self, chosen: Any) -> Any:
        """The user's class, or the default for sampling or for offline recording."""
        if self.output:
            return RecordingJointEnvRunner if chosen in (None, RolloutEnvRunner, JointEnvRunner) else chosen
        return RolloutEnvRunner if chosen in (None, RecordingJointEnvRunner) else chosen

    @resolved_option
    def callbacks_class(self, chosen: Any) -> list[Any]:
        """The user's callbacks, preceded by the one that logs team metrics."""
        callbacks = force_list(chosen)
        return callbacks if TeamMetrics in callbacks else [TeamMetrics, *callbacks]

    @property
    def train_batch_size(self) -> Any:
        """An option of the old API stack, rejected if set; use `train_batch_size_per_learner`."""
        return self._train_batch_size

    @train_batch_size.setter
    def train_batch_size(self, value: Any) -> None:
        self._train_batch_size = value

    @override(PPOConfig)
    def __setattr__(self, key: str, value: Any) -> None:
        # Searches suggest NumPy numbers, which are neither ints nor bools for the checks of options, nor JSON.
        super().__setattr__(key, value.item() if isinstance(value, np.generic) else value)

    def _set(self, **options: Any) -> Self:
        for key, value in options.items():
            if value is not NotProvided:
                setattr(self, key, value)
        return self

    @override(PPOConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=JointSequenceModule)

    @override(PPOConfig)
    def get_default_learner_class(self) -> type[JointPPOTorchLearner]:
        return JointPPOTorchLearner

    @override(PPOConfig)
    def build_learner_group(
        self, *, env: Any = None, spaces: Any = None, rl_module_spec: Any = None, placement_group: Any = None
    ) -> LearnerGroup:
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        learners = super().build_learner_group(rl_module_spec=spec, placement_group=placement_group)
        if self.initial_policy is not None:
            load_initial_policy(self.initial_policy, learners, spec)
        return learners

    @override(PPOConfig)
    def build_env_to_module_connector(self, env: Any = None, spaces: Any = None, device: Any = None) -> Any:
        users = self._env_to_module_connector
        config = self if users is None else self.copy(copy_frozen=False)
        if users is not None:
            config._env_to_module_connector = lambda *args: adapt_connectors(users(*args))
        pipeline = PPOConfig.build_env_to_module_connector(config, env, spaces, device)
        if self._env_to_module_connector is None and self.add_default_connectors_to_env_to_module_pipeline:
            pipeline.connectors.clear()
            pipeline.append(TeamToModule(device=device))
        return pipeline

    @override(PPOConfig)
    def build_module_to_env_connector(self, env: Any = None, spaces: Any = None) -> Any:
        pipeline = super().build_module_to_env_connector(env, spaces)
        if self._module_to_env_connector is None and self.add_default_connectors_to_module_to_env_pipeline:
            pipeline.connectors.clear()
            pipeline.append(ModuleToTeam(normalize_actions=self.normalize_actions, clip_actions=self.clip_actions))
        for index, piece in enumerate(pipeline.connectors):
            if type(piece) is NormalizeAndClipActions:
                spaces_of = piece.input_observation_space, piece.input_action_space
                pipeline.connectors[index] = FitActionsToBounds(
                    *spaces_of, normalize_actions=piece.normalize_actions, clip_actions=piece.clip_actions
                )
        return pipeline

    @property
    @override(PPOConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {
            **self._network_options,
            "use_value_norm": self.use_value_norm,
            # Stored in every checkpoint, so that the policy can act outside of RLlib.
            "deployment": {
                "env": repr(self.env),
                "env_config": {key: value for key, value in self.env_config.items() if _is_json(value)},
                "env_config_left_out": [key for key, value in self.env_config.items() if not _is_json(value)],
                "joint_options": self._joint_options,
                "normalize_actions": self.normalize_actions,
                "clip_actions": self.clip_actions,
                "has_custom_connectors": bool(self._env_to_module_connector or self._module_to_env_connector),
            },
        }

    @classmethod
    def declared_options(cls, policy: str) -> dict[str, Option]:
        """The options of a policy as keywords of `network`, by name."""
        more = {} if cls.more_options is None or policy != cls.default_policy else declared_options(cls.more_options)
        return {**POLICIES[policy].Config.options(), **more}

    @property
    def _options(self) -> dict[str, Any]:
        """The options of the chosen policy and their values; empty if it is unknown."""
        known = self.declared_options(self.policy) if self.policy in POLICIES else {}
        return {key: getattr(self, key, option.default) for key, option in known.items()}

    @property
    def _network_options(self) -> dict[str, Any]:
        """The policy and the user's options of its config; other fields follow from the environment."""
        return {"policy": self.policy, **self._options}

    @property
    def _joint_options(self) -> dict[str, Any]:
        return {"agent_ids": self.agent_ids, "team_reward": self.team_reward, "global_state": self.global_state}

    @override(PPOConfig)
    def validate(self) -> None:
        """Validate this config without modifying it, so that options may be changed and validated again.

        Raises:
            ValueError: An option is unknown, has no effect, has an invalid value, or contradicts another one.
            ImportError: A package that the environment needs is not installed.
        """
        import_mixers(self.mixer_modules)
        if self._validate_config:
            check_options(self)
        if self.env is not None:
            self.env.require()
        # Suppress RLlib's hint on how to return to the old API stack, which is not supported here.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        PPOConfig.validate(copy.copy(self))  # a copy, since RLlib sets options that it considers unset


document_options(JointPPOConfig)


def _is_json(value: Any) -> bool:
    """Whether a value can be serialized as JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
