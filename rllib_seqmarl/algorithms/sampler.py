"""Sampling of an algorithm: a full batch from all env runners, before or during the learner's update."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

from rllib_seqmarl.learners.rollout_data import EpisodeData, RolloutData
from rllib_seqmarl.rollouts import Rollout

logger = logging.getLogger(__name__)

Samples = list[Any]  # one of each call of an env runner's `sample`
Reports = list[dict[str, Any]]  # their metrics


class Sampler:
    """Takes samples until they make a batch.

    A sample and its metrics come in one answer of an env runner, so of a runner that dies neither is counted, and the
    others make up for it.

    Args:
        runners: The env runners.
        config: The algorithm's.
    """

    def __init__(self, runners: EnvRunnerGroup, config: AlgorithmConfig) -> None:
        self._runners = runners
        self._config = config
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: Future[tuple[Samples, Reports]] | None = None

    def take(self) -> tuple[Samples, Reports]:
        """A batch: the one that was taken ahead, if there is one. Nothing, if no env runner answers."""
        if self._ahead is None:
            return self._sample()
        ahead, self._ahead = self._ahead, None
        return ahead.result()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Takes the next batch during the block, which ends when both are done."""
        self._thread = self._thread or ThreadPoolExecutor(1, "rllib_seqmarl_sampler")
        self._ahead = self._thread.submit(self._sample)
        try:
            yield
        finally:
            self._ahead.exception()  # waits; an error is raised by `take`, as if it came only then

    def close(self) -> None:
        """Waits for what is under way."""
        if self._thread is not None:
            self._thread.shutdown()

    def _sample(self) -> tuple[Samples, Reports]:
        samples: Samples = []
        reports: Reports = []
        missing = int(self._config.total_train_batch_size)
        while missing > 0:
            answers = self._round(missing if samples else None)
            if not answers:
                break
            for sample, report in answers:
                samples.append(sample)
                reports.append(report)
                missing -= int(report.get(NUM_ENV_STEPS_SAMPLED, 0))
        return samples, reports

    def _round(self, missing: int | None) -> list[tuple[Any, dict[str, Any]]]:
        """One sample of every env runner; of about `missing` steps in all, where a first round did not do."""
        group, config = self._runners, self._config
        if group.num_remote_workers() <= 0:
            return [_sample_and_report(group.local_env_runner)]
        num_timesteps = None
        if missing is not None and config.batch_mode == "truncate_episodes":
            num_timesteps = -(-missing // max(1, group.num_healthy_remote_workers()))
        answers = group.foreach_env_runner(
            partial(_sample_and_report, num_timesteps=num_timesteps),
            local_env_runner=False,
            timeout_seconds=config.sample_timeout_s,
        )
        if not answers:
            logger.warning(
                "No env runner has given a sample within sample_timeout_s=%s seconds. If the environment is slow, "
                "raise it, or lower rollout_fragment_length; runners that have died are started again.",
                config.sample_timeout_s,
            )
        return list(answers)


def _sample_and_report(env_runner: Any, num_timesteps: int | None = None) -> tuple[Any, dict[str, Any]]:
    return env_runner.sample(num_timesteps=num_timesteps), env_runner.get_metrics()


def training_data(samples: Sequence[Any], config: AlgorithmConfig) -> TrainingData:
    """The training data for a learner group: rollouts as they are, or the episodes of all samples."""
    if all(isinstance(sample, Rollout) for sample in samples):
        return RolloutData(rollouts=list(samples))
    return EpisodeData(episodes=[episode for sample in samples for episode in sample])
