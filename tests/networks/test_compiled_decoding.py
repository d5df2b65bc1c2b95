"""Networks decide the same on kernels and in plain torch, and what they keep is not touched by it."""

import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import ACTIONS, cases, random_mask, randomized

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.networks import ActionSpec, JointPolicyNetwork, NetworkConfig
from rllib_seqmarl.networks.decisions import TorchDecisions

pytest.importorskip("numba")

HEADS = [ActionSpec("discrete", (6,)), ActionSpec("discrete", (2, 1, 20)), ActionSpec("continuous", dim=3)]


def in_torch(network: JointPolicyNetwork) -> JointPolicyNetwork:
    """The same network without kernels."""
    plain = JointPolicyNetwork(replace(network.config, backend="reference")).to(next(network.parameters()).dtype)
    plain.load_state_dict(network.state_dict())
    return plain


def assert_same_decisions(network, obs, mask, alive, deterministic, tolerance):
    decisions = []
    for net in (network, in_torch(network)):
        torch.manual_seed(1)
        decisions.append(net.act(obs, mask, alive, deterministic))
        decisions[-1] += (torch.rand(3),)  # as many random numbers were drawn
    for found, expected in zip(*decisions, strict=True):
        assert found.dtype == expected.dtype and found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@settings(max_examples=100, deadline=None)
@given(case=cases(), deterministic=st.booleans())
def test_the_same_decisions_with_a_seed(case, deterministic):
    assert_same_decisions(case.network, case.obs, case.action_mask, case.alive, deterministic, 1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("action", HEADS)
@pytest.mark.parametrize("sizes", [{"embed_dim": 64}, {"embed_dim": 20, "n_head": 2, "n_block": 2}])
def test_in_single_precision_too(mixer, action, sizes):
    torch.manual_seed(0)
    network = randomized(JointPolicyNetwork(NetworkConfig(7, action, decoder_mixer=mixer, **sizes)))
    mask, alive = random_mask(action, 11, 6), torch.rand(11, 6) < 0.8
    assert_same_decisions(network, torch.randn(11, 6, 7), mask, alive, False, 2e-4)


@pytest.mark.parametrize("mixer", ["attention", "mamba"])
def test_with_addition_in_place_of_a_cross_mixer(mixer):
    torch.manual_seed(0)
    config = NetworkConfig(7, HEADS[0], embed_dim=20, n_block=2, decoder_mixer=mixer, decoder_cross="addition")
    network = randomized(JointPolicyNetwork(config).double())
    assert_same_decisions(network, torch.randn(4, 5, 7, dtype=torch.float64), None, None, False, 1e-10)


@pytest.mark.parametrize("action", HEADS)
def test_masks_and_the_living_may_be_broadcast_numbers(action):
    torch.manual_seed(0)
    network = randomized(JointPolicyNetwork(NetworkConfig(7, action, embed_dim=8)).double())
    mask, alive = random_mask(action, 1, 1).to(torch.int8).expand(4, 5, -1), torch.ones(4, 5)
    assert_same_decisions(network, torch.randn(4, 5, 7, dtype=torch.float64), mask, alive, False, 1e-10)


@settings(max_examples=30, deadline=None)
@given(action=ACTIONS, batch_size=st.integers(1, 5), n=st.integers(1, 6), seed=st.integers(0, 2**31))
@torch.no_grad()
def test_a_compiled_head_decides_as_the_head(action, batch_size, n, seed):
    """Scores, actions and tokens, where nothing else can hide a difference."""
    torch.manual_seed(seed)
    head = randomized(JointPolicyNetwork(NetworkConfig(7, action, embed_dim=10)).double()).head
    shape = batch_size, n, action.width
    legal = random_mask(action, batch_size, n)
    noise = head.noise(shape, legal)
    compiled, plain = head.decisions(shape, legal, noise), TorchDecisions(head, n, legal, noise)
    assert not isinstance(compiled, TorchDecisions)
    for _ in range(n):
        features = torch.randn(batch_size, 10, dtype=torch.float64)
        torch.testing.assert_close(compiled(features), plain(features), rtol=0, atol=1e-10)
    torch.testing.assert_close(compiled.scores, plain.scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(compiled.actions, plain.actions, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mixer", MIXERS)
def test_networks_are_copied_and_pickled_as_ever(mixer):
    torch.manual_seed(0)
    network = randomized(JointPolicyNetwork(NetworkConfig(7, HEADS[0], embed_dim=8, decoder_mixer=mixer)).double())
    obs = torch.randn(3, 4, 7, dtype=torch.float64)
    size, keys = len(pickle.dumps(network)), list(vars(network.decoder.blocks[0]))
    expected = network.act(obs)
    assert len(pickle.dumps(network)) == size and list(vars(network.decoder.blocks[0])) == keys
    for copied in (deepcopy(network), pickle.loads(pickle.dumps(network))):
        for found, before in zip(copied.act(obs), expected, strict=True):
            assert torch.equal(found, before)


def test_weights_that_change_between_decisions_are_seen():
    """Also when they change behind autograd's back."""
    torch.manual_seed(0)
    network = randomized(JointPolicyNetwork(NetworkConfig(7, HEADS[0], embed_dim=8)).double())
    obs = torch.randn(3, 4, 7, dtype=torch.float64)
    network.act(obs)
    randomized(network)
    actions, log_probs, _ = network.act(obs)
    torch.testing.assert_close(network.evaluate(obs, actions)[0].detach(), log_probs, rtol=0, atol=1e-10)
