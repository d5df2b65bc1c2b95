"""The choice of an operation's implementation: the fastest that the device and the installation allow.

An operation lists its backends, fastest first. ``"auto"`` takes the first that can run where the tensors are; a backend
asked for by name is taken or refused with a remedy. Every choice is logged once, with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce, wraps
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
    """One implementation.

    Attributes:
        name: What users call it.
        load: Imports it and returns the function; called when the backend is first chosen.
        obstacle: Why it cannot run on a device with a floating-point type and what would help, or None if it can.
        remark: What the log says about it.
        is_slow: Whether a faster one would be worth installing; the log then warns.
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    obstacle: Obstacle
    remark: str
    is_slow: bool = False


class Operation:
    """An operation and its backends, fastest first.

    ``elsewhere`` names backends that the operation's sequence form has and this one lacks, as libraries for whole
    sequences often lack single steps: where they are asked for, "auto" serves.
    """

    def __init__(self, name: str, backends: Sequence[Backend], elsewhere: Sequence[str] = ()) -> None:
        self.name = name
        self.backends = {backend.name: backend for backend in backends}
        self.elsewhere = frozenset(elsewhere)
        _OPERATIONS.append(self)
        self._chosen: dict[tuple[str, str, torch.dtype], tuple[Backend, Callable[..., Any]]] = {}

    def choose(self, backend: str, like: Tensor) -> Callable[..., Any]:
        """The function that runs ``backend`` (a name, or "auto") on tensors like ``like``.

        Raises:
            ValueError: No backend has this name, or it cannot run there; the message says what to do.
        """
        return self._choose(backend, like)[1]

    def name_of(self, backend: str, like: Tensor) -> str:
        """The name of the backend that :meth:`choose` takes; the same errors."""
        return self._choose(backend, like)[0].name

    def _choose(self, backend: str, like: Tensor) -> tuple[Backend, Callable[..., Any]]:
        if is_exporting():
            reference = self.backends["reference"]
            return reference, reference.load()
        backend = AUTO if backend in self.elsewhere else backend
        key = backend, like.device.type, like.dtype
        if key not in self._chosen:
            self._chosen[key] = self._load(backend, like.device, like.dtype)
        return self._chosen[key]

    def leave_out_of_graphs(self) -> None:
        """As :func:`leave_kernels_out_of_graphs`, for this operation."""
        if not hasattr(self._load, "_torchdynamo_disable"):
            self._chosen.clear()
            self._load = torch.compiler.disable(partial(_loaded_apart, self._load))  # type: ignore[method-assign]

    def available(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
        """Names of the backends that run here, fastest first."""
        return [b.name for b in self.backends.values() if b.obstacle(torch.device(device), dtype) is None]

    def _load(self, name: str, device: torch.device, dtype: torch.dtype) -> tuple[Backend, Callable[..., Any]]:
        if name != AUTO:
            check_backend(name, [self])
            backend = self.backends[name]
            if (obstacle := backend.obstacle(device, dtype)) is not None:
                raise ValueError(
                    f"backend={name!r} of {self.name} cannot run here: {obstacle}. Or write backend='auto', which "
                    f"takes the fastest that can ({', '.join(self.available(device, dtype))})."
                )
            logger.info("%s on %s runs on backend %r, as asked for", self.name, device.type, name)
            return backend, backend.load()
        passed_over: list[str] = []
        for backend in self.backends.values():
            why_not = backend.obstacle(device, dtype)
            if why_not is None:
                try:
                    function = backend.load()
                except Exception as error:  # a library that is there and broken is as good as absent
                    why_not = f"it cannot be loaded ({type(error).__name__}: {error})"
            if why_not is None:
                reason = "; ".join([backend.remark, *passed_over])
                level = logging.WARNING if backend.is_slow else logging.INFO
                logger.log(level, "%s on %s runs on backend %r: %s", self.name, device.type, backend.name, reason)
                return backend, function
            passed_over.append(f"{backend.name} is not used: {why_not}")
        raise ValueError(f"no backend of {self.name} can run here: {'; '.join(passed_over)}.")


_OPERATIONS: list[Operation] = []


def leave_kernels_out_of_graphs() -> None:
    """Lets torch.compile go around all kernels that it cannot look into; call it before it traces.

    It is not done for everyone because it imports the compiler, which takes seconds.
    """
    for operation in _OPERATIONS:
        operation.leave_out_of_graphs()


def is_exporting() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace is recording, which sees plain torch only.

    torch.compile is not among them: its graphs go around kernels, see :func:`leave_kernels_out_of_graphs`.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def check_backend(name: str, operations: Sequence[Operation]) -> None:
    """Raises a ValueError unless ``name`` is "auto" or a backend of each of the operations."""
    for operation in operations:
        if name != AUTO and name not in operation.backends and name not in operation.elsewhere:
            raise ValueError(
                f"backend={name!r} is no backend of {operation.name}.{did_you_mean(str(name), operation.backends)} "
                f"It has {', '.join([AUTO, *operation.backends])}."
            )


def nothing_in_the_way(device: torch.device, dtype: torch.dtype) -> str | None:
    """The obstacle of a backend that runs everywhere."""
    return None


def cuda_library_obstacle(library: str, packages: str) -> Obstacle:
    """The obstacle of a backend that needs a CUDA device and an importable ``library``."""

    def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cuda":
            return f"its kernels are for CUDA, and the tensors are on {device.type}"
        if dtype == torch.float64:
            return "its kernels are for float32 and below, not float64"
        return None if find_spec(library) else f"{library} is not installed; `pip install {packages}`"

    return obstacle


def _loaded_apart(
    load: Callable[..., tuple[Backend, Callable[..., Any]]], *args: Any
) -> tuple[Backend, Callable[..., Any]]:
    backend, function = load(*args)
    return backend, function if backend.name == "reference" else torch.compiler.disable(function)


def check_shapes(given: str, like: Tensor, **expected: tuple[Tensor | None, Sequence[int]]) -> None:
    """Raises a ValueError for the first tensor of another shape: compiled kernels do not look where they read."""
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != torch.Size(shape):
            raise ValueError(
                f"{name} must have shape {tuple(shape)} with {given} {tuple(like.shape)}, not {tuple(tensor.shape)}"
            )


def in_one_dtype(*tensors: Tensor | None, at_least: torch.dtype | None = None) -> Any:
    """The tensors in the widest of their types: under autocast some come in half precision, and parameters do not."""
    dtypes = {x.dtype for x in tensors if x is not None} | ({at_least} if at_least else set())
    if len(dtypes) == 1:
        return tensors
    widest = reduce(torch.promote_types, dtypes)
    return tuple(None if x is None else x.to(widest) for x in tensors)


def without_gradients(x: Tensor) -> Tensor:
    """``x``, which goes where no gradients come from.

    Raises:
        RuntimeError: It is part of a graph for gradients, which would be lost silently.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "a single step is for deciding, and no gradients flow through it. For gradients evaluate whole sequences "
            "(a mixer's forward, a network's `evaluate`); to decide, step under `torch.no_grad()`."
        )
    return x.detach() if x.requires_grad else x


def single_step(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates a step of a recurrence that updates its state in place: no gradients, and an error rather than silence.

    It raises a RuntimeError as :func:`without_gradients` does.
    """

    @wraps(function)
    def step(*args: Any, **kwargs: Any) -> Tensor:
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                without_gradients(x)
        with torch.no_grad():
            return function(*args, **kwargs)

    return step


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over a sequence: at least float32."""
    return torch.promote_types(dtype, torch.float32)
