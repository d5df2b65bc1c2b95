"""End training with one message if any worker finds a bug in an environment, a callback or a connector.

RLlib treats every error on a remote env runner as a crash: it restarts the runner and continues, indefinitely if
necessary. That is right for simulator failures. But an environment that violates the API (`JointEnvError`,
`LayoutError`), or a callback or connector that raises an error, fails again after every restart. An env runner
therefore posts such an error in Ray's key-value store, which the algorithm reads after each training step and
evaluation.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb, walk_tb

import ray
from ray.experimental import internal_kv
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError

_NAMESPACE = "rllib_seqmarl_env_errors"


class UserCodeError(RuntimeError):
    """A callback or connector of the config raised an error on a remote env runner; gives its name and line."""


def find_env_error(error: BaseException | None) -> JointEnvError | LayoutError | None:
    """Find the environment's error in an error and its causes; None if there is none."""
    while error is not None and not isinstance(error, JointEnvError | LayoutError):
        error = error.__cause__
    return error


def find_permanent_error(error: BaseException) -> Exception | None:
    """Find an error that would recur after a restart, in an error and its causes; None if there is none."""
    env_error = find_env_error(error)
    source = next(filter(None, (_describe_user_code(frame) for frame, _ in walk_tb(error.__traceback__))), None)
    if env_error is not None or source is None:
        return env_error
    last = extract_tb(error.__traceback__)[-1]
    return UserCodeError(
        f"{source} raised {type(error).__name__}: {error} (in {last.name}, {Path(last.filename).name}, line "
        f"{last.lineno}; the traceback is in the env runner's log)."
    )


def _describe_user_code(frame: object) -> str | None:
    """Describe the callback or connector that a stack frame calls, if any."""
    code, variables = frame.f_code, frame.f_locals  # type: ignore[attr-defined]
    if code is make_callback.__code__:
        return f"The callback {variables['callback_name']!r}"
    if code is ConnectorPipelineV2.__call__.__code__ and "connector" in variables:
        return f"The connector {type(variables['connector']).__name__}"
    return None


@dataclass(frozen=True)
class EnvErrorBoard:
    """A board where one algorithm's env runners post errors that must end training.

    Attributes:
        log_dir: The algorithm's `logdir`, which RLlib passes to all of its env runners; used as the board's key.
    """

    log_dir: str

    def post(self, error: Exception) -> None:
        """Post an error, unless another one has been posted."""
        kind = UserCodeError if isinstance(error, UserCodeError) else JointEnvError
        value = pickle.dumps(kind(str(error)))
        internal_kv._internal_kv_put(self.log_dir, value, overwrite=False, namespace=_NAMESPACE)

    def clear(self) -> None:
        """Remove the posted error."""
        if ray.is_initialized():
            internal_kv._internal_kv_del(self.log_dir, namespace=_NAMESPACE)

    def raise_posted(self) -> None:
        """Raise the posted error, if any.

        Raises:
            JointEnvError: The environment's error.
            UserCodeError: The error of a callback or a connector.
        """
        posted = None
        if ray.is_initialized():
            posted = internal_kv._internal_kv_get(self.log_dir, namespace=_NAMESPACE)
        if posted is not None:
            raise pickle.loads(posted) from None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """At the end of the block, raise the posted error instead of any error that it caused."""
        try:
            yield
        finally:
            self.raise_posted()
