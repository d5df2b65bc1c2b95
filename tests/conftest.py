"""One small Ray instance for all tests that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")  # a second less in each of some 200 processes
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # fifty tasks in JAX take longer to compile than to play
torch.set_num_threads(1)


# Modules that take minutes begin first, so that in the end no process waits for the other.
LONGEST = (
    "test_readme",
    "test_all_tasks",
    "test_runner",
    "test_rllib_behaviours",
    "test_sampler",
    "test_env_errors",
    "test_initial_policy",
    "test_tuned_configs",
    "test_cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest modules in front; all others stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with four logical CPUs, so that small remote workers find a place on any machine."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
