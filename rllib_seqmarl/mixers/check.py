"""Checks whether a mixer keeps the contract of ``mixers.base``, with random tokens in float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure

from rllib_seqmarl.mixers import MIXERS, CausalMixer, Mixer, Mixers, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.base import State, reset_state
from rllib_seqmarl.ops.backends import AUTO
from rllib_seqmarl.suggestions import did_you_mean

BATCH, LENGTH = 3, 7  # not the default width, so that exchanged axes are noticed
ALL = slice(None)
# Wide enough for mixers that compute in float32, and far below the effect of a mistake.
TOLERANCE = 1e-5
EXAMPLE_STATE = "return self.weight.new_zeros(batch_size, ...), or a dict, list or tuple of such tensors"

_checked: set[tuple[Any, ...]] = set()


def check_mixer(mixers: Mixers | type[Mixer] | str, shape: MixerShape | None = None) -> None:
    """Check outputs, states, causality, and that windows, steps and resets give the same results.

    Args:
        mixers: An entry of the registry, the name of one, or a single mixer class.
        shape: The shape to check; a small one by default.

    Raises:
        TypeError: A mixer has the wrong type, or returns something of the wrong type.
        ValueError: A mixer breaks the contract. Both messages name the mixer, what is wrong and the remedy.
    """
    if isinstance(mixers, str):
        if mixers not in MIXERS:
            raise ValueError(f"check_mixer: no mixer is registered as {mixers!r}.{did_you_mean(mixers, MIXERS)}")
        mixers = MIXERS[mixers]
    options = mixers.options() if isinstance(mixers, Mixers) else None
    shape = replace(shape or MixerShape(embed_dim=8, n_head=2, options=options), backend=AUTO)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        x, context = torch.randn(2, BATCH, LENGTH, shape.embed_dim, dtype=torch.float64)
        for role, factory in _parts(mixers).items():
            mixer = factory(shape)
            name = f"{role} mixer {type(mixer).__name__}".strip()
            needed = Mixer if role in ("", "encoder") else CausalMixer
            if not isinstance(mixer, needed):
                raise TypeError(f"{name} is not a {needed.__name__}; derive its class from {needed.__name__}.")
            for parameter in filter(torch.is_floating_point, mixer.double().eval().parameters()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)  # initial weights are often zero
            _Check(name, mixer, x, context if role in ("", "cross") else None).run()


def check_users_mixer(name: str, shape: MixerShape) -> None:
    """Check a registered mixer that is not built in, once per process; raises as :func:`check_mixer`."""
    key = tuple(_parts(MIXERS[name]).values())
    if name in MIXERS.of_users and key not in _checked:
        check_mixer(name, shape)
        _checked.add(key)


def _parts(mixers: Mixers | type[Mixer]) -> dict[str, Callable[[MixerShape], Any]]:
    match mixers:
        case PostNormMixers():
            return {"encoder": mixers.encoder, "decoder": mixers.decoder, "cross": mixers.cross}
        case PreNormMixers():
            return {"time": mixers.time, "channel": mixers.channel}
    if callable(mixers) and not isinstance(mixers, torch.nn.Module):
        return {"": mixers}
    raise TypeError(f"check_mixer takes PostNormMixers, PreNormMixers, a name or a mixer class, not {mixers!r}.")


@dataclass(frozen=True)
class _Check:
    name: str
    mixer: Any
    x: Tensor
    context: Tensor | None

    def run(self) -> None:
        y, state = self.call(*self.inputs(ALL))
        if not y.isfinite().all():
            raise self.error("outputs are not finite", "check divisions, exponentials and logarithms")
        if not torch.equal(self.call(*self.inputs(ALL))[0], y):
            raise self.error("outputs are random in eval mode", "draw random numbers in training only")
        if state is not None:
            raise self.error("returned a state without being given one", "return (y, None) if the state is None")
        others = self.call(*self.inputs(slice(1, None)))[0]
        self.compare(others, y[1:], "batch entries influence each other", "mix along axis 1 only")
        if not isinstance(self.mixer, CausalMixer):
            return
        earlier = self.call(*self.inputs(ALL, slice(4)))[0]
        self.compare(earlier, y[:, :4], "an output depends on later positions", "use positions 0 to t only")
        zeros = self.initial_state()
        if any(leaf.any() for leaf in tree_leaves(zeros)):
            raise self.error("initial_state is not all zeros", "store values such that zeros are the initial state")
        remedy = "the state must hold all that later outputs need; initial_state must equal the start without a state"
        one, state = self.call(self.x, self.context, zeros)
        self.compare(one, y, "a window from initial_state differs from one without a state", remedy)
        self.compare(self.cut(zeros), y, "windows of [3, 1, 3] positions differ from a single window", remedy)
        self.compare(self.steps(zeros), y, "steps differ from a window", f"{remedy}; or do not override step")
        whole, parts = self.gradient(None), self.gradient(zeros)
        self.compare(parts, whole, "gradients of windows differ", "detach neither outputs nor the state")
        # A reset is a multiplication of the state by zero, also at the first position.
        resets = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        resets[0, 0] = resets[0, 3] = resets[1, 4:6] = True
        what = "a reset does not have the effect of a state of zeros before that position"
        remedy = "use `resets` (B, L), and let zeros be the initial state in every tensor of the state"
        expected, from_zeros = self.steps(state, resets), self.steps(zeros, resets)
        self.compare(self.call(self.x, self.context, state, resets)[0], expected, what, remedy)
        self.compare(self.cut(state, resets), expected, f"{what}, in windows of [3, 1, 3] positions", remedy)
        without = self.call(self.x, self.context, None, resets)[0]
        self.compare(without, from_zeros, f"without a state, {what}", remedy)
        self.mixer.to("meta")  # last, since it loses the weights
        self.initial_state()

    def initial_state(self) -> State:
        """The initial state, which must be on the device of the parameters, and real numbers of their dtype."""
        state = self.mixer.initial_state(BATCH)
        for leaf in self.leaves(state, "initial_state"):
            for like in filter(torch.is_floating_point, self.mixer.parameters()):
                if leaf.device != like.device or (leaf.is_floating_point() and leaf.dtype != like.dtype):
                    where, there = (f"{x.dtype} on {x.device}" for x in (leaf, like))
                    raise self.error(f"initial_state contains {where}, but parameters are {there}", EXAMPLE_STATE)
        return state

    def inputs(self, *at: slice | int) -> tuple[Tensor, Tensor | None]:
        """x and the context at these batch entries and positions."""
        return self.x[at], None if self.context is None else self.context[at]

    def cut(self, state: State, resets: Tensor | None = None) -> Tensor:
        """The outputs of windows of 3, 1 and 3 positions, one after another."""
        outputs = []
        for part in (slice(*bounds) for bounds in pairwise((0, 3, 4, LENGTH))):
            y, state = self.call(*self.inputs(ALL, part), state, None if resets is None else resets[:, part])
            outputs.append(y)
        return torch.cat(outputs, dim=1)

    @torch.enable_grad()
    def gradient(self, state: State) -> Tensor:
        """The gradient of a weighted sum of the outputs: of one window, or of several from this state."""
        check = replace(self, x=self.x.clone().requires_grad_())
        y = check.call(check.x, self.context)[0] if state is None else check.cut(state)
        if not y.requires_grad:
            raise self.error("outputs have no gradient", "do not detach them")
        return torch.autograd.grad((y * torch.arange(1.0, LENGTH + 1)[:, None]).sum(), check.x)[0]

    def steps(self, state: State, resets: Tensor | None = None) -> Tensor:
        outputs = []
        for t in range(LENGTH):
            state = state if resets is None else reset_state(state, resets[:, t])
            y, state = self.call(*self.inputs(ALL, t), state)
            outputs.append(y)
        return torch.stack(outputs, dim=1)

    def call(
        self, x: Tensor, context: Tensor | None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run a window, or a step if x is (B, d); check what it returns and that the given state is unchanged."""
        has_state, function = state is not None, "step" if x.dim() == 2 else "forward"
        before = [leaf.clone() for leaf in self.leaves(state, "the state")] if has_state else []
        try:
            if function == "step":
                result = self.mixer.step(x, state, context)
            elif has_state or resets is not None:
                result = self.mixer(x, context, state, resets)
            else:
                result = self.mixer(x, context)
        except Exception as error:
            remedy = (
                "it must run on the CPU in float64, as forward(x, context, state, resets) and step(x, state, context)"
            )
            raise self.error(f"{function} raised {error!r}", remedy) from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise self.error(f"{function} returned {type(result).__name__}", "return a pair (y, state)", TypeError)
        y, new_state = result
        if not isinstance(y, Tensor):
            raise self.error(f"{function} returned a {type(y).__name__} as y", "return a tensor", TypeError)
        if y.shape != x.shape:
            shapes = f"y of shape {tuple(y.shape)} for x of shape {tuple(x.shape)}"
            raise self.error(f"{function} returned {shapes}", "return y of the same shape")
        if has_state:
            if not all(map(torch.equal, self.leaves(state, "the state"), before)):
                raise self.error(f"{function} changed the given state in place", "return a new state")
            self.leaves(new_state, f"the state returned by {function}")
            if tree_structure(new_state) != tree_structure(state):
                what = f"{function} returned a state of another structure than the given one"
                raise self.error(what, "return the same keys in the same order, and as many list entries")
        return y, new_state

    def leaves(self, state: State, what: str) -> list[Tensor]:
        leaves = tree_leaves(state)
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise self.error(f"{what} contains a {type(leaf).__name__}", EXAMPLE_STATE, TypeError)
            if leaf.dim() == 0 or len(leaf) != BATCH:
                shape = tuple(leaf.shape)
                raise self.error(f"{what} contains a tensor of shape {shape} for {BATCH} batch entries", EXAMPLE_STATE)
        return leaves

    def compare(self, actual: Tensor, expected: Tensor, what: str, remedy: str) -> None:
        actual, expected = actual.double(), expected.double()
        scale = expected.abs().max().clamp(min=1.0).item()
        if not torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * scale):
            raise self.error(f"{what} (by up to {(actual - expected).abs().max():.2g})", remedy)

    def error(self, what: str, remedy: str, kind: type[Exception] = ValueError) -> Exception:
        return kind(f"{self.name}: {what}; {remedy}.")
