"""A Ray instance for the time of one command: quiet, and gone afterwards."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.ray_messages import shorten_ray_messages

logger = logging.getLogger(__name__)

# Read by Ray when it starts; a user's own settings stay.
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone in workers without GPUs
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals end a run by `stopping`, after a checkpoint
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the first results may come before the first episode's end
}


@dataclass(frozen=True)
class RaySession:
    """The Ray instance of a command.

    Attributes:
        address: A running cluster's address, or "auto"; None to start Ray here.
        num_cpus: How many CPUs a Ray started here counts; None for the machine's.
        num_gpus: Likewise for GPUs.
        verbose: 0 for warnings from workers kept in Ray's log files, 1 to see them, 2 to see all.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbose: int = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Starts Ray or connects to it, and undoes that at the end; a Ray of this process is used as it is.

        Raises:
            ExperimentError: There is no cluster at the address.
        """
        import ray

        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # Tune's newer output engine prints a banner even where it is told to be silent.
        os.environ["RAY_AIR_NEW_OUTPUT"] = "1" if self.verbose else "0"
        self.quieten()
        if ray.is_initialized():
            yield
            return
        here: dict[str, Any] = {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "include_dashboard": False,
        }
        on_terminate = signal.getsignal(signal.SIGTERM)
        logger.info("Starting Ray's processes ...", extra={"under_way": "starting Ray's processes"})
        try:
            ray.init(
                address=self.address,
                logging_level=self._level,
                log_to_driver=self.verbose > 0,
                **({} if self.address else here),
            )
        except SystemExit:  # Ray's own answer to SIGTERM while it starts
            raise SystemExit(128 + signal.SIGTERM) from None
        except ConnectionError as error:
            raise ExperimentError(f"--ray-address {self.address}: there is no Ray cluster: {error}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # in whose place Ray has put one that exits at once
        try:
            yield
        finally:
            ray.shutdown()

    @property
    def _level(self) -> int:
        return (logging.ERROR, logging.WARNING, logging.INFO)[min(self.verbose, 2)]

    def quieten(self) -> None:
        """Keeps from people what Ray and gymnasium say beyond `verbose`."""
        import gymnasium

        # Failed trials are told once, by us; Tune would tell each with its whole traceback.
        logging.getLogger("ray.tune").setLevel(self._level if self.verbose else logging.CRITICAL)
        logging.getLogger("ray.rllib").setLevel(self._level)
        if self.verbose < 2:
            shorten_ray_messages()
        if not self.verbose:
            gymnasium.logger.min_level = gymnasium.logger.ERROR

    def capacity(self) -> dict[str, float] | None:
        """The CPUs and GPUs there will be; None where only a running cluster could tell."""
        import ray
        import torch

        if ray.is_initialized():
            total = ray.cluster_resources()
            return {"CPU": total.get("CPU", 0), "GPU": total.get("GPU", 0)}
        if self.address:
            return None
        return {
            "CPU": self.num_cpus if self.num_cpus is not None else os.cpu_count() or 1,
            "GPU": self.num_gpus if self.num_gpus is not None else torch.cuda.device_count(),
        }
