"""Users' policies by name, also in other processes and files; declared options; reset of state."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from ray import cloudpickle
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from rllib_seqmarl import MAMConfig, MARWKVConfig, MATConfig, register_policy
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.algorithms.user_parts import USER_PARTS, _register
from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment_file import load_experiments
from rllib_seqmarl.learners.advantages import AGENT_EARNS
from rllib_seqmarl.learners.objectives import FACTOR, LOSS_WEIGHTS, VALUE_LOSS_WEIGHTS
from rllib_seqmarl.learners.update_order import UPDATED
from rllib_seqmarl.modules.joint_sequence_module import RESETS
from rllib_seqmarl.networks.policy_config import declared_options
from rllib_seqmarl.policies import POLICIES, ActionSpec, Decision, Evaluation, Policy, PolicyConfig, reset_state
from rllib_seqmarl.policies.base import check_extras, check_state
from rllib_seqmarl.policies.export import ExportError, load_network, save_network

ENV = "coordination/distinct_choice"


@dataclass(frozen=True)
class LinearConfig(PolicyConfig):
    """Options of a linear policy.

    Attributes:
        scale: What logits are multiplied with.
        rounding: "up" or "down".
    """

    scale: int = 1
    rounding: Literal["up", "down"] = "up"


class LinearPolicy(Policy):
    """The logits of each agent are linear in its observation."""

    Config = LinearConfig
    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(config.obs_dim, config.action.width)
        self.value = nn.Linear(config.obs_dim, 1)

    def _scores(self, obs: Any) -> Tensor:
        return (self.config.scale * self.logits(obs["observations"])).log_softmax(-1)  # (B, n, width)

    @torch.no_grad()
    def act(self, obs: Any, state: Any = None, deterministic: bool = True) -> Decision:
        scores = self._scores(obs)
        choices = scores.argmax(-1) if deterministic else torch.distributions.Categorical(logits=scores).sample()
        return Decision(choices, scores.gather(-1, choices[..., None])[..., 0], self.values(obs), {}, {})

    def evaluate(
        self, obs: Any, actions: Tensor, state: Any = None, resets: Any = None, extras: Any = None
    ) -> Evaluation:
        scores = self._scores(obs)
        entropy = -(scores.exp() * scores).sum(-1)
        return Evaluation(scores.gather(-1, actions[..., None])[..., 0], entropy, self.values(obs), {})

    def values(self, obs: Any, state: Any = None) -> Tensor:
        return self.value(obs["observations"])[..., 0]


@pytest.fixture(autouse=True)
def restore_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("linear", "of another module"):
        monkeypatch.setitem(POLICIES, name, LinearPolicy)
        del POLICIES[name]


# -- the registry -----------------------------------------------------------------------------------------------------


def test_a_registered_policy_can_be_selected() -> None:
    config = MATConfig().environment(ENV).network(policy="linear")
    with pytest.raises(ValueError, match=r"unknown policy 'linear'. Known policies: .*sequence.*register_policy\("):
        config.validate()
    register_policy("linear", LinearPolicy)
    config.network(scale=2).validate()
    register_policy("linear", defined_again())  # as when rerunning a notebook cell


def defined_again() -> type[Policy]:
    return type("LinearPolicy", (LinearPolicy,), {"__module__": LinearPolicy.__module__})


def with_config(config: type) -> type[Policy]:
    return type("Other", (LinearPolicy,), {"Config": config})


class Undecorated(LinearConfig):
    free_options = frozenset({"hidden"})
    hidden: int = 3


def with_option(name: str) -> type[Policy]:
    return with_config(make_dataclass("OtherConfig", [(name, int, 3)], bases=(PolicyConfig,), frozen=True))


BAD: dict[str, tuple[Any, Any, str]] = {
    "built-in": ("sequence", LinearPolicy, "the name 'sequence' is a built-in policy; choose another name"),
    "taken": ("linear", POLICIES["sequence"], "the name 'linear' is already registered with other classes"),
    "no name": ("", LinearPolicy, "register_policy: name='' is not a valid name; pass a string such as 'my-policy'"),
    "number": (3, LinearPolicy, "register_policy: name=3 is not a valid name"),
    "object": ("mine", object(), "takes a class that derives from Policy, not <object"),
    "module": ("mine", nn.Linear, "takes a class that derives from Policy, not <class 'torch"),
    "no config": ("mine", type("Bare", (Policy,), {}), "Bare.Config must be a dataclass .* not None"),
    "no dataclass": (
        "mine",
        with_config(Undecorated),
        r"Undecorated.hidden is no field: put @dataclass\(frozen=True\) above its class",
    ),
    "option of RLlib": (
        "mine",
        with_option("gamma"),
        "OtherConfig.gamma is also an attribute of algorithms' configs; rename it",
    ),
    "option of ours": ("mine", with_option("critic_lr"), "OtherConfig.critic_lr is also an"),
    "retired option": ("mine", with_option("horizon"), "OtherConfig.horizon is also an"),
    "method": ("mine", with_option("training"), "OtherConfig.training is also an"),
    "other config": ("mine", type("Odd", (Policy,), {"Config": dict}), "Odd.Config must be a dataclass .* not <class"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_registrations_are_rejected(case: str) -> None:
    name, policy, message = BAD[case]
    register_policy("linear", LinearPolicy)
    before = dict(POLICIES)
    with pytest.raises((ValueError, TypeError), match=message):
        register_policy(name, policy)
    assert before == POLICIES


def test_a_part_that_another_process_cannot_import_matters_only_if_it_is_used() -> None:
    register_policy("linear", LinearPolicy)
    kind, parts = "policy", USER_PARTS.__reduce__()[1][0]
    parts[kind]["absent"] = parts[kind]["linear"].replace(b"LinearPolicy", b"AbsentPolicy")
    _register(parts)
    MATConfig().validate()
    with pytest.raises(ValueError, match=r"policy 'absent' is in a module that this process cannot load"):
        POLICIES.find("policy", "absent")
    del POLICIES.errors["absent"]


@pytest.mark.parametrize("travels_as", ["config", "dict", "state"])
def test_configs_carry_policies_to_other_processes(travels_as: str) -> None:
    """Objects go to env runners and learners, dicts to Tune's trials, states into checkpoints."""
    register_policy("linear", LinearPolicy)
    config = MATConfig().environment(ENV).network(policy="linear", scale=3)
    sent = cloudpickle.dumps({"config": config, "dict": config.to_dict(), "state": config.get_state()}[travels_as])
    del POLICIES["linear"]
    received: Any = cloudpickle.loads(sent)
    config = received if travels_as == "config" else MATConfig().update_from_dict(received)
    if travels_as == "state":
        config = MATConfig.from_state(received)
    config.validate()
    assert POLICIES["linear"] is LinearPolicy and config.scale == 3


