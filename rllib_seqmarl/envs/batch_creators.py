"""Creators of batched simulators: classes or functions with a parameter `num_envs`."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from rllib_seqmarl.envs.batch_promises import A_BATCH, of_attributes
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.promises import Breaches, refuse

NUM_ENVS = "num_envs"  # the argument by which a batch is told how many copies it has


def makes_batches(source: Any) -> bool:
    """Whether `source` is a class of batches, or a creator with a parameter `num_envs`."""
    if isinstance(source, type):
        return issubclass(source, BatchedSimulator)
    try:
        return NUM_ENVS in signature(source).parameters
    except (TypeError, ValueError):  # not callable, or written in C
        return False


def of_size(make_batch: Callable[..., Any], num_envs: int) -> Callable[..., BatchedSimulator]:
    """A creator of batches of `num_envs` copies, with all the other arguments of `make_batch`.

    Raises:
        TypeError: `make_batch` has no parameter `num_envs`; or, when called, it makes something else than a batch.
        JointEnvError: When called: the batch has another number of copies, or its attributes are not in order.
    """
    known = signature(make_batch)
    name = str(getattr(make_batch, "__name__", make_batch))
    if not any(key == NUM_ENVS or one.kind is Parameter.VAR_KEYWORD for key, one in known.parameters.items()):
        raise TypeError(f"{name} has no parameter `{NUM_ENVS}`. Add it: a batch is told there how many copies it has.")

    def make(*arguments: Any, **options: Any) -> BatchedSimulator:
        batch = make_batch(*arguments, num_envs=num_envs, **options)
        kind = type(batch).__name__
        if not isinstance(batch, BatchedSimulator):
            raise TypeError(
                f"{name} has a parameter `{NUM_ENVS}`, as creators of a BatchedSimulator do, but it made a {kind}. "
                "Derive that from BatchedSimulator; or, if it is a single environment, give the parameter another name."
            )
        refuse(kind, A_BATCH, "", _of_new(batch, num_envs))
        return batch

    others = [parameter for key, parameter in known.parameters.items() if key != NUM_ENVS]
    make.__signature__ = known.replace(parameters=others)  # type: ignore[attr-defined]
    make.__name__ = name
    make.__doc__ = make_batch.__doc__
    return make


def _of_new(batch: BatchedSimulator, asked: int) -> Breaches:
    yield from of_attributes(batch)
    has = getattr(batch, NUM_ENVS, asked)
    if has != asked:
        yield (
            f"have as many copies as it is made with: `{NUM_ENVS}`",
            f"It was made with {NUM_ENVS}={asked}, but has {has!r}. Set `self.{NUM_ENVS}` to the argument, and make "
            "that many.",
        )
