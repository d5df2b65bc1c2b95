"""Agents decide in the order that the sequence policy draws; its arrays keep the environment's order of agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import Case, cases
from torch import Tensor

from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy, reset_state

TEAMS, N = 20, 5


def permuted(x: Tensor, order: Tensor) -> Tensor:
    return torch.stack([row[agents] for row, agents in zip(x, order, strict=True)])


@settings(max_examples=60, deadline=None)
@given(cases(), st.booleans())
def test_permutation_equals_permuting_the_agents_by_hand(case: Case, deterministic: bool) -> None:
    """The extra "order" lists the agents, first decider first; both act and evaluate follow it."""
    policy = case.network
    torch.manual_seed(1)
    decision = policy.act(case.obs, deterministic=deterministic)
    evaluation = policy.evaluate(case.obs, decision.actions, extras=decision.extras)
    order = decision.extras.get("order", torch.arange(case.teams[1]).expand(case.teams))
    assert torch.equal(order.sort(-1).values, torch.arange(case.teams[1]).expand(case.teams))

    plain = SequencePolicy(NetworkConfig.from_dict({**policy.config.to_dict(), "agent_order": "fixed"})).double()
    plain.load_state_dict(policy.state_dict())
    by_hand = {key: x if key == "state" else permuted(x, order) for key, x in case.obs.items()}
    if deterministic:
        expected = plain.act(by_hand)
        torch.testing.assert_close(permuted(decision.actions, order), expected.actions, atol=1e-10, rtol=0)
        torch.testing.assert_close(permuted(decision.log_probs, order), expected.log_probs, rtol=0, atol=1e-10)
        torch.testing.assert_close(permuted(decision.values, order), expected.values, rtol=0, atol=1e-10)
    again = plain.evaluate(by_hand, permuted(decision.actions, order))
    for ours, theirs in zip(evaluation[:3], again[:3], strict=True):
        torch.testing.assert_close(permuted(ours, order), theirs, rtol=0, atol=1e-10)


def test_a_state_of_each_agent_follows_its_agent() -> None:
    torch.manual_seed(0)
    configs = [NetworkConfig(4, ActionSpec("discrete", (3,)), n_agents=N, state_dim=2, agent_order=order)
               for order in ("fixed", "shuffled_steps")]  # fmt: skip
    fixed, shuffled = map(SequencePolicy, configs)
    shuffled.load_state_dict(fixed.state_dict())
    obs = {"observations": torch.randn(TEAMS, N, 4), "state": torch.randn(TEAMS, N, 2)}
    torch.testing.assert_close(shuffled.values(obs), fixed.values(obs))  # attention is equivariant


def policy_of(agent_order: Any) -> tuple[SequencePolicy, dict[str, Tensor]]:
    torch.manual_seed(0)
    config = NetworkConfig(4, ActionSpec("discrete", (3,)), n_agents=N, embed_dim=8, agent_order=agent_order)
    return SequencePolicy(config), {"observations": torch.randn(TEAMS, N, 4), "alive": torch.ones(TEAMS, N)}


@pytest.mark.parametrize("begins", ["with zeros", "without state"])
def test_an_episode_keeps_its_order_and_the_next_draws_another(begins: str) -> None:
    policy, obs = policy_of("shuffled")
    first = policy.act(obs, policy.initial_state(TEAMS) if begins == "with zeros" else None)
    orders = first.extras["order"]
    assert len(orders.unique(dim=0)) > 1  # every team has its own
    second = policy.act(obs, first.state, deterministic=False)
    assert torch.equal(second.extras["order"], orders) and torch.equal(second.state["order"], orders)
    ended = torch.arange(TEAMS) % 2 == 0
    third = policy.act(obs, reset_state(second.state, ended)).extras["order"]
    assert torch.equal(third[~ended], orders[~ended])
    assert (third[ended] != orders[ended]).any(-1).sum() > TEAMS / 4  # 1 of 120 new orders is the old one


def test_every_step_may_have_its_own_order() -> None:
    policy, obs = policy_of("shuffled_steps")
    assert policy.initial_state(TEAMS) == {}
    one, other = (policy.act(obs) for _ in range(2))
    assert one.state == {} and (one.extras["order"] != other.extras["order"]).any()


def test_the_order_is_uniform() -> None:
    """Each of the 6 orders of 3 agents has a sixth of the draws: chi-squared with 5 degrees of freedom."""
    torch.manual_seed(0)
    policy = SequencePolicy(NetworkConfig(1, ActionSpec("discrete", (2,)), embed_dim=4, agent_order="shuffled_steps"))
    orders = policy.act({"observations": torch.zeros(6000, 3, 1)}).extras["order"]
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 6 and ((counts - 1000) ** 2 / 1000).sum() < 20.5  # p = 0.001


def test_a_fixed_order_carries_nothing() -> None:
    policy, obs = policy_of("fixed")
    decision = policy.act(obs)
    assert policy.initial_state(TEAMS) == decision.state == decision.extras == {}


def test_values_of_an_episode_use_its_order() -> None:
    """A causal encoder's values depend on the order."""
    torch.manual_seed(0)
    mixers = {"encoder_mixer": "rwkv4", "decoder_mixer": "rwkv4"}
    config = NetworkConfig(4, ActionSpec("discrete", (3,)), n_agents=N, embed_dim=8, agent_order="shuffled", **mixers)
    policy = SequencePolicy(config).double()
    for parameter in policy.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    obs = {"observations": torch.randn(TEAMS, N, 4, dtype=torch.float64)}
    decision = policy.act(obs)
    with torch.no_grad():
        again, other = policy.values(obs, decision.state), policy.values(obs)
    np.testing.assert_allclose(again, decision.values, rtol=0, atol=1e-12)
    assert not np.allclose(other, again, atol=1e-3)