@pytest.mark.usefixtures("ray_cluster")
def test_a_registered_policy_is_trained() -> None:
    register_policy("linear", LinearPolicy)
    config = MATConfig().environment(ENV, env_config={"n_agents": 2}).network(policy="linear", scale=2)
    algo = config.training(train_batch_size_per_learner=40, num_epochs=1, minibatch_size=20).build_algo()
    network = algo.get_module().policy
    before = network.logits.weight.clone()
    algo.train()
    algo.stop()
    assert type(network) is LinearPolicy and network.config.scale == 2 and network.config.n_agents == 2
    assert not torch.equal(before, network.logits.weight)


def test_a_saved_policy_names_the_module_to_import(tmp_path: Path) -> None:
    network = LinearPolicy(LinearConfig(3, ActionSpec("discrete", (2,)), scale=2))
    with pytest.raises(ValueError, match=r"LinearPolicy'> has no name. Call rllib_seqmarl.register_policy\("):
        save_network(tmp_path / "policy", network)
    register_policy("linear", LinearPolicy)
    save_network(tmp_path / "policy", network)
    POLICIES["linear"] = defined_again()
    save_network(tmp_path / "policy", network)
    loaded, *_ = load_network(tmp_path / "policy")
    obs = {"observations": torch.randn(2, 3, 3)}
    assert torch.equal(loaded.act(obs).log_probs, network.act(obs).log_probs) and loaded.config == network.config
    del POLICIES["linear"]
    message = f"unknown policy 'linear'. .* Its parts are defined in {LinearPolicy.__module__!r}."
    with pytest.raises(ExportError, match=message):
        load_network(tmp_path / "policy")


