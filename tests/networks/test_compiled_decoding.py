"""Networks choose the same actions on kernels and in plain torch, and kernels leave no state in them."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import ACTIONS, cases, random_mask, randomized, team_obs

from rllib_seqmarl.mixers import MIXERS, CausalMixer, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.layers import linear
from rllib_seqmarl.networks.action_heads import CategoricalHead
from rllib_seqmarl.networks.decoding.fast_decoder import HEADS as COMPILED_HEADS
from rllib_seqmarl.networks.decoding.heads import TorchHead
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

pytest.importorskip("numba")

HEADS = [ActionSpec("discrete", (6,)), ActionSpec("discrete", (2, 1, 20)), ActionSpec("continuous", dim=3)]


def without_kernels(network: SequencePolicy) -> SequencePolicy:
    """The same network without kernels."""
    plain = SequencePolicy(replace(network.config, backend="reference")).to(next(network.parameters()).dtype)
    plain.load_state_dict(network.state_dict())
    return plain


def assert_same_decisions(network, obs, deterministic, tolerance):
    decisions = []
    for net in (network, without_kernels(network)):
        torch.manual_seed(1)
        # The same number of random numbers was drawn.
        decisions.append((*net.act(obs, deterministic=deterministic)[:3], torch.rand(3)))
    for actual, expected in zip(*decisions, strict=True):
        assert actual.dtype == expected.dtype and actual.is_contiguous()
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@settings(max_examples=100, deadline=None)
@given(case=cases(), deterministic=st.booleans())
def test_same_decisions_with_the_same_seed(case, deterministic):
    assert_same_decisions(case.network, case.obs, deterministic, 1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("action", HEADS)
@pytest.mark.parametrize("sizes", [{"embed_dim": 64}, {"embed_dim": 20, "n_head": 2, "n_block": 2}])
def test_same_decisions_in_single_precision(mixer, action, sizes):
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, action, decoder_mixer=mixer, **sizes)))
    mask, alive = random_mask(action, 11, 6), torch.rand(11, 6) < 0.8
    assert_same_decisions(network, team_obs(torch.randn(11, 6, 7), mask, alive), False, 2e-4)


@pytest.mark.parametrize("mixer", ["attention", "mamba"])
def test_same_decisions_with_addition_instead_of_a_cross_mixer(mixer):
    torch.manual_seed(0)
    config = NetworkConfig(7, HEADS[0], embed_dim=20, n_block=2, decoder_mixer=mixer, decoder_cross="addition")
    network = randomized(SequencePolicy(config).double())
    assert_same_decisions(network, team_obs(torch.randn(4, 5, 7, dtype=torch.float64)), False, 1e-10)


@pytest.mark.parametrize("action", HEADS)
def test_masks_may_be_broadcast_numbers(action):
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, action, embed_dim=8)).double())
    mask, alive = random_mask(action, 1, 1).to(torch.int8).expand(4, 5, -1), torch.ones(4, 5)
    assert_same_decisions(network, team_obs(torch.randn(4, 5, 7, dtype=torch.float64), mask, alive), False, 1e-10)


@settings(max_examples=30, deadline=None)
@given(action=ACTIONS, batch_size=st.integers(1, 5), n=st.integers(1, 6), seed=st.integers(0, 2**31))
@torch.no_grad()
def test_compiled_head_equals_torch_head(action, batch_size, n, seed):
    """Compares scores, actions and tokens of the head alone."""
    torch.manual_seed(seed)
    head = randomized(SequencePolicy(NetworkConfig(7, action, embed_dim=10)).double()).head
    action_mask = random_mask(action, batch_size, n)
    noise = head.noise(torch.empty(batch_size, n, action.width, dtype=torch.float64), action_mask)
    contexts = np.zeros((n, batch_size, 10))
    steps = COMPILED_HEADS[type(head)](head), TorchHead(head)
    tokens = [step.begin(contexts, action_mask, noise) for step in steps]
    np.testing.assert_allclose(*tokens, rtol=0, atol=1e-10)
    for _ in range(n):
        features = np.random.default_rng(seed).normal(size=(batch_size, 10))
        np.testing.assert_allclose(*(step(features) for step in steps), rtol=0, atol=1e-10)
    compiled, plain = steps
    torch.testing.assert_close(compiled.scores, plain.scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(compiled.actions, plain.actions, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
def test_networks_can_be_copied_and_pickled_after_decoding(mixer):
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, HEADS[0], embed_dim=8, decoder_mixer=mixer)).double())
    obs = team_obs(torch.randn(3, 4, 7, dtype=torch.float64))
    size, keys = len(pickle.dumps(network)), list(vars(network.decoder.blocks[0]))
    expected = network.act(obs)
    assert len(pickle.dumps(network)) == size and list(vars(network.decoder.blocks[0])) == keys
    for copied in (deepcopy(network), pickle.loads(pickle.dumps(network))):
        for actual, before in zip(copied.act(obs)[:3], expected[:3], strict=True):
            torch.testing.assert_close(actual, before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
def test_weight_changes_between_decisions_take_effect(mixer):
    """Also if they are changed in place without autograd, loaded, or converted to another dtype."""
    torch.manual_seed(0)
    config = NetworkConfig(7, HEADS[0], embed_dim=8, decoder_mixer=mixer)
    network = randomized(SequencePolicy(config).double())
    obs, other = team_obs(torch.randn(3, 4, 7, dtype=torch.float64)), randomized(SequencePolicy(config).double())
    changes = (
        lambda: randomized(network),
        lambda: network.load_state_dict(other.state_dict()),
        lambda: network.load_state_dict(randomized(other).state_dict(), assign=True),
        lambda: network.float().double(),
    )
    for change in changes:
        network.act(obs)
        change()
        actions, log_probs, *_ = network.act(obs)
        torch.testing.assert_close(network.evaluate(obs, actions)[0].detach(), log_probs, rtol=0, atol=1e-10)


def test_act_returns_no_gradients_with_gradients_enabled():
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, HEADS[2], embed_dim=8)))
    obs = team_obs(torch.randn(3, 4, 7, requires_grad=True))
    assert torch.is_grad_enabled()
    for actual in network.act(obs)[:3]:
        assert not actual.requires_grad and not actual.is_inference()


def test_threads_can_share_a_network():
    """As with a sampler and an evaluation in parallel; only weights are shared between decisions."""
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, HEADS[0], embed_dim=20, n_block=2)))
    batches = [team_obs(torch.randn(9, 5, 7)) for _ in range(16)]
    expected = [network.act(obs) for obs in batches]
    with ThreadPoolExecutor(4) as threads:
        for actual, alone in zip(threads.map(network.act, batches), expected, strict=True):
            torch.testing.assert_close(actual[:3], alone[:3], rtol=0, atol=1e-5)


class LastToken(CausalMixer):
    """A user-defined mixer with plain torch steps only."""

    def __init__(self, shape):
        super().__init__()
        self.proj = linear(shape.embed_dim, shape.embed_dim, gain=1.0)

    def forward(self, x, context=None, state=None, resets=None):
        before = x.new_zeros(len(x), x.shape[2]) if state is None else state
        previous = torch.cat([before.unsqueeze(1), x[:, :-1]], dim=1)
        if resets is not None:
            previous = previous.masked_fill(resets.unsqueeze(-1), 0)
        y = self.proj(previous if context is None else x + context)
        return y, None if state is None else x[:, -1]

    def initial_state(self, batch_size):
        return self.proj.weight.new_zeros(batch_size, len(self.proj.weight))

    def step(self, x, state, context=None):
        return self.proj(state if context is None else x + context), x


@pytest.mark.parametrize(
    "mixers", [PostNormMixers(LastToken, LastToken, LastToken), PreNormMixers(LastToken, LastToken)]
)
def test_mixers_without_kernels_can_be_combined_with_kernels(mixers, monkeypatch):
    monkeypatch.setitem(MIXERS, "last-token", mixers)
    torch.manual_seed(0)
    config = NetworkConfig(7, HEADS[0], embed_dim=8, n_block=2, decoder_mixer="last-token")
    network = randomized(SequencePolicy(config).double())
    obs = team_obs(torch.randn(3, 4, 7, dtype=torch.float64))
    actions, log_probs, *_ = network.act(obs)
    torch.testing.assert_close(network.evaluate(obs, actions)[0].detach(), log_probs, rtol=0, atol=1e-10)


class ReversedHead(CategoricalHead):
    """A user-defined head, without kernels: the least probable choice."""

    def choose(self, scores, noise):
        return super().choose(-scores, noise)


def test_heads_without_kernels_can_be_combined_with_kernels():
    torch.manual_seed(0)
    network = randomized(SequencePolicy(NetworkConfig(7, HEADS[0], embed_dim=8)).double())
    head = ReversedHead(HEADS[0], 8).double()
    head.load_state_dict(network.head.state_dict())
    network.head = head
    obs = team_obs(torch.randn(3, 4, 7, dtype=torch.float64))
    actions, log_probs, *_ = network.act(obs)
    torch.testing.assert_close(network.evaluate(obs, actions)[0].detach(), log_probs, rtol=0, atol=1e-10)
    for choice in range(6):  # of the last agent, all others are at least as probable
        other = actions.clone()
        other[:, -1] = choice
        assert (network.evaluate(obs, other)[0][:, -1] >= log_probs[:, -1] - 1e-12).all()
