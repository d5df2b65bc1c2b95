"""Creators of batched simulators: classes or functions with a parameter `num_envs`."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from rllib_seqmarl.envs.batch_contract import BATCH, check_attributes
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.contract import Violations, raise_violations

NUM_ENVS = "num_envs"  # the argument that sets the number of copies of a batch


def makes_batches(source: Any) -> bool:
    """Return whether `source` is a BatchedSimulator class or a creator with a parameter `num_envs`."""
    if isinstance(source, type):
        return issubclass(source, BatchedSimulator)
    try:
        return NUM_ENVS in signature(source).parameters
    except (TypeError, ValueError):  # not callable, or implemented in C
        return False


def with_num_envs(make_batch: Callable[..., Any], num_envs: int) -> Callable[..., BatchedSimulator]:
    """Return a creator of batches of `num_envs` copies, with all other parameters of `make_batch`.

    Raises:
        TypeError: `make_batch` has no parameter `num_envs`; or, when called, does not return a BatchedSimulator.
        JointEnvError: When called: the batch's number of copies or another attribute is wrong.
    """
    full_signature = signature(make_batch)
    name = str(getattr(make_batch, "__name__", make_batch))
    parameters = full_signature.parameters
    if not any(key == NUM_ENVS or one.kind is Parameter.VAR_KEYWORD for key, one in parameters.items()):
        raise TypeError(f"{name} has no parameter `{NUM_ENVS}`. Add it: it sets the number of copies of the batch.")

    def make(*arguments: Any, **options: Any) -> BatchedSimulator:
        batch = make_batch(*arguments, num_envs=num_envs, **options)
        kind = type(batch).__name__
        if not isinstance(batch, BatchedSimulator):
            raise TypeError(
                f"{name} has a parameter `{NUM_ENVS}`, as creators of a BatchedSimulator do, but it returned a {kind}. "
                "Derive that from BatchedSimulator; or, if it is a single environment, rename the parameter."
            )
        raise_violations(kind, BATCH, "", _check_new_batch(batch, num_envs))
        return batch

    others = [parameter for key, parameter in parameters.items() if key != NUM_ENVS]
    make.__signature__ = full_signature.replace(parameters=others)  # type: ignore[attr-defined]
    make.__name__ = name
    make.__doc__ = make_batch.__doc__
    return make


def _check_new_batch(batch: BatchedSimulator, requested: int) -> Violations:
    yield from check_attributes(batch)
    actual = getattr(batch, NUM_ENVS, requested)
    if actual != requested:
        yield (
            f"have the number of copies passed as `{NUM_ENVS}`",
            f"It was made with {NUM_ENVS}={requested}, but has {actual!r}. Set `self.{NUM_ENVS}` to the argument, and "
            "make that many.",
        )
