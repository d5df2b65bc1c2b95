"""Collection of full batches from all env runners, before or during the learner's update."""

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

Samples = list[Any]  # one per `sample` call of an env runner
Reports = list[dict[str, Any]]  # the metrics of each sample


class Sampler:
    """Collects samples until they make up a batch.

    An env runner returns a sample together with its metrics, so neither counts if the runner dies, and the other
    runners fill the gap.

    Args:
        runners: The env runners.
        config: The algorithm's config.
    """

    def __init__(self, runners: EnvRunnerGroup, config: AlgorithmConfig) -> None:
        self._runners = runners
        self._config = config
        self._executor: ThreadPoolExecutor | None = None
        self._prefetched: Future[tuple[Samples, Reports]] | None = None

    def take(self) -> tuple[Samples, Reports]:
        """Return a batch, prefetched if there is one; empty if no env runner responds."""
        if self._prefetched is None:
            return self._sample()
        prefetched, self._prefetched = self._prefetched, None
        return prefetched.result()

    @contextmanager
    def prefetch(self) -> Iterator[None]:
        """Collect the next batch while the block runs, and wait for it on exit."""
        self._executor = self._executor or ThreadPoolExecutor(1, "rllib_seqmarl_sampler")
        self._prefetched = self._executor.submit(self._sample)
        try:
            yield
        finally:
            self._prefetched.exception()  # waits; `take` raises the error, if any

    def close(self) -> None:
        """Wait for a batch being collected."""
        if self._executor is not None:
            self._executor.shutdown()

    def _sample(self) -> tuple[Samples, Reports]:
        samples: Samples = []
        reports: Reports = []
        missing = int(self._config.total_train_batch_size)
        while missing > 0:
            results = self._sample_once(missing if samples else None)
            if not results:
                break
            for sample, report in results:
                samples.append(sample)
                reports.append(report)
                missing -= int(report.get(NUM_ENV_STEPS_SAMPLED, 0))
        return samples, reports

    def _sample_once(self, missing: int | None) -> list[tuple[Any, dict[str, Any]]]:
        """Collect one sample per env runner, with about `missing` steps in total if given."""
        group, config = self._runners, self._config
        if group.num_remote_workers() <= 0:
            return [_sample_and_report(group.local_env_runner)]
        num_timesteps = None
        if missing is not None and config.batch_mode == "truncate_episodes":
            num_timesteps = -(-missing // max(1, group.num_healthy_remote_workers()))
        results = group.foreach_env_runner(
            partial(_sample_and_report, num_timesteps=num_timesteps),
            local_env_runner=False,
            timeout_seconds=config.sample_timeout_s,
        )
        if not results and group.num_healthy_remote_workers():
            logger.warning(
                "No env runner returned a sample within sample_timeout_s=%s seconds. If the environment is slow, "
                "increase the timeout or lower rollout_fragment_length.",
                config.sample_timeout_s,
            )
        return list(results)


def _sample_and_report(env_runner: Any, num_timesteps: int | None = None) -> tuple[Any, dict[str, Any]]:
    return env_runner.sample(num_timesteps=num_timesteps), env_runner.get_metrics()


def training_data(samples: Sequence[Any], config: AlgorithmConfig) -> TrainingData:
    """Return training data for a learner group: rollouts unchanged, or the episodes of all samples."""
    if all(isinstance(sample, Rollout) for sample in samples):
        return RolloutData(rollouts=list(samples))
    return EpisodeData(episodes=[episode for sample in samples for episode in sample])