def test_only_modules_of_users_are_named() -> None:
    register_policy("linear", LinearPolicy)
    assert POLICIES.modules_of("sequence") == set()
    assert POLICIES.modules_of("linear", "sequence") == {__name__}


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - POLICIES.of_users.keys()))
def test_options_of_built_in_policies_are_described(policy: str) -> None:
    options = POLICIES[policy].Config.options()
    assert options and not options.keys() & {"obs_dim", "action", "n_agents", "state_dim", "image_shape"}
    for name, option in options.items():
        assert option.text.endswith(".") and not option.text.startswith(name), name
        assert option.kind not in (None, Any, inspect.Parameter.empty), name
        assert getattr(POLICIES[policy].Config(2, ActionSpec("discrete", (2,))), name) == option.default


def test_options_are_read_from_the_class_and_its_bases() -> None:
    options = declared_options(LinearConfig)
    assert options["scale"] == (int, 1, "What logits are multiplied with.")
    assert options["rounding"] == (Literal["up", "down"], "up", '"up" or "down".')
    assert options["obs_dim"].text == "Numbers in one agent's observation."
    assert list(LinearConfig.options()) == ["conv_filters", "scale", "rounding"]


@pytest.mark.parametrize("config_class", [JointPPOConfig, MATConfig, MAMConfig, MARWKVConfig])
def test_options_are_shown_as_keywords_of_network(config_class: type[JointPPOConfig]) -> None:
    parameters, doc = inspect.signature(config_class.network).parameters, inspect.getdoc(config_class.network)
    options = config_class.declared_options(config_class.default_policy)
    assert set(parameters) == {"self", "policy", "mixer_modules", "initial_policy", "options", *options}
    words = " ".join((doc or "").split())
    for name, option in options.items():
        assert parameters[name].annotation == option.kind and f" {name}: {option.text} " in words
        assert getattr(config_class(), name) == option.default or (config_class, name) in CHANGED


# Defaults that the algorithms change.
CHANGED = {
    (MAMConfig, "encoder_mixer"),
    (MAMConfig, "decoder_mixer"),
    (MAMConfig, "embed_dim"),
    (MARWKVConfig, "encoder_mixer"),
    (MARWKVConfig, "decoder_mixer"),
}


def test_configs_do_not_share_mutable_defaults() -> None:
    MATConfig().mixer_options["d_state"] = 3
    assert MATConfig().mixer_options == {}


def test_unknown_keywords_and_options_of_other_policies_are_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword 'embed_dm'. Did you mean 'embed_dim'"):
        MATConfig().network(embed_dm=3)
    with pytest.raises(TypeError, match="unexpected keyword 'version'.* The options of policy 'sequence' are conv_fil"):
        MATConfig().network(version=6)
    with pytest.raises(ValueError, match="unknown policy 'sequnce'. Did you mean 'sequence'"):
        MATConfig().network(policy="sequnce", embed_dim=3)
    register_policy("linear", LinearPolicy)
    with pytest.raises(TypeError, match="'embed_dim'.* The options of policy 'linear' are conv_filters, scale, r"):
        MATConfig().network(policy="linear", embed_dim=3)
    config = MATConfig().environment(ENV).network(embed_dim=32).network(policy="linear")
    message = "embed_dim=32 has no effect: policy='linear' has no such option. Remove it; .* are conv_filters, sc"
    with pytest.raises(ValueError, match=message):
        config.validate()
    with pytest.raises(TypeError, match="unexpected keyword 'd_state'"):
        MAMConfig().network(policy="linear", d_state=3)


# -- experiment files -------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that registers a policy "of another module"."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"policies_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from rllib_seqmarl import register_policy\n"
        f"from {LinearPolicy.__module__} import LinearPolicy\n"
        "register_policy('of another module', LinearPolicy)\n"
    )
    return name


def experiment(path: Path, **config: Any) -> Path:
    lines = "".join(f"    {key}: {value}\n" for key, value in config.items())
    (path / "exp.yaml").write_text(f"a:\n  run: MAT\n  env: {ENV}\n  config:\n{lines}")
    return path / "exp.yaml"


