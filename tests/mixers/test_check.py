"""`check_mixer` accepts the built-in mixers and names what is wrong with broken ones, and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rllib_seqmarl import check_mixer
from rllib_seqmarl.mixers import MIXERS, CausalMixer, Mixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers import check as check_module
from rllib_seqmarl.mixers.attention import CausalSelfAttention, SelfAttention
from rllib_seqmarl.mixers.base import Bidirectional, reset_state
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy


class Decayed(CausalMixer):
    """A correct mixer: a decaying sum of the tokens so far. Subclasses break it."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(shape.embed_dim))

    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        after = self.initial_state(len(x)) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            after = {"sum": x[:, t] + 0.5 * (after if resets is None else reset_state(after, resets[:, t]))["sum"]}
            outputs.append(after["sum"] * self.scale)
        return torch.stack(outputs, dim=1), None if state is None else after

    def initial_state(self, batch_size: int) -> Any:
        return {"sum": self.scale.new_zeros(batch_size, len(self.scale))}


class NoPair(Decayed):
    def forward(self, *args: Any) -> Any:
        return super().forward(*args)[0]


class Narrow(Decayed):
    def forward(self, *args: Any) -> Any:
        y, state = super().forward(*args)
        return y[..., 1:], state


class NumberAsState(Decayed):
    def initial_state(self, batch_size: int) -> Any:
        return {**super().initial_state(batch_size), "count": 0}


class StateWithoutBatch(Decayed):
    def initial_state(self, batch_size: int) -> Any:
        return {"sum": self.scale.new_zeros(len(self.scale), batch_size).T, "more": self.scale.new_zeros(1, batch_size)}


class StateOfOnes(Decayed):
    def initial_state(self, batch_size: int) -> Any:
        return {"sum": self.scale.new_ones(batch_size, len(self.scale))}


class StateInSinglePrecision(Decayed):
    def initial_state(self, batch_size: int) -> Any:
        return {"sum": torch.zeros(batch_size, len(self.scale))}


class StateOnTheCPU(Decayed):
    def initial_state(self, batch_size: int) -> Any:
        return {"sum": torch.zeros(batch_size, len(self.scale), dtype=self.scale.dtype)}


class OtherKeys(Decayed):
    def forward(self, *args: Any) -> Any:
        y, state = super().forward(*args)
        return y, None if state is None else {**state, "last": y[:, -1]}


