"""PPO for a whole team, with any policy of `rllib_seqmarl.policies`; the base of this package's algorithms."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rllib_seqmarl.algorithms.checkpoint_files import ChecksummedCheckpoints
from rllib_seqmarl.algorithms.evaluation import check_evaluation_team
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.algorithms.policy_options import reserve_names
from rllib_seqmarl.algorithms.sampler import Reports, Sampler, Samples, training_data
from rllib_seqmarl.env_runners.env_errors import EnvErrorBoard
from rllib_seqmarl.envs.catalog import find_entry
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.learners.distributed import check_that_all_can_learn
from rllib_seqmarl.provenance import ProvenanceFile, drawn_seed, provenance

logger = logging.getLogger(__name__)


class JointPPO(ChecksummedCheckpoints, PPO):
    """PPO for a team: RLlib's PPO with its own module, learner and sampling.

    An environment that violates its API contract ends training with a `JointEnvError`, also on remote env runners.
    """

    _make_config: Callable[[], JointPPOConfig] = staticmethod(lambda: JointPPOConfig())

    def __init_subclass__(cls, config: type[JointPPOConfig] | None = None, **kwargs: Any) -> None:
        """Make `config` and this algorithm each other's default; without it, the parent's config remains."""
        super().__init_subclass__(**kwargs)
        if config is not None:
            config.default_algorithm = cls
            # A function, because Ray follows classes in attributes, here in a circle.
            cls._make_config = staticmethod(lambda: config())

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> JointPPOConfig:
        return cls._make_config()

    @staticmethod
    @override(Algorithm)
    def _get_env_id_and_creator(env_specifier: Any, config: AlgorithmConfig) -> tuple[str | None, Callable[[Any], Any]]:
        if isinstance(env_specifier, JointEnvCreator):
            return repr(env_specifier), env_specifier
        return Algorithm._get_env_id_and_creator(env_specifier, config)

    @override(PPO)
    def setup(self, config: AlgorithmConfig) -> None:
        self._env_errors = EnvErrorBoard(self.logdir)
        self._env_errors.clear()  # a restarted trial reuses its log directory
        config = self._record_provenance(config)
        with self._env_errors.watched():
            super().setup(config)
        check_evaluation_team(self.config, self.env_runner_group, self.eval_env_runner_group)
        self._sampler = Sampler(self.env_runner_group, self.config)
        if self.config.initial_policy is not None:
            # RLlib has synchronized weights only with the env runners that sample first.
            for runners in filter(None, (self.env_runner_group, self.eval_env_runner_group)):
                runners.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def _record_provenance(self, config: JointPPOConfig) -> JointPPOConfig:
        """Record the config in the trial's folder and return it, with a drawn seed if none was given."""
        file = ProvenanceFile.of(self)
        if config.seed is None:
            config = config.copy(copy_frozen=False)
            config.seed = file.seed() or drawn_seed()  # a resumed trial keeps its seed
            config.freeze()
            self.config = config
        env = repr(config.env) if isinstance(config.env, JointEnvCreator) else config.env
        entry = find_entry(env)
        values = config.to_dict() | {"env": env}
        needs = entry.suite.requires if entry is not None else ()
        file.write(provenance(type(self).__name__, values, self.get_default_config().to_dict(), needs))
        return config

    @override(PPO)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Checkpoints are restored from these arguments, possibly on a machine without the initial policy.
        (config, *others), kwargs = super().get_ctor_args_and_kwargs()
        return ({**config, "initial_policy": None}, *others), kwargs

    @override(PPO)
    def training_step(self) -> None:
        """Run one PPO iteration; with `sample_while_learning`, collect the next batch during the update."""
        with self._env_errors.watched():
            with self._timed(ENV_RUNNER_SAMPLING_TIMER, "sampling"):
                samples, reports = self._take_batch()
            if not samples:
                return
            self.metrics.aggregate(reports, key=ENV_RUNNER_RESULTS)
            with self._sampler.prefetch() if self.config.sample_while_learning else nullcontext():
                self._learn(samples)
            with self._timed(SYNCH_WORKER_WEIGHTS_TIMER, "sync"):
                self.env_runner_group.sync_weights(
                    from_worker_or_learner_group=self.learner_group, policies=[DEFAULT_MODULE_ID], inference_only=True
                )

    def _take_batch(self) -> tuple[Samples, Reports]:
        """Take a batch; while all env runners are being restarted, wait for one up to `sample_timeout_s`."""
        give_up = time.monotonic() + self.config.sample_timeout_s
        samples, reports = self._sampler.take()
        if not samples and not self.env_runner_group.num_healthy_remote_workers():
            logger.warning("All env runners have failed; waiting for a restarted one.")
        while not samples and self.config.restart_failed_env_runners and time.monotonic() < give_up:
            self._env_errors.raise_posted()  # a restarted env runner would fail again
            time.sleep(0.2)
            if self.restore_env_runners(self.env_runner_group):
                samples, reports = self._sampler.take()
        return samples, reports

    @contextmanager
    def _timed(self, timer: str, part: str) -> Iterator[None]:
        """Log the block's duration to RLlib's timer, a moving average, and as seconds of this iteration."""
        start = time.perf_counter()
        with self.metrics.log_time((TIMERS, timer)):
            yield
        self.metrics.log_value(("seconds", part), time.perf_counter() - start, reduce="sum")

    def _learn(self, samples: list[Any]) -> None:
        check_that_all_can_learn(self.learner_group)
        trained = (LEARNER_RESULTS, ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME)
        timesteps = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)),
            NUM_MODULE_STEPS_TRAINED_LIFETIME: self.metrics.peek(trained, default=0),
        }
        with self._timed(LEARNER_UPDATE_TIMER, "learning"):
            results = self.learner_group.update(
                training_data=training_data(samples, self.config),
                timesteps=timesteps,
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    @override(PPO)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        with self._env_errors.watched():
            return super().evaluate(parallel_train_future)

    @override(PPO)
    def cleanup(self) -> None:
        self._sampler.close()
        super().cleanup()
        self._env_errors.clear()


JointPPOConfig.default_algorithm = JointPPO
reserve_names(JointPPOConfig())
