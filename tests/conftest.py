"""Shared fixtures: one small Ray instance for all tests that need Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")  # saves a second in each of about 200 processes
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # JAX tasks take longer to compile than to run
torch.set_num_threads(1)


# Modules that take minutes run first, so that no process is left waiting at the end.
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
    """Move the longest modules to the front; the order of all others is unchanged."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray with four logical CPUs, so that small remote workers fit on any machine."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
