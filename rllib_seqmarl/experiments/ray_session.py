"""A quiet Ray instance for the duration of a command."""

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

# Read by Ray when it starts; variables set by the user take precedence.
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone in workers without GPUs
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `stopping` handles signals and saves checkpoints first
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the first results may precede the end of the first episode
}


@dataclass(frozen=True)
class RaySession:
    """The Ray instance of a command.

    Attributes:
        address: The address of a running cluster, or "auto"; None for that in the variable
            RAY_ADDRESS or, without one, to start Ray locally.
        num_cpus: The number of CPUs of a locally started Ray; None for the machine's.
        num_gpus: The number of GPUs of a locally started Ray; None for the machine's.
        verbose: 0 to keep the workers' output in Ray's log files, 1 to show warnings, 2 to show everything.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbose: int = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start Ray or connect to a cluster, and shut it down on exit; a Ray already initialized is left running.

        Raises:
            ExperimentError: There is no cluster at the address.
        """
        import ray

        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # Tune's newer output engine prints a banner even if it is silenced.
        os.environ["RAY_AIR_NEW_OUTPUT"] = "1" if self.verbose else "0"
        self.quieten()
        if ray.is_initialized():
            yield
            return
        cluster = self._cluster
        local: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "include_dashboard": False}
        on_terminate = signal.getsignal(signal.SIGTERM)
        logger.info("Starting Ray's processes ...", extra={"under_way": "starting Ray's processes"})
        try:
            ray.init(
                address=cluster, logging_level=self._level, log_to_driver=self.verbose > 0, **({} if cluster else local)
            )
        except SystemExit:  # how Ray reacts to SIGTERM during startup
            raise SystemExit(128 + signal.SIGTERM) from None
        except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
            if not cluster:
                raise
            given = f"--ray-address {cluster}" if self.address else f"environment variable RAY_ADDRESS={cluster}"
            reason = " ".join(str(error).split())
            raise ExperimentError(f"{given}: there is no Ray cluster: {reason}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # undo Ray's handler, which exits at once
        try:
            yield
        finally:
            ray.shutdown()

    @property
    def _cluster(self) -> str | None:
        """The address of the cluster to connect to, from RAY_ADDRESS by default, as in jobs; None to start Ray."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address in ("", "local") else address

    @property
    def _level(self) -> int:
        return (logging.ERROR, logging.WARNING, logging.INFO)[min(self.verbose, 2)]

    def quieten(self) -> None:
        """Silence the output of Ray and gymnasium beyond `verbose`."""
        import gymnasium

        # We report failed trials ourselves; Tune would log each with its full traceback.
        logging.getLogger("ray.tune").setLevel(self._level if self.verbose else logging.CRITICAL)
        logging.getLogger("ray.rllib").setLevel(self._level)
        if self.verbose < 2:
            shorten_ray_messages()
        if not self.verbose:
            gymnasium.logger.min_level = gymnasium.logger.ERROR

    def capacity(self) -> dict[str, float] | None:
        """Return the available CPUs and GPUs; None if only a running cluster knows."""
        import ray
        import torch

        if ray.is_initialized():
            total = ray.cluster_resources()
            return {"CPU": total.get("CPU", 0), "GPU": total.get("GPU", 0)}
        if self._cluster:
            return None
        return {
            "CPU": self.num_cpus if self.num_cpus is not None else os.cpu_count() or 1,
            "GPU": self.num_gpus if self.num_gpus is not None else torch.cuda.device_count(),
        }
