"""User-registered mixers can be used by name, also in other processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from rllib_seqmarl import MATConfig, check_mixer, register_mixer
from rllib_seqmarl.mixers import MIXERS, CausalMixer, MixerShape, PreNormMixers
from rllib_seqmarl.mixers.base import reset_state
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy
from rllib_seqmarl.policies.export import ExportError, load_network, save_network

ENV = "coordination/distinct_choice"


class Sum(CausalMixer):
    """Adds up the agents' tokens."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(shape.embed_dim))

    def forward(self, x: Any, context: Any = None, state: Any = None, resets: Any = None) -> tuple[Any, Any]:
        after = self.initial_state(len(x)) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            after = (after if resets is None else reset_state(after, resets[:, t])) + x[:, t]
            outputs.append(after * self.scale)
        return torch.stack(outputs, dim=1), None if state is None else after

    def initial_state(self, batch_size: int) -> torch.Tensor:
        return self.scale.new_zeros(batch_size, len(self.scale))


SUM = PreNormMixers(time=Sum, channel=Sum)


@pytest.fixture(autouse=True)
def restore_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sum", "sum of another module", "my-mixer"):
        monkeypatch.setitem(MIXERS, name, SUM)
        del MIXERS[name]


def small() -> MATConfig:
    return MATConfig().environment(ENV).network(encoder_mixer="sum", decoder_mixer="sum", embed_dim=8)


def test_registered_mixer_can_be_selected() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder_mixer 'sum'.*Known mixers: .*register_mixer\('sum', ...\)"):
        small().validate()
    register_mixer("sum", SUM)
    small().validate()
    register_mixer("sum", replace(SUM))  # as when rerunning a notebook cell


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mixers.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text.partition("example, whose state")[2], re.DOTALL):
        exec(block, names)
    check_mixer(names["Sum"])
    names["config"].environment(ENV).validate()


def scaled(by: int) -> Callable[[MixerShape], Sum]:
    return lambda shape: Sum(replace(shape, n_head=by))


FACTORIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "lambda": (lambda: lambda shape: Sum(shape), lambda: lambda shape: Sum(replace(shape, layer=1))),
    "value in a lambda": (lambda: scaled(2), lambda: scaled(3)),
    "default of a lambda": (lambda: lambda shape, by=2: Sum(shape), lambda: lambda shape, by=3: Sum(shape)),
    "function of a partial": (lambda: partial(Sum), lambda: partial(MIXERS["rwkv4"].time)),
    "argument of a partial": (lambda: partial(scaled, 2), lambda: partial(scaled, 3)),
    "keyword of a partial": (lambda: partial(scaled, by=2), lambda: partial(scaled, by=3)),
}


@pytest.mark.parametrize("case", FACTORIES)
def test_lambdas_and_partial_functions_are_told_apart_by_what_they_do(case: str) -> None:
    """Equal ones may be registered again, also after a config has carried them to another process."""
    (make, make_another), rwkv = FACTORIES[case], MIXERS["rwkv4"]
    register_mixer("sum", PreNormMixers(make(), rwkv.channel))
    register_mixer("sum", PreNormMixers(make(), rwkv.channel))
    MIXERS["sum"] = cloudpickle.loads(cloudpickle.dumps(MIXERS["sum"]))
    register_mixer("sum", PreNormMixers(make(), rwkv.channel))
    with pytest.raises(ValueError, match="the name 'sum' is already registered"):
        register_mixer("sum", PreNormMixers(make_another(), rwkv.channel))
    assert MIXERS.modules_of("sum") == {__name__}


BAD: dict[str, tuple[Any, Any, str]] = {
    "built-in": ("attention", SUM, "the name 'attention' is a built-in mixer"),
    "taken": ("sum", MIXERS["rwkv4"], "the name 'sum' is already registered with other classes"),
    "no name": ("", SUM, "name='' is not a valid name"),
    "class": ("mine", Sum, r"takes PostNormMixers\(encoder=..., .* or PreNormMixers\(time=..., .* not <class"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_registrations_are_rejected(case: str) -> None:
    name, mixers, message = BAD[case]
    register_mixer("sum", SUM)
    with pytest.raises((ValueError, TypeError), match=message):
        register_mixer(name, mixers)


@pytest.mark.parametrize("travels_as", ["config", "dict", "state"])
def test_configs_carry_mixers_to_other_processes(travels_as: str) -> None:
    """Objects go to env runners and learners, dicts to Tune's trials, states into checkpoints."""
    register_mixer("sum", SUM)
    config = small()
    sent = cloudpickle.dumps({"config": config, "dict": config.to_dict(), "state": config.get_state()}[travels_as])
    del MIXERS["sum"]
    received = cloudpickle.loads(sent)
    config = received if travels_as == "config" else MATConfig().update_from_dict(received)
    if travels_as == "state":
        config = MATConfig.from_state(received)
    config.validate()
    assert MIXERS["sum"].time.__name__ == "Sum"


def test_modules_that_register_mixers_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mixers_of_a_test.py").write_text(
        "from rllib_seqmarl.mixers import MIXERS, register_mixer\n"
        "register_mixer('sum of another module', MIXERS['rwkv4'])\n"
    )
    config = small().network(encoder_mixer="sum of another module", decoder_mixer="rwkv4")
    config.update_from_dict({"mixer_modules": ["mixers_of_a_test"]}).validate()
    with pytest.raises(ValueError, match=r"mixer_modules='mixers_of_a_test' is not a list of importable modules"):
        config.network(mixer_modules="mixers_of_a_test").validate()
    with pytest.raises(ValueError, match=r"mixer_modules: 'no_such_mixers' cannot be imported: No module named"):
        config.network(mixer_modules=["no_such_mixers"]).validate()


def test_saved_policy_names_the_module_to_import(tmp_path: Path) -> None:
    register_mixer("sum", SUM)
    network = SequencePolicy(NetworkConfig(3, ActionSpec("discrete", (2,)), encoder_mixer="sum"))
    save_network(tmp_path / "policy", network)
    loaded, *_ = load_network(tmp_path / "policy")
    obs = {"observations": torch.randn(2, 3, 3)}
    assert torch.equal(loaded.act(obs).actions, network.act(obs).actions)
    del MIXERS["sum"]
    with pytest.raises(ExportError, match=re.escape(f"first. Its parts are defined in {Sum.__module__!r}.")):
        load_network(tmp_path / "policy")
