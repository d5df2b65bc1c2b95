"""Policies that draw the order in which agents decide."""

import pytest
import torch
from random_networks import random_mask, randomized
from torch import Tensor

from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy, reset_state

CHOICES = ActionSpec("discrete", nvec=(3, 2))
N = 4


def policies(action: ActionSpec, order: str) -> tuple[SequencePolicy, SequencePolicy]:
    """A policy with this order, and one with the same weights and a fixed order."""
    torch.manual_seed(0)
    sizes = {"obs_dim": 5, "action": action, "embed_dim": 8, "encoder_mixer": "rwkv6", "n_agents": N}
    drawing, fixed = (SequencePolicy(NetworkConfig(**sizes, agent_order=name)).double() for name in (order, "fixed"))
    fixed.load_state_dict(randomized(drawing).state_dict())
    return drawing, fixed


def random_obs(action: ActionSpec, teams: int) -> dict[str, Tensor]:
    observations = torch.randn(teams, N, 5, dtype=torch.float64)
    alive = torch.rand(teams, N) < 0.8
    return {"observations": observations, "alive": alive, "action_mask": random_mask(action, teams, N)}


@pytest.mark.parametrize("action", [CHOICES, ActionSpec("continuous", dim=2)], ids=lambda action: action.kind)
@pytest.mark.parametrize("order", ["shuffled", "shuffled_steps"])
def test_results_are_those_of_a_fixed_order_after_permuting_agents(action: ActionSpec, order: str) -> None:
    drawing, fixed = policies(action, order)
    obs = random_obs(action, teams=6)
    decision = drawing.act(obs, drawing.initial_state(6))
    rows = torch.arange(6)[:, None], decision.extras["order"]  # (B, 1), (B, n)
    permuted = {key: x[rows] for key, x in obs.items()}
    for ours, theirs in zip(decision[:3], fixed.act(permuted)[:3], strict=True):
        torch.testing.assert_close(ours[rows], theirs)
    evaluation = drawing.evaluate(obs, decision.actions, extras=decision.extras)
    expected = fixed.evaluate(permuted, decision.actions[rows])
    for ours, theirs in zip(evaluation[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours[rows], theirs)
    torch.testing.assert_close(evaluation.log_probs.detach(), decision.log_probs)


def test_an_episode_keeps_its_order_until_a_reset() -> None:
    policy, _ = policies(CHOICES, "shuffled")
    obs = random_obs(CHOICES, teams=64)
    first = policy.act(obs, policy.initial_state(64))
    mask = torch.arange(64) < 32
    second = policy.act(obs, reset_state(first.state, mask))
    changed = (first.extras["order"] != second.extras["order"]).any(-1)
    assert changed[mask].any() and not changed[~mask].any()
    torch.testing.assert_close(policy.values(obs, first.state), first.values)
    for order in (first.extras["order"], second.extras["order"]):
        assert torch.equal(order.sort(-1).values, torch.arange(N).expand(64, N))


@pytest.mark.parametrize(("order", "changes"), [("fixed", False), ("shuffled_steps", True)])
def test_other_orders_carry_no_state(order: str, changes: bool) -> None:
    policy, _ = policies(CHOICES, order)
    obs = random_obs(CHOICES, teams=64)
    first, second = policy.act(obs), policy.act(obs)
    assert policy.initial_state(64) == first.state == {}
    assert ("order" in first.extras) == changes
    assert not changes or not torch.equal(first.extras["order"], second.extras["order"])