def test_experiment_files_select_policies_and_their_options(module: str, tmp_path: Path) -> None:
    chosen = {"scale": 4, "policy": "of another module", "mixer_modules": f"[{module}]"}
    (loaded,) = load_experiments(experiment(tmp_path, **chosen))
    assert loaded.config == {"scale": 4, "policy": "of another module", "mixer_modules": [module], "env": ENV}


MISTAKES = {
    "scale: big": "5: scale must be a whole number; got 'big'",
    "rounding: left": "5: rounding must be 'up' or 'down'; got",
    "scal: 3": "5: unknown key 'scal' for MAT. Did you mean 'scale'",
    "embed_dim: 3": "5: embed_dim=3 has no effect: policy='of another module' has no such option",
    "policy: other": "5: unknown policy 'other'",
    "mixer_modules: [no_such_module]": "5: mixer_modules: 'no_such_module' cannot be imported: No module",
    "mixer_modules: no_list": "5: mixer_modules='no_list' is not a list of importable modules",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_in_a_policys_options_are_located(line: str, module: str, tmp_path: Path) -> None:
    key, value = line.split(": ")
    config = {key: value} | {"policy": "of another module", "mixer_modules": f"[{module}]"} | {key: value}
    with pytest.raises(ExperimentError, match=f"exp.yaml:{re.escape(MISTAKES[line])}"):
        load_experiments(experiment(tmp_path, **config))


def test_searches_and_population_based_training_know_the_options(module: str, tmp_path: Path) -> None:
    choice = "{grid_search: [sequence, of another module]}"
    (loaded,) = load_experiments(experiment(tmp_path, policy=choice, mixer_modules=f"[{module}]"))
    assert loaded.num_trials == 2
    path = experiment(tmp_path, policy="of another module", mixer_modules=f"[{module}]")
    pbt = "  scheduler: {name: pbt, hyperparam_mutations: {scale: [1, 2]}}\n"
    path.write_text(path.read_text() + pbt)
    with pytest.raises(ExperimentError, match="scheduler 'pbt' cannot change scale, which is part of the network"):
        load_experiments(path)


def test_scripts_can_name_the_module_with_the_options(module: str) -> None:
    config = MATConfig().network(policy="of another module", mixer_modules=[module], scale=2)
    assert config.scale == 2


def test_extras_with_names_of_columns_are_refused() -> None:
    columns = [name for key, name in vars(Columns).items() if key.isupper()]
    for name in [*columns, "entropy", RESETS, AGENT_EARNS, LOSS_WEIGHTS, VALUE_LOSS_WEIGHTS, FACTOR, UPDATED]:
        with pytest.raises(
            ValueError, match=f"the policy's extra '{name}' would replace the batch's column of that na"
        ):
            check_extras(["order", name])
    check_extras(["order", "extra"])


# -- state ------------------------------------------------------------------------------------------------------------


def test_reset_state_zeroes_some_teams_in_every_tensor() -> None:
    state = {"a": torch.ones(3, 2), "b": [torch.ones(3, dtype=torch.int64), (torch.ones(3, 1, 4),)]}
    after = reset_state(state, torch.tensor([True, False, True]))
    for tensor in (after["a"], after["b"][0], after["b"][1][0]):
        assert not tensor[[0, 2]].any() and tensor[1].all()
    assert after["b"][0].dtype == torch.int64
    assert reset_state({}, torch.tensor([True])) == {}


@pytest.mark.parametrize(
    ("state", "has_memory", "message"),
    [
        ((torch.zeros(1, 2),), True, r"LinearPolicy.initial_state returns a tuple; return a dict"),
        ({}, True, "LinearPolicy has memory, but its initial_state is empty"),
    ],
)
def test_unusable_states_are_rejected(
    state: Any, has_memory: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LinearPolicy(LinearConfig(obs_dim=3, action=ActionSpec("discrete", (2,))))
    check_state(policy)
    monkeypatch.setattr(LinearConfig, "has_memory", has_memory)
    policy.initial_state = lambda batch_size: state  # type: ignore[method-assign]
    with pytest.raises((TypeError, ValueError), match=message):
        check_state(policy)
