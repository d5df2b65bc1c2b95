"""Selection of an operation's implementation: the fastest that the device and the installation support.

An operation lists its backends, fastest first. ``"auto"`` selects the first that can run on the tensors' device; a
backend requested by name is used or rejected with a remedy. Every choice is logged once, with its reason.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.suggestions import did_you_mean

logger = logging.getLogger(__name__)

AUTO = "auto"

Obstacle = Callable[[torch.device, torch.dtype], str | None]


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Attributes:
        name: Name in `backend` options and the log.
        load: Imports it and returns the function; called when the backend is first chosen.
        obstacle: Returns why it cannot run on a device with a dtype, and the remedy, or None if it can.
        remark: Remark for the log.
        is_slow: Whether a faster one would be worth installing; if so, the log entry is a warning.
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    obstacle: Obstacle
    remark: str
    is_slow: bool = False


class Operation:
    """An operation and its backends, fastest first.

    ``auto_aliases`` are backends of related operations that this one lacks, since libraries for whole sequences often
    have no single steps. Requests for them are handled as "auto".
    """

    def __init__(self, name: str, backends: Sequence[Backend], auto_aliases: Sequence[str] = ()) -> None:
        self.name = name
        self.backends = {backend.name: backend for backend in backends}
        self.auto_aliases = frozenset(auto_aliases)
        _OPERATIONS.append(self)
        self._chosen: dict[tuple[str, str, torch.dtype], Callable[..., Any]] = {}

    def choose(self, backend: str, like: Tensor) -> Callable[..., Any]:
        """Return the function of ``backend`` (a name, or "auto") for tensors like ``like``.

        Raises:
            ValueError: No backend has this name, or it cannot run on such tensors; the message names a remedy.
        """
        if is_exporting():
            return self.reference
        backend = AUTO if backend in self.auto_aliases else backend
        key = backend, like.device.type, like.dtype
        if key not in self._chosen:
            self._chosen[key] = self._load(backend, like.device, like.dtype)
        return self._chosen[key]

    @property
    def reference(self) -> Callable[..., Any]:
        """The function of the backend "reference"."""
        return self.backends["reference"].load()

    def available(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
        """Names of the backends that can run, fastest first."""
        return [b.name for b in self.backends.values() if b.obstacle(torch.device(device), dtype) is None]

    def _load(self, name: str, device: torch.device, dtype: torch.dtype) -> Callable[..., Any]:
        if name != AUTO:
            check_backend(name, [self])
            backend = self.backends[name]
            if (obstacle := backend.obstacle(device, dtype)) is not None:
                raise ValueError(
                    f"backend={name!r} of {self.name} cannot run here: {obstacle}. Or set backend='auto' to use the "
                    f"fastest available one ({', '.join(self.available(device, dtype))})."
                )
            logger.info("%s on %s uses backend %r, as requested", self.name, device.type, name)
            return backend.load()
        skipped: list[str] = []
        for backend in self.backends.values():
            obstacle = backend.obstacle(device, dtype)
            if obstacle is None:
                try:
                    function = backend.load()
                except Exception as error:  # a broken library is treated as a missing one
                    obstacle = f"it cannot be loaded ({type(error).__name__}: {error})"
                else:
                    reason = "; ".join([backend.remark, *skipped])
                    level = logging.WARNING if backend.is_slow else logging.INFO
                    logger.log(level, "%s on %s uses backend %r: %s", self.name, device.type, backend.name, reason)
                    return function
            skipped.append(f"{backend.name} is not used: {obstacle}")
        raise ValueError(f"no backend of {self.name} can run here: {'; '.join(skipped)}.")


_OPERATIONS: list[Operation] = []


def leave_kernels_out_of_graphs() -> None:
    """Exclude all kernels that torch.compile cannot trace from its graphs; call this before tracing.

    This is opt-in because it imports the compiler, which takes seconds.
    """
    for operation in _OPERATIONS:
        if "_load" not in vars(operation):
            operation._chosen.clear()
            operation._load = torch.compiler.disable(partial(_load_untraced, operation))  # type: ignore[method-assign]


def is_exporting() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace is recording; these support plain torch only.

    torch.compile does not count: its graphs exclude kernels, see :func:`leave_kernels_out_of_graphs`.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def check_backend(name: str, operations: Sequence[Operation]) -> None:
    """Raise a ValueError unless ``name`` is "auto" or a backend of each operation."""
    for operation in operations:
        if name != AUTO and name not in operation.backends and name not in operation.auto_aliases:
            raise ValueError(
                f"backend={name!r} is not a backend of {operation.name}."
                f"{did_you_mean(str(name), operation.backends)} Choose one of {', '.join([AUTO, *operation.backends])}."
            )


def reference_backend(function: Callable[..., Any], remark: str, is_slow: bool = False) -> Backend:
    """The backend "reference", a function in plain torch."""
    return Backend("reference", lambda: function, lambda device, dtype: None, remark, is_slow)


def cuda_backend(name: str, load: Callable[[], Callable[..., Any]], library: str, packages: str) -> Backend:
    """A backend that needs a CUDA device and an importable ``library``, which ``pip install packages`` installs."""

    def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cuda":
            return f"its kernels are for CUDA, but the tensors are on {device.type}"
        if dtype == torch.float64:
            return "its kernels support float32 and narrower types, not float64"
        return None if find_spec(library) else f"{library} is not installed; `pip install {packages}`"

    return Backend(name, load, obstacle, f"the fused CUDA kernels of {library}")


def _load_untraced(operation: Operation, *args: Any) -> Callable[..., Any]:
    function = Operation._load(operation, *args)
    return function if function is operation.reference else torch.compiler.disable(function)


def check_shapes(like_name: str, like: Tensor, **expected: tuple[Tensor | None, Sequence[int]]) -> None:
    """Raise a ValueError for the first tensor of the wrong shape: compiled kernels do not check bounds."""
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != torch.Size(shape):
            raise ValueError(
                f"{name} must have shape {tuple(shape)} with {like_name} {tuple(like.shape)}, not {tuple(tensor.shape)}"
            )


def promote_dtypes(*tensors: Tensor | None, at_least: torch.dtype | None = None) -> Any:
    """Convert tensors to the widest of their dtypes: under autocast, some inputs are in half precision."""
    dtypes = {x.dtype for x in tensors if x is not None} | ({at_least} if at_least else set())
    if len(dtypes) == 1:
        return tensors
    widest = reduce(torch.promote_types, dtypes)
    return tuple(None if x is None else x.to(widest) for x in tensors)


def first_state(
    initial_state: Tensor | None, return_last_state: bool, shape: Sequence[int], like: Tensor
) -> Tensor | None:
    """The state that a recurrence starts from; None for zeros if the last state is not asked for either."""
    dtype = accumulation_dtype(like.dtype)
    if initial_state is not None:
        return initial_state.to(dtype)
    return like.new_zeros(shape, dtype=dtype) if return_last_state else None


def reset_state(state: Tensor, resets: Tensor | None, t: int) -> Tensor:
    """Zero the state (batch, ...) of the sequences that are reset before position t of ``resets`` (batch, length)."""
    if resets is None:
        return state
    return state.masked_fill(resets[:, t].view(-1, *[1] * (state.dim() - 1)), 0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums over a sequence: at least float32."""
    return torch.promote_types(dtype, torch.float32)
