"""Properties of the sequence policy for all sizes, mixers and orders of agents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import Case, cases, randomized, team_obs
from torch import nn

from rllib_seqmarl.mixers import MIXERS, CausalMixer, MixerShape, PreNormMixers
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

CHOICE = ActionSpec("discrete", nvec=(5,))


def network(action=CHOICE, **sizes) -> SequencePolicy:
    torch.manual_seed(0)
    return randomized(SequencePolicy(NetworkConfig(obs_dim=6, action=action, embed_dim=8, **sizes)).double())


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_decoding_equals_the_parallel_pass(case: Case, deterministic: bool):
    net, spec = case.network, case.network.config.action
    actions, log_probs, values, _, extras = net.act(case.obs, deterministic=deterministic)
    again, entropy, values_again, _ = net.evaluate(case.obs, actions, extras=extras)
    torch.testing.assert_close(log_probs, again.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(values, values_again.detach(), rtol=0, atol=1e-10)
    assert actions.shape == (*case.teams, *spec.action_shape)
    assert values.shape == case.teams
    per_action = (spec.dim,) if spec.kind == "continuous" else ()
    assert log_probs.shape == entropy.shape == (*case.teams, *per_action)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_actions_are_legal_and_dead_agents_do_nothing(case: Case):
    net, spec = case.network, case.network.config.action
    actions, log_probs, _, _, extras = net.act(case.obs, deterministic=False)
    entropy = net.evaluate(case.obs, actions, extras=extras).entropy
    living = case.obs.get("alive", torch.ones(case.teams, dtype=torch.bool))
    for nothing in (actions, log_probs, entropy):
        assert not nothing[~living].any()
    if "action_mask" not in case.obs:
        return
    if spec.kind == "continuous":
        for nothing in (actions, log_probs, entropy):
            assert not nothing[~case.obs["action_mask"]].any()
    else:
        choices = actions.reshape(*living.shape, -1)
        for mask, choice in zip(case.obs["action_mask"].split(spec.nvec, -1), choices.unbind(-1), strict=True):
            assert mask.gather(-1, choice.unsqueeze(-1)).squeeze(-1)[living].all()


@pytest.mark.parametrize("action", [CHOICE, ActionSpec("discrete", nvec=(2, 3)), ActionSpec("continuous", dim=2)])
def test_samples_follow_the_policy(action):
    """Log-probabilities of samples average to minus the entropy; frequencies of choices match their probabilities."""
    net = network(action)
    obs = torch.randn(1, 1, 6, dtype=torch.float64).expand(40_000, 2, 6)
    actions, log_probs, *_ = net.act(team_obs(obs), deterministic=False)
    first = log_probs[:, 0]  # agent 0 has one distribution; those of its successors depend on its action
    entropy = net.evaluate(team_obs(obs[:1]), actions[:1]).entropy[0, 0].detach()
    assert torch.allclose(-first.mean(0), entropy, atol=0.03)
    if action.kind == "discrete":
        joint = actions[:, 0].reshape(len(actions), -1)
        for choice in joint.unique(dim=0):
            frequency = (joint == choice).all(-1).double().mean()
            probability = first[(joint == choice).all(-1)][0].exp()
            assert abs(frequency - probability) < 0.012


def test_greedy_actions_are_the_most_probable():
    net = network()
    obs = team_obs(torch.randn(4, 3, 6, dtype=torch.float64))
    actions, log_probs, *_ = net.act(obs)
    for choice in range(5):
        for t in range(3):
            other = actions.clone()
            other[:, t] = choice
            assert (net.evaluate(obs, other)[0][:, t] <= log_probs[:, t] + 1e-12).all()


def test_actions_affect_successors_only():
    net = network(n_block=2, n_head=2)
    obs = team_obs(torch.randn(1, 4, 6, dtype=torch.float64))
    one, other = torch.zeros(2, 1, 4, dtype=torch.int64)
    other[0, 1] = 3
    before, after = (net.evaluate(obs, actions).entropy[0] for actions in (one, other))
    assert torch.equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).all()


def test_masks_may_be_numbers():
    net = network()
    obs, mask = torch.randn(2, 3, 6, dtype=torch.float64), torch.rand(2, 3, 5) < 0.8
    mask[..., 0] = True
    alive = torch.tensor([[1, 1, 0], [0, 1, 1]])
    for kind in (torch.bool, torch.int8, torch.float32):
        actions = net.act(team_obs(obs, mask.to(kind), alive.to(kind))).actions
        assert torch.equal(actions, net.act(team_obs(obs, mask, alive.bool())).actions)


def test_outputs_of_act_can_be_trained_on():
    net = network()
    obs = team_obs(torch.randn(2, 3, 6, dtype=torch.float64))
    actions, old_log_probs, *_ = net.act(obs, deterministic=False)
    log_probs, entropy, values, _ = net.evaluate(obs, actions)
    ((log_probs - old_log_probs).exp().sum() + entropy.sum() + values.sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_initial_weights():
    """Orthogonal, gain sqrt(2) before an activation, else 0.01; zero biases: the first policy is uniform."""
    net = SequencePolicy(NetworkConfig(obs_dim=16, action=CHOICE, embed_dim=16))
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            activated = name in ("encoder.embedding.1",) or name.endswith(("mlp.0", "value.0", "policy.0"))
            parts = layer.weight.split(16)
            for part in parts:
                gram = part @ part.T
                expected = (2.0 if activated else 1e-4) * torch.eye(len(gram))
                torch.testing.assert_close(gram, expected, rtol=0, atol=1e-5)
            assert not layer.bias.any()
    obs = team_obs(torch.randn(8, 3, 16))
    entropy = net.evaluate(obs, net.act(obs, deterministic=False).actions).entropy
    assert (entropy > torch.tensor(5.0).log() - 1e-3).all()


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 5), (2, 3, 7)])
def test_observations_of_the_wrong_shape_are_rejected(shape):
    with pytest.raises(ValueError, match=r"observations must have shape \(batch, agents, 6\)"):
        network().act(team_obs(torch.zeros(shape, dtype=torch.float64)))


class Average(CausalMixer):
    """A custom mixer: the mean of all tokens so far."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape.embed_dim))

    def forward(self, x, context=None, state=None, resets=None):
        after = self.initial_state(len(x)) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            y, after = self.step(x[:, t], after if resets is None else reset_state(after, resets[:, t]))
            outputs.append(y)
        return torch.stack(outputs, dim=1), None if state is None else after

    def initial_state(self, batch_size):
        return self.scale.new_zeros(batch_size, len(self.scale)), self.scale.new_zeros(batch_size, 1)

    def step(self, x, state, context=None):
        total, count = state[0] + x, state[1] + 1
        return self.scale * total / count, (total, count)


@pytest.mark.parametrize(("encoder", "decoder"), [("average", "attention"), ("attention", "average"), ("average",) * 2])
def test_custom_mixers_only_need_a_registry_entry(monkeypatch, encoder, decoder):
    monkeypatch.setitem(MIXERS, "average", PreNormMixers(time=Average, channel=Average))
    net = network(encoder_mixer=encoder, decoder_mixer=decoder, n_block=2)
    obs = team_obs(torch.randn(3, 5, 6, dtype=torch.float64))
    actions, log_probs, *_ = net.act(obs, deterministic=False)
    torch.testing.assert_close(net.evaluate(obs, actions)[0].detach(), log_probs, rtol=0, atol=1e-10)