class SwappedAxes(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        return super().forward(x, context, state, resets)[0].mT, None


class AlwaysState(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        return super().forward(x, context, self.initial_state(len(x)) if state is None else state, resets)


class InPlace(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, after = super().forward(x, context, state, resets)
        if state is not None:
            state["sum"].copy_(after["sum"])
        return y, after


class OtherStep(Decayed):
    def step(self, x: Tensor, state: Any, context: Tensor | None = None) -> tuple[Tensor, Any]:
        y, state = super().step(x, state)
        return 1.01 * y, state


class ForgetsBetweenWindows(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, after = super().forward(x, context, state, resets)
        return y, None if state is None else self.initial_state(len(x))


class IgnoresState(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        after = None if state is None else self.initial_state(len(x))
        y, after = super().forward(x, context, after, resets)
        return y, after


class IgnoresResets(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        return super().forward(x, context, state)


class ForgetsResetAtTheStart(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        if resets is not None:
            resets = resets & (torch.arange(x.shape[1]) > 0)
        return super().forward(x, context, state, resets)


class ResetsWithoutStateOnly(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        return super().forward(x, context, state, resets if state is not None else None)


class NotCausal(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, state = super().forward(x, context, state, resets)
        return y + x.mean(1, keepdim=True), state


class MixesTheBatch(Decayed):
    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, state = super().forward(x, context, state, resets)
        return y - y.mean(0), state


class NotFinite(Decayed):
    def forward(self, x: Tensor, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, state = super().forward(x, context, state, resets)
        return y / 0.0, state


class Random(Decayed):
    def forward(self, x: Tensor, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, state = super().forward(x, context, state, resets)
        return y + torch.randn_like(y), state


class Detached(Decayed):
    def forward(self, x: Tensor, context: Any = None, state: Any = None, resets: Any = None) -> Any:
        y, state = super().forward(x, context, state, resets)
        return y, None if state is None else tree_map(torch.detach, state)


class WithoutResets(Decayed):
    def forward(self, x: Any, context: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, context)


BROKEN: dict[type, str] = {
    NoPair: "forward returned Tensor; return a pair",
    Narrow: r"y of shape \(3, 7, 7\) for x of shape \(3, 7, 8\); return y of the same shape",
    SwappedAxes: r"y of shape \(3, 8, 7\) for x of shape \(3, 7, 8\)",
    NumberAsState: "initial_state contains a int; return self.weight.new_zeros",
    StateWithoutBatch: r"initial_state contains a tensor of shape \(1, 3\) for 3 batch entries",
    StateOfOnes: "initial_state is not all zeros",
    StateInSinglePrecision: "initial_state contains torch.float32 on cpu, but parameters are torch.float64 on cpu; ret",
    StateOnTheCPU: "initial_state contains torch.float64 on cpu, but parameters are torch.float64 on meta; return self",
    OtherKeys: "forward returned a state of another structure than the given one; return the same keys",
    AlwaysState: r"returned a state without being given one; return \(y, None\)",
    InPlace: "changed the given state in place; return a new state",
    OtherStep: "steps differ from a window.*do not override step",
    ForgetsBetweenWindows: r"windows of \[3, 1, 3\] positions differ from a single window.*the state must hold all",
    IgnoresState: r"windows of \[3, 1, 3\] positions differ from a single window",
    IgnoresResets: "a reset does not have the effect of a state of zeros.*use `resets`",
    ForgetsResetAtTheStart: "a reset does not have the effect of a state of zeros.*use `resets`",
    ResetsWithoutStateOnly: "without a state, a reset does not have the effect",
    NotCausal: "an output depends on later positions",
    MixesTheBatch: "batch entries influence each other.*; mix along axis 1 only",
    NotFinite: "outputs are not finite",
    Random: "outputs are random in eval mode",
    Detached: "gradients of windows differ.*detach neither",
    WithoutResets: "forward raised TypeError.*it must run on the CPU in float64, as forward",
}


@pytest.mark.parametrize("name", MIXERS)
def test_built_in_mixers_pass(name: str) -> None:
    check_mixer(name)


def test_correct_mixers_pass_and_random_numbers_are_unaffected() -> None:
    torch.manual_seed(0)
    check_mixer(Decayed)
    check_mixer(SelfAttention)
    check_mixer(Decayed, MixerShape(embed_dim=5))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("mixer", BROKEN)
def test_broken_mixers_are_named_with_the_remedy(mixer: type) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{mixer.__name__}: .*{BROKEN[mixer]}"):
        check_mixer(mixer)
    with pytest.raises((ValueError, TypeError), match=f"channel mixer {mixer.__name__}: "):
        check_mixer(PreNormMixers(time=Decayed, channel=mixer))


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match="decoder mixer SelfAttention is not a CausalMixer; derive"):
        check_mixer(PostNormMixers(encoder=SelfAttention, decoder=SelfAttention, cross=CausalSelfAttention))
    with pytest.raises(TypeError, match="Linear is not a Mixer; derive its class from Mixer"):
        check_mixer(lambda shape: torch.nn.Linear(8, 8))
    with pytest.raises(TypeError, match="takes PostNormMixers, PreNormMixers, a name or a mixer class, not 3"):
        check_mixer(3)
    with pytest.raises(ValueError, match="no mixer is registered as 'atention'. Did you mean 'attention'"):
        check_mixer("atention")


def test_mixers_that_look_both_ways_have_no_state() -> None:
    check_mixer(lambda shape: Bidirectional(Decayed(shape)))
    with pytest.raises(ValueError, match="batch entries influence each other"):
        check_mixer(lambda shape: Bidirectional(MixesTheBatch(shape)))


def test_users_mixers_are_checked_once_when_a_network_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    original = check_module.check_mixer
    monkeypatch.setattr(check_module, "check_mixer", lambda name, shape: checked.append(name) or original(name, shape))
    monkeypatch.setattr(check_module, "_checked", set())
    monkeypatch.setitem(MIXERS, "decayed", PreNormMixers(time=Decayed, channel=Decayed))
    monkeypatch.setitem(MIXERS, "broken", PreNormMixers(time=Decayed, channel=NotCausal))

    def build(**mixers: str) -> Mixer:
        return SequencePolicy(NetworkConfig(3, ActionSpec("discrete", (2,)), embed_dim=4, **mixers)).decoder

    build()
    assert checked == []
    for _ in range(2):
        build(encoder_mixer="decayed", decoder_mixer="decayed")
    assert checked == ["decayed"]
    for part in ("encoder_mixer", "decoder_mixer"):
        with pytest.raises(ValueError, match="channel mixer NotCausal: an output depends on later positions"):
            build(**{part: "broken"})
