"""The policy of MAPPO, IPPO and MAT-Dec: actors that read their own observation, and a critic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import ACTIONS, random_mask, randomized
from torch import Tensor, nn

from rllib_seqmarl.networks.distributions import Categorical
from rllib_seqmarl.policies import ActionSpec, IndependentConfig, IndependentPolicy
from rllib_seqmarl.policies.export import load_network, save_network
from rllib_seqmarl.policies.onnx_export import GreedyActor, write_onnx
from rllib_seqmarl.policies.transfer import Trained, carried_over

CHOICE, MOVE = ActionSpec("discrete", nvec=(4,)), ActionSpec("continuous", dim=2)
PLAIN = IndependentConfig(obs_dim=6, action=CHOICE, n_agents=3, hidden_sizes=(8, 8))
CRITICS = {
    "the state": {"state_dim": 5},
    "all observations": {},
    "own observation": {"critic": "observations"},
    "state and observation": {"critic": "agent_state", "state_dim": 5},
    "encoder": {"critic": "encoder", "embed_dim": 8, "state_dim": 5},
}


def policy(seed: int = 0, **options: Any) -> IndependentPolicy:
    torch.manual_seed(seed)
    return randomized(IndependentPolicy(replace(PLAIN, **options)).double())


def random_obs(config: IndependentConfig, teams: int, *, masked: bool = False) -> dict[str, Tensor]:
    n = config.n_agents
    obs = {"observations": torch.randn(teams, n, config.obs_dim, dtype=torch.float64)}
    if config.state_dim:
        obs["state"] = torch.randn(teams, config.state_dim, dtype=torch.float64)
    if masked:
        obs |= {"action_mask": random_mask(config.action, teams, n), "alive": torch.rand(teams, n) < 0.7}
    return obs


@dataclass
class Case:
    policy: IndependentPolicy
    obs: dict[str, Tensor]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    net = policy(
        draw(st.integers(0, 2**31)),
        action=draw(ACTIONS),
        n_agents=draw(st.integers(1, 5)),
        hidden_sizes=tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))),
        activation=draw(st.sampled_from(["relu", "tanh", "gelu"])),
        share_actor=draw(st.booleans()),
        std=draw(st.sampled_from(["sigmoid", "exp"])),
        **CRITICS[draw(st.sampled_from(sorted(CRITICS)))],
    )
    return Case(net, random_obs(net.config, draw(st.integers(1, 4)), masked=draw(st.booleans())))


@settings(max_examples=100, deadline=None)
@given(cases(), st.booleans())
def test_evaluate_equals_act_and_ignores_what_does_not_count(case: Case, deterministic: bool) -> None:
    """Log-probabilities, values and legal actions; dead agents have action, log-probability and entropy 0."""
    decision = case.policy.act(case.obs, deterministic=deterministic)
    evaluation = case.policy.evaluate(case.obs, decision.actions)
    torch.testing.assert_close(evaluation.log_probs.detach(), decision.log_probs)
    torch.testing.assert_close(evaluation.values.detach(), decision.values)
    torch.testing.assert_close(case.policy.values(case.obs).detach(), decision.values)
    assert evaluation.log_probs.shape == evaluation.entropy.shape == case.obs["observations"].shape[:2]
    if "alive" not in case.obs:
        return
    living, spec = case.obs["alive"], case.policy.config.action
    for nothing in (decision.actions, decision.log_probs, evaluation.entropy):
        assert not nothing[~living].any()
    other = torch.where(living.view(*living.shape, *[1] * len(spec.action_shape)), decision.actions, 1)
    torch.testing.assert_close(case.policy.evaluate(case.obs, other).log_probs, evaluation.log_probs)
    if spec.kind == "continuous":
        assert not decision.actions[~case.obs["action_mask"]].any()
    else:
        choices = decision.actions.reshape(*living.shape, -1)
        for mask, choice in zip(case.obs["action_mask"].split(spec.nvec, -1), choices.unbind(-1), strict=True):
            assert mask.gather(-1, choice.unsqueeze(-1)).squeeze(-1)[living].all()


@pytest.mark.parametrize("std", ["sigmoid", "exp"])
@pytest.mark.parametrize("share_actor", [True, False])
def test_samples_follow_the_policy(std: str, share_actor: bool) -> None:
    """Log-probabilities of samples average to minus the entropy, also of continuous actions as a whole."""
    net = policy(action=MOVE, std=std, share_actor=share_actor)
    obs = {key: x.expand(40_000, *x.shape[1:]) for key, x in random_obs(net.config, 1).items()}
    decision = net.act(obs, deterministic=False)
    entropy = net.evaluate({key: x[:1] for key, x in obs.items()}, decision.actions[:1]).entropy.detach()
    torch.testing.assert_close(-decision.log_probs.mean(0, keepdim=True), entropy, rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_choices_follow_logits_of_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    choices, logits = Categorical(ActionSpec("discrete", (16,))), torch.tensor([2.0, -4.0] + 14 * [0.0], dtype=dtype)
    scores = logits.expand(400_000, -1)
    noise = choices.noise(scores, None)
    assert noise.isfinite().all()
    counts = choices.choose(scores, noise).bincount(minlength=16)
    expected = logits.float().softmax(-1) * len(scores)
    assert ((counts - expected).abs() < 4 * expected.sqrt()).all()


@pytest.mark.parametrize("share_actor", [True, False])
@pytest.mark.parametrize("action", [CHOICE, MOVE], ids=["discrete", "continuous"])
def test_agents_are_independent(action: ActionSpec, share_actor: bool) -> None:
    """An agent's log-probability depends on its own observation and action alone, and on its own actor's weights."""
    net = policy(action=action, share_actor=share_actor, critic="observations")
    obs = random_obs(net.config, 5)
    obs["observations"].requires_grad_()
    evaluation = net.evaluate(obs, net.act(obs, deterministic=False).actions)
    groups = net.parameter_groups()
    for output in (evaluation.log_probs, evaluation.values):
        (gradient,) = torch.autograd.grad(output[:, 1].sum(), obs["observations"], retain_graph=True)
        assert gradient[:, 1].any(-1).all() and not gradient[:, [0, 2]].any()
    if not share_actor:
        for name, parameters in groups.items():
            gradients = torch.autograd.grad(
                evaluation.log_probs[:, 1].sum(), parameters, retain_graph=True, allow_unused=True
            )
            assert any(g is not None and g.any() for g in gradients) == (name == "actor_1"), name


def test_own_actors_with_equal_weights_are_a_shared_actor() -> None:
    shared, own = policy(action=MOVE), policy(action=MOVE, share_actor=False)
    weights = shared.state_dict()
    for i in range(3):
        own.actors[i].load_state_dict(shared.actors[0].state_dict())
        weights[f"distribution.log_std.{i}"] = weights["distribution.log_std"]
    own.load_state_dict(weights, strict=False)
    obs = random_obs(PLAIN, 4, masked=True) | {"action_mask": random_mask(MOVE, 4, 3)}
    actions = shared.act(obs, deterministic=False).actions
    for ours, theirs in zip(own.evaluate(obs, actions)[:3], shared.evaluate(obs, actions)[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_parameter_is_learned_by_one_optimiser() -> None:
    for share_actor in (True, False):
        for options in ({"action": MOVE}, {"critic": "encoder"}):
            net = policy(share_actor=share_actor, **options)
            groups = net.parameter_groups()
            assert set(groups) == {"critic", *(["actor"] if share_actor else ["actor_0", "actor_1", "actor_2"])}
            assert sorted(map(id, net.parameters())) == sorted(id(p) for group in groups.values() for p in group)


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_read_what_they_should(critic: str) -> None:
    net = policy(**CRITICS[critic])
    obs = random_obs(net.config, 4)
    values = net.values(obs).detach()
    changed = {key: x.clone() for key, x in obs.items()}
    changed["observations"][:, 0] += torch.randn(6)
    difference = net.values(changed).detach() != values  # (B, n)
    own = [True, False, False]
    expected = {"the state": [False] * 3, "own observation": own, "state and observation": own}.get(critic, [True] * 3)
    assert (difference == torch.tensor(expected)).all()
    if "state" in obs:
        assert (net.values(obs | {"state": torch.randn_like(obs["state"])}) != values).all()
    if critic in ("the state", "all observations"):
        assert torch.equal(values, values[:, :1].expand(-1, 3))  # one value of the team


@pytest.mark.parametrize("death_masking", [False, True])
def test_values_of_the_dead_may_not_read_the_state(death_masking: bool) -> None:
    net = policy(critic="agent_state", state_dim=5, death_masking=death_masking)
    obs = random_obs(net.config, 4) | {"alive": torch.tensor([True, False, True]).expand(4, 3)}
    changed = net.values(obs | {"state": torch.randn_like(obs["state"])}) != net.values(obs)
    assert changed.all(0).tolist() == [True, not death_masking, True]


@pytest.mark.parametrize("critic", ["the state", "encoder"])
def test_agents_may_have_states_of_their_own(critic: str) -> None:
    net, shared = (policy(**CRITICS[critic], has_agent_states=own) for own in (True, False))
    shared.load_state_dict(net.state_dict())
    obs = random_obs(net.config, 4)
    own = obs | {"state": obs["state"].unsqueeze(1).expand(-1, 3, -1).clone()}  # (B, n, s)
    before = net.values(own)
    torch.testing.assert_close(before, shared.values(obs))
    own["state"][:, 2] += torch.randn(5)
    changed = (net.values(own) != before).all(0).tolist()
    assert changed == ([False, False, True] if critic == "the state" else [True] * 3)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2**0.5), ("gelu", 2**0.5), ("tanh", 5 / 3)])
def test_initial_weights(activation: str, gain: float) -> None:
    net = IndependentPolicy(replace(PLAIN, hidden_sizes=(6, 5), activation=activation, state_dim=9))
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            expected = {"actors.0.7": 0.01, "critic.7": 1.0}.get(name, gain)
            gram = layer.weight @ layer.weight.T
            torch.testing.assert_close(gram, expected**2 * torch.eye(len(gram)), rtol=0, atol=1e-5)
            assert not layer.bias.any()
    stds = {
        std: IndependentPolicy(replace(PLAIN, action=MOVE, std=std)).distribution.std() for std in ("sigmoid", "exp")
    }
    assert torch.allclose(stds["sigmoid"], torch.tensor(0.5).mul(torch.sigmoid(torch.tensor(1.0))))
    assert torch.equal(stds["exp"], torch.ones(2))


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_parts_are_those_of_the_whole(case: Case) -> None:
    net, obs = case.policy, case.obs
    actions = net.act(obs, deterministic=False).actions
    whole = net.evaluate(obs, actions)
    assert torch.equal(net.evaluate_values(obs), whole.values)
    for agent in range(net.config.n_agents or 0):
        for part, expected in zip(net.evaluate_agent(agent, obs, actions), whole[:2], strict=True):
            torch.testing.assert_close(part, expected[:, agent : agent + 1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize(("action", "share_actor"), [(CHOICE, True), (MOVE, False)])
def test_exports(critic: str, action: ActionSpec, share_actor: bool, tmp_path: Path) -> None:
    net = policy(action=action, share_actor=share_actor, **CRITICS[critic]).float()
    obs = {key: x.float() if x.is_floating_point() else x for key, x in random_obs(net.config, 4, masked=True).items()}
    save_network(tmp_path / "policy", net)
    restored, _, _ = load_network(tmp_path / "policy")
    assert restored.config == net.config
    assert all(map(torch.equal, restored.act(obs)[:3], net.act(obs)[:3]))
    actor = GreedyActor(net, list(obs), None)
    exported = torch.export.export(actor, tuple(obs.values()), strict=False).module()
    torch.testing.assert_close(exported(*obs.values()), net.act(obs).actions)


def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net = policy(action=ActionSpec("discrete", nvec=(3, 2)), share_actor=False).float()
    obs = {"observations": torch.randn(4, 3, 6), "alive": torch.tensor([1, 1, 0], dtype=torch.int8).expand(4, 3)}
    write_onnx(tmp_path / "policy.onnx", GreedyActor(net, list(obs), None), [x[:2] for x in obs.values()])
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    (actions,) = session.run(None, {key: x.numpy() for key, x in obs.items()})
    assert torch.equal(torch.from_numpy(actions), net.act(obs).actions)


@pytest.mark.parametrize("critic", CRITICS)
def test_transfer_matches_inputs_by_meaning(critic: str) -> None:
    """Two agents with shorter observations and fewer choices become three; ids are the last entries."""
    options = CRITICS[critic]
    old = policy(0, obs_dim=5, n_agents=2, action=ActionSpec("discrete", nvec=(3,)), **options)
    new = policy(1, obs_dim=7, n_agents=3, **options)  # own, ids: 3 + 2 entries become 4 + 3
    fresh = {name: x.clone() for name, x in new.state_dict().items()}
    teams = Trained(IndependentPolicy, old.config, n_ids=2), Trained(IndependentPolicy, new.config, n_ids=3)
    merged = carried_over(teams[0], old.state_dict(), teams[1], fresh)
    places = {0: 0, 1: 1, 2: 2, 4: 3, 5: 4}  # new entry of an observation -> old one
    assert_columns(merged, old.state_dict(), fresh, "actors.0.1.weight", places)
    for name in ("actors.0.7.weight", "actors.0.7.bias"):
        assert torch.equal(merged[name][:3], old.state_dict()[name]) and torch.equal(merged[name][3:], fresh[name][3:])
    own = {(7 * i + there, 5 * i + here) for i in range(2) for there, here in places.items()}
    columns = {
        "the state": ("critic.1.weight", {i: i for i in range(5)}),
        "all observations": ("critic.1.weight", dict(own)),
        "own observation": ("critic.1.weight", places),
        "state and observation": ("critic.1.weight", places | {7 + i: 5 + i for i in range(5)}),
        "encoder": ("critic.embedding.1.weight", places | {7 + i: 5 + i for i in range(5)}),
    }
    assert_columns(merged, old.state_dict(), fresh, *columns[critic])


def assert_columns(
    merged: dict[str, Tensor], old: dict[str, Tensor], fresh: dict[str, Tensor], name: str, places: dict[int, int]
) -> None:
    for column in range(merged[name].shape[1]):
        expected = old[name][:, places[column]] if column in places else fresh[name][:, column]
        assert torch.equal(merged[name][:, column], expected), (name, column)


def test_transfer_between_other_critics_or_teams_is_refused_or_starts_anew() -> None:
    own = replace(PLAIN, share_actor=False)
    with pytest.raises(ValueError, match="it has n_agents=2, but here n_agents=3. Use a team of this size"):
        carried_over(Trained(IndependentPolicy, replace(own, n_agents=2)), {}, Trained(IndependentPolicy, own), {})
    old, new = policy(0), policy(1, state_dim=5)
    fresh = {name: x.clone() for name, x in new.state_dict().items()}
    teams = Trained(IndependentPolicy, old.config), Trained(IndependentPolicy, new.config)
    merged = carried_over(teams[0], old.state_dict(), teams[1], fresh)
    assert torch.equal(merged["critic.1.weight"], fresh["critic.1.weight"])  # it reads something else


@pytest.mark.parametrize("critic", ["observations", "state", "encoder"])
def test_images(critic: str) -> None:
    options = {"embed_dim": 8} if critic == "encoder" else {}
    net = policy(obs_dim=16 * 16 * 3 + 2, image_shape=(16, 16, 3), critic=critic, **options).float()
    obs = {"observations": torch.randint(256, (2, 3, 16 * 16 * 3 + 2), dtype=torch.uint8)}
    decision = net.act(obs, deterministic=False)
    evaluation = net.evaluate(obs, decision.actions)
    torch.testing.assert_close(evaluation.log_probs.detach(), decision.log_probs)
    (evaluation.log_probs.sum() + evaluation.values.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


BAD_OPTIONS = [
    ({"hidden_sizes": ()}, r"hidden_sizes must be a list of integers >= 1, such as \[64, 64\], not \(\)"),
    ({"hidden_sizes": 64}, "hidden_sizes must be a list"),
    ({"activation": "selu"}, "activation must be 'relu', 'tanh' or 'gelu', not 'selu'"),
    ({"critic": "team"}, "critic must be 'state', 'observations', 'agent_state' or 'encoder', not 'team'"),
    ({"critic": "agent_state"}, "critic='agent_state' needs the global state; set global_state=True"),
    ({"death_masking": True}, "death_masking=True has no effect on critic='state'; remove it"),
    ({"std": 0.5}, "std must be 'sigmoid' or 'exp', not 0.5"),
    ({"share_actor": "no"}, "share_actor must be True or False"),
    ({"n_block": 2}, "n_block=2 has no effect on critic='state', which has no encoder; remove it"),
    ({"encoder_mixer": "mamba"}, "encoder_mixer='mamba' has no effect on critic='state'"),
    ({"critic": "observations", "state_dim": 4}, "global_state=True has no effect on critic='observations'"),
    ({"image_shape": (16, 16, 3), "obs_dim": 768, "share_actor": False}, "share_actor=False is not supported for"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **options)


def test_the_number_of_agents_must_be_known_where_it_counts() -> None:
    for options in ({"share_actor": False}, {"critic": "state"}):
        with pytest.raises(ValueError, match="need n_agents"):
            IndependentPolicy(replace(PLAIN, n_agents=None, **options))
    IndependentPolicy(replace(PLAIN, n_agents=None, critic="observations"))


def test_observations_of_the_wrong_shape_or_kind_are_rejected() -> None:
    for shape in ((3, 6), (2, 3, 5)):
        with pytest.raises(ValueError, match=r"observations must have shape \(batch, agents, 6\)"):
            policy().act({"observations": torch.zeros(shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"observations must be floating-point numbers, not torch.int64; use x.float"):
        policy().act({"observations": torch.zeros(2, 3, 6, dtype=torch.int64)})
