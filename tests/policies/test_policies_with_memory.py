"""Policies with memory: acting step by step equals evaluating windows, whatever remembers, and for whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from rllib_seqmarl import MAMConfig, MAPPOConfig, MARWKVConfig, MATConfig
from rllib_seqmarl.policies import (
    ActionSpec,
    IndependentPolicy,
    Policy,
    SablePolicy,
    SeparatePolicy,
    SequencePolicy,
    reset_state,
)

B, T, N, OBS = 3, 7, 2, 5
DISCRETE, CONTINUOUS = ActionSpec("discrete", (4,)), ActionSpec("continuous", dim=2)
SEQUENCE: dict[str, dict[str, Any]] = {
    "gru": {"memory": "gru"},
    "gru of two layers": {"memory": "gru", "memory_options": {"num_layers": 2}},
    "attention": {"memory": "attention", "memory_options": {"window": 3}, "n_head": 2},
    "mamba": {"memory": "mamba", "encoder_mixer": "mamba", "decoder_mixer": "mamba"},
    "rwkv4": {"memory": "rwkv4", "encoder_mixer": "rwkv4", "decoder_mixer": "rwkv4"},
    "rwkv5": {"memory": "rwkv5"},
    "rwkv6": {"memory": "rwkv6", "agent_order": "shuffled_steps"},
    "an order for each episode": {"memory": "gru", "agent_order": "shuffled"},
    "global state": {"memory": "gru", "state_dim": 3},
    "continuous": {"memory": "gru", "action": CONTINUOUS},
    **{
        f"{name} over time and agents": {"memory": "joint", "encoder_mixer": name, "decoder_mixer": name, "n_block": 2}
        for name in ("mamba", "retention", "rwkv4", "rwkv5", "rwkv6")
    },
    "a mixture over time and agents": {"memory": "joint", "encoder_mixer": "rwkv6", "decoder_mixer": "mamba"},
    "an order for each step": {
        "memory": "joint",
        "encoder_mixer": "mamba",
        "decoder_mixer": "mamba",
        "agent_order": "shuffled_steps",
    },
}
INDEPENDENT: dict[str, dict[str, Any]] = {
    "gru": {"memory": "gru"},
    "own actors": {"memory": "gru", "share_actor": False},
    "own actors with mamba": {"memory": "mamba", "share_actor": False},
    "global state": {"memory": "rwkv6", "state_dim": 3},
    "global state of each agent": {"memory": "gru", "state_dim": 3, "has_agent_states": True},
    "state and own observation": {"memory": "gru", "state_dim": 3, "critic": "agent_state", "death_masking": True},
    "own values": {"memory": "attention", "critic": "observations", "n_head": 2},
    "encoder": {"memory": "gru", "critic": "encoder", "embed_dim": 8},
    "continuous": {"memory": "gru", "action": CONTINUOUS},
}
SABLE: dict[str, dict[str, Any]] = {
    "discrete": {"n_head": 2, "n_block": 2},
    "steps are encoded": {"step_encoding": True, "state_dim": 3},
    "continuous": {"action": CONTINUOUS},
}
for cases in (SEQUENCE, SABLE):  # policies whose compiled decoders carry states
    for name, options in list(cases.items()):
        if cases is SABLE or options.get("memory") == "joint":
            cases[f"{name}, in plain torch"] = options | {"backend": "reference"}
CASES = [(SequencePolicy, case) for case in SEQUENCE.items()] + [(IndependentPolicy, c) for c in INDEPENDENT.items()]
CASES += [(SablePolicy, case) for case in SABLE.items()]

IDS = [f"{kind.__name__}: {case[0]}" for kind, case in CASES]


def make(kind: type[Policy], options: dict[str, Any]) -> Policy:
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (6, 8)} if kind is IndependentPolicy else {"embed_dim": 8}
    team = {"obs_dim": OBS, "n_agents": N, "action": DISCRETE}
    policy = kind(kind.Config(**{**team, **sizes, **options})).double()
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def window(policy: Policy, steps: int = T) -> dict[str, torch.Tensor]:
    """Random joint observations (B, steps, N, ...), in which some agents are dead."""
    config, alive = policy.config, torch.rand(B, steps, N) > 0.2
    obs = {"observations": torch.randn(B, steps, N, OBS, dtype=torch.float64), "alive": alive}
    if config.state_dim:
        agents = (N,) if config.has_agent_states else ()
        obs["state"] = torch.randn(B, steps, *agents, config.state_dim, dtype=torch.float64)
    return obs


@pytest.mark.parametrize(("kind", "case"), CASES, ids=IDS)
def test_steps_equal_windows(kind: type[Policy], case: tuple[str, dict[str, Any]]) -> None:
    policy = make(kind, case[1])
    obs, resets = window(policy), torch.rand(B, T) < 0.3
    resets[0, 3] = True
    state = policy.act(window(policy, 1) | {k: x[:, 0] for k, x in obs.items()}, None).state  # some earlier steps
    assert all(not leaf.any() and len(leaf) == B for leaf in tree_leaves(policy.initial_state(B)))
    first, steps = state, []
    for t in range(T):
        now = {key: x[:, t] for key, x in obs.items()}
        state = reset_state(state, resets[:, t])
        if policy.config.__dict__.get("agent_order", "fixed") == "fixed":
            torch.testing.assert_close(policy.values(now, state), policy.act(now, state).values)
        steps.append(policy.act(now, state, deterministic=False))
        state = steps[-1].state
    stack = tree_map(lambda *x: torch.stack(x, dim=1), *[step._replace(state=()) for step in steps])
    for cuts in ([0, T], [0, 2, 3, T]):
        state = first
        for begin, end in zip(cuts, cuts[1:], strict=False):
            at = (slice(None), slice(begin, end))
            part = {key: x[at] for key, x in obs.items()}
            extras = {key: x[at] for key, x in stack.extras.items()}
            evaluation = policy.evaluate(part, stack.actions[at], state, resets[at], extras)
            torch.testing.assert_close(evaluation.log_probs, stack.log_probs[at], atol=1e-10, rtol=0)
            torch.testing.assert_close(evaluation.values, stack.values[at], atol=1e-10, rtol=0)
            assert evaluation.entropy.shape == stack.log_probs[at].shape
            state = steps[end - 1].state
    (evaluation.log_probs.sum() + evaluation.values.sum()).backward()
    assert [name for name, parameter in policy.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("case", [*INDEPENDENT, "own actors of continuous actions"])
def test_parts_are_those_of_the_whole(case: str) -> None:
    own = {"memory": "gru", "action": CONTINUOUS, "share_actor": False}
    policy = make(IndependentPolicy, INDEPENDENT.get(case, own))
    assert isinstance(policy, SeparatePolicy)
    obs, resets = window(policy), torch.rand(B, T) < 0.3
    if policy.config.action == CONTINUOUS:
        obs["action_mask"] = torch.rand(B, T, N, 2) > 0.2
    decisions = [policy.act({key: x[:, t] for key, x in obs.items()}, deterministic=False) for t in range(T)]
    actions, state = torch.stack([decision.actions for decision in decisions], dim=1), decisions[-1].state
    whole = policy.evaluate(obs, actions, state, resets)
    for agent in range(N):
        log_probs, entropy = policy.evaluate_agent(agent, obs, actions, state, resets)
        torch.testing.assert_close(log_probs, whole.log_probs[..., agent : agent + 1], atol=1e-12, rtol=0)
        torch.testing.assert_close(entropy, whole.entropy[..., agent : agent + 1], atol=1e-12, rtol=0)
    assert torch.equal(policy.evaluate_values(obs, state, resets), whole.values)
    assert log_probs.abs().max() > 0.1


@pytest.mark.parametrize(("kind", "case"), CASES, ids=IDS)
def test_earlier_steps_matter_until_a_reset(kind: type[Policy], case: tuple[str, dict[str, Any]]) -> None:
    policy = make(kind, case[1])
    obs = window(policy) | {"alive": torch.ones(B, T, N, dtype=torch.bool)}
    decision = policy.act({key: x[:, 0] for key, x in obs.items()})
    actions = decision.actions.unsqueeze(1).repeat_interleave(T, 1)
    extras = {key: x.unsqueeze(1).repeat_interleave(T, 1) for key, x in decision.extras.items()}
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[0, 3] = True
    other = {key: obs[key].clone() for key in ("observations", "state") if key in obs}
    for x in other.values():
        x[:, 2] = torch.randn_like(x[:, 2])
    with torch.no_grad():
        whole, changed = (
            policy.evaluate(obs | changes, actions, decision.state, resets, extras) for changes in ({}, other)
        )
    for before, after in ((whole.log_probs, changed.log_probs), (whole.values, changed.values)):
        difference = (before - after).abs().reshape(B, T, -1).amax(-1)  # (B, T)
        assert (difference[:, :2] < 1e-12).all() and (difference[0, 3:] < 1e-12).all()
        assert (difference[:, 2] > 1e-6).all() and (difference[1:, 3:5] > 1e-8).all()


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "window without memory": (MATConfig, {"max_seq_len": 10}, "max_seq_len=10 has no effect without memory"),
    "options without memory": (MAPPOConfig, {"memory_options": {"window": 3}}, "memory_options=.* has no effect"),
    "unknown": (MAMConfig, {"memory": "mmaba"}, "unknown memory='mmaba'. Did you mean 'mamba'.* or None for no memory"),
    "unknown option": (MATConfig, {"memory": "gru", "memory_options": {"window": 3}}, "'window' is not an option of"),
    "option's value": (
        MATConfig,
        {"memory": "attention", "memory_options": {"window": 0}},
        "window must be an integer",
    ),
    "heads": (MAPPOConfig, {"memory": "attention", "n_head": 3}, r"hidden_sizes=\[64, 64\]: the last one"),
    "window": (MARWKVConfig, {"memory": "rwkv6", "max_seq_len": 1000}, "max_seq_len=1000 is longer than the 100 steps"),
    "grows": (MATConfig, {"memory": "joint"}, "that of encoder_mixer='attention' grows with every step"),
    "decoder grows": (MAMConfig, {"memory": "joint", "decoder_mixer": "attention"}, "decoder_mixer='attention' grows"),
    "joint actors": (MAPPOConfig, {"memory": "joint"}, "memory='joint' has no effect on actors"),
    "directions": (MARWKVConfig, {"memory": "joint", "encoder_directions": 2}, "encoder_directions=2 is not supported"),
    "joint options": (MAMConfig, {"memory": "joint", "memory_options": {"d_state": 3}}, "use mixer_options"),
    "length": (MATConfig, {"memory": "gru", "max_seq_len": 0}, "max_seq_len must be an integer >= 1, not 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_memories_that_cannot_be_served_are_refused(case: str) -> None:
    config_class, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        config_class().environment("coordination/distinct_choice").network(**options).validate()
