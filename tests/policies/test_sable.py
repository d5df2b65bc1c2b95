"""Sable's policy compared with the published code's numbers: windows, steps, states, and the gradients of its loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss
from rllib_seqmarl.policies import ActionSpec, reset_state
from rllib_seqmarl.policies.sable import RetentionPolicyConfig, SablePolicy

Golden = dict[str, np.ndarray]
STATES = {"encoder": "encoder", "actions": "decoder_self_retn", "cross": "decoder_cross_retn"}
FILES = ("sable_discrete", "sable_continuous")
VARIANTS = [(name, variant) for name in FILES for variant in ("pe_on", "pe_off")]


def load(name: str) -> Golden:
    with np.load(Path(__file__).parent.parent / "golden" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def make_policy(golden: Golden, **options: Any) -> SablePolicy:
    dim = golden["action_dim"].item()
    config = RetentionPolicyConfig(
        obs_dim=golden["obs_dim"].item(),
        action=ActionSpec("discrete", (dim,)) if "action_mask" in golden else ActionSpec("continuous", dim=dim),
        n_agents=golden["n_agents"].item(),
        **{key: golden[key].item() for key in ("embed_dim", "n_head", "n_block")},
        **options,
    )
    policy = SablePolicy(config).double()
    state = published_state(golden, "weights/", config)
    assert state.keys() == dict(policy.named_parameters()).keys()
    policy.load_state_dict(state)
    return policy


def published_state(golden: Golden, prefix: str, config: RetentionPolicyConfig) -> dict[str, Tensor]:
    """The published parameters by our names; kernels are transposed, and the projections of all heads are joined."""
    arrays = {key.removeprefix(prefix): x.astype(np.float64) for key, x in golden.items() if key.startswith(prefix)}
    state: dict[str, np.ndarray] = {}

    def retention(ours: str, theirs: str) -> None:
        for mine, name in (("query", "w_q"), ("key", "w_k"), ("value", "w_v")):
            heads = [arrays[f"{theirs}.retention_heads_{i}.{name}"] for i in range(config.n_head)]
            state[f"{ours}.{mine}.weight"] = np.concatenate(heads, axis=1).T
        state[f"{ours}.gate.weight"], state[f"{ours}.output.weight"] = (
            arrays[f"{theirs}.w_g"].T,
            arrays[f"{theirs}.w_o"].T,
        )
        state[f"{ours}.norm.weight"] = arrays[f"{theirs}.group_norm.scale"]
        state[f"{ours}.norm.bias"] = arrays[f"{theirs}.group_norm.bias"]

    def head(ours: str, theirs: str) -> None:
        for i in (0, 3):
            state[f"{ours}.{i}.weight"] = arrays[f"{theirs}.layers_{i}.kernel"].T
            state[f"{ours}.{i}.bias"] = arrays[f"{theirs}.layers_{i}.bias"]
        state[f"{ours}.2.weight"] = arrays[f"{theirs}.layers_2.scale"]

    state["encoder.embedding.0.weight"] = arrays["encoder.obs_encoder.layers_0.scale"]
    state["encoder.embedding.1.weight"] = arrays["encoder.obs_encoder.layers_1.kernel"].T
    head("encoder.value", "encoder.head")
    head("head.policy", "decoder.head")
    for part in ("encoder", "decoder"):
        state[f"{part}.norm.weight"] = arrays[f"{part}.ln.scale"]
        for i in range(config.n_block):
            ours, theirs = f"{part}.blocks.{i}", f"{part}.{part}_block_{i}"
            retention(f"{ours}.retention", f"{theirs}.{'retn' if part == 'encoder' else 'retn1'}")
            if part == "decoder":
                retention(f"{ours}.cross", f"{theirs}.retn2")
            for norm in (1, 2, 3)[: 2 if part == "encoder" else 3]:
                state[f"{ours}.norm{norm}.weight"] = arrays[f"{theirs}.ln{norm}.scale"]
            for layer in ("gate", "linear", "output"):
                state[f"{ours}.ffn.{layer}.weight"] = arrays[f"{theirs}.ffn.W_{layer}"].T
    kernel = arrays["decoder.action_encoder.layers_0.kernel"]
    if config.action.kind == "discrete":
        state["head.start_row"], state["head.choice_rows"] = kernel[0], kernel[1:]
    else:
        state["head.action_embedding.weight"] = kernel.T
        state["head.action_embedding.bias"] = arrays["decoder.action_encoder.layers_0.bias"]
        state["head.log_std"] = arrays["decoder.log_std"]
    return {key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in state.items()}


def observations(golden: Golden) -> dict[str, Tensor]:
    obs = {"observations": torch.from_numpy(golden["obs"]).double()}
    return obs | ({"action_mask": torch.from_numpy(golden["action_mask"])} if "action_mask" in golden else {})


def initial_state(golden: Golden) -> dict[str, Any]:
    """The published (B, h, n_block, d, d) as a state per block, and the step count before the window."""
    state: dict[str, Any] = {ours: blocks(golden[f"initial_hidden/{theirs}"]) for ours, theirs in STATES.items()}
    return state | {"step": torch.from_numpy(golden["step_count"][:, 0])}


def blocks(array: np.ndarray) -> list[Tensor]:
    return list(torch.from_numpy(array.astype(np.float64)).unbind(-3))


def assert_states(state: dict[str, Any], golden: Golden, prefix: str, at: Any = slice(None)) -> None:
    for ours, theirs in STATES.items():
        if f"{prefix}/{theirs}" in golden:
            for mine, expected in zip(state[ours], blocks(golden[f"{prefix}/{theirs}"][at]), strict=True):
                torch.testing.assert_close(mine, expected, atol=1e-10, rtol=0)


def assert_log_probs(golden: Golden, log_probs: Tensor, expected: np.ndarray, at: Any = ...) -> None:
    """Exact, but for clipped actions, whose threshold the published code computes in single precision."""
    tolerance = np.full(expected.shape, 1e-10)
    if "action_mask" not in golden:
        clipped = (np.abs(golden["given_actions"]) >= 0.999).any(-1)[at]
        assert clipped.sum() <= 2
        tolerance[clipped] = 1e-4
    assert (np.abs(log_probs.detach().numpy() - expected) <= tolerance).all()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_windows(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(name)
    policy = make_policy(golden, step_encoding=variant == "pe_on", decay_scaling=golden["decay_scaling_factor"].item())
    np.testing.assert_allclose(policy.encoder.blocks[0].retention.decay, golden["decay_kappas"], rtol=1e-12)
    obs, actions = observations(golden), torch.from_numpy(golden["given_actions"])
    resets = torch.from_numpy(golden["dones"])
    if "entropy_noise" in golden:
        monkeypatch.setattr(torch, "randn_like", lambda _: torch.from_numpy(golden["entropy_noise"]))
    evaluation = policy.evaluate(obs, actions, initial_state(golden), resets)
    prefix = f"{variant}/train"
    np.testing.assert_allclose(evaluation.values.detach(), golden[f"{prefix}/values"], atol=1e-10)
    np.testing.assert_allclose(evaluation.entropy.detach(), golden[f"{prefix}/given_entropy"], atol=1e-10)
    assert_log_probs(golden, evaluation.log_probs, golden[f"{prefix}/given_log_probs"])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("mode", ["exec_given", "exec_greedy"])
def test_steps(name: str, variant: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(name)
    options = {"step_encoding": variant == "pe_on", "decay_scaling": golden["decay_scaling_factor"].item()}
    # Compiled decoding makes its own decisions.
    policy = make_policy(golden, **options, backend="reference" if mode == "exec_given" else "auto")
    obs, resets, state = observations(golden), torch.from_numpy(golden["dones"]), initial_state(golden)
    given, prefix, chosen = torch.from_numpy(golden["given_actions"]), f"{variant}/{mode}", iter(())
    given = given.double() if given.is_floating_point() else given
    if mode == "exec_given":  # force the decisions
        monkeypatch.setattr(policy.head, "choose", lambda scores, noise: next(chosen))
    for t in range(golden["n_timesteps"].item()):
        chosen = iter(given[:, t].unbind(1))
        state = reset_state(state, resets[:, t])
        decision = policy.act({key: x[:, t] for key, x in obs.items()}, state)
        state = decision.state
        np.testing.assert_allclose(decision.values, golden[f"{prefix}/values"][:, t], atol=1e-10)
        assert_states(state, golden, f"{prefix}/hidden_after_each_step", np.s_[:, t])
        if mode == "exec_given":
            expected = golden[f"{prefix}/given_log_probs"][:, t]
            assert_log_probs(golden, decision.log_probs, expected, np.s_[:, t])
        else:
            np.testing.assert_allclose(decision.actions, golden[f"{prefix}/greedy_actions"][:, t], atol=1e-10)
            np.testing.assert_allclose(decision.log_probs, golden[f"{prefix}/greedy_log_probs"][:, t], atol=1e-10)
    np.testing.assert_array_equal(state["step"], golden["step_count"][:, -1] + 1)


@pytest.mark.parametrize("name", FILES)
def test_without_time(name: str) -> None:
    golden = load(name)
    policy = make_policy(golden, recurrent=False)
    obs = {key: x.flatten(0, 1) for key, x in observations(golden).items()}
    evaluation = policy.evaluate(obs, torch.from_numpy(golden["given_actions"]).flatten(0, 1))
    shape = golden["ff_sable/values"].shape
    np.testing.assert_allclose(evaluation.values.detach().view(shape), golden["ff_sable/values"], atol=1e-10)
    assert_log_probs(golden, evaluation.log_probs.view(shape), golden["ff_sable/given_log_probs"])
    if "ff_sable/given_entropy" in golden:
        entropy = evaluation.entropy.detach().view(shape)
        np.testing.assert_allclose(entropy, golden["ff_sable/given_entropy"], atol=1e-10)


@pytest.mark.parametrize("name", FILES)
def test_gradients_of_the_published_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One minibatch with our loss; the published one normalises advantages itself and has no Huber loss."""
    golden = load(name)
    policy = make_policy(golden, step_encoding=True, decay_scaling=golden["decay_scaling_factor"].item())
    if "entropy_noise" in golden:
        monkeypatch.setattr(torch, "randn_like", lambda _: torch.from_numpy(golden["entropy_noise"]))
    evaluation = policy.evaluate(
        observations(golden), torch.from_numpy(golden["given_actions"]), initial_state(golden),
        torch.from_numpy(golden["dones"]),
    )  # fmt: skip
    ppo = {
        key.removeprefix("ppo/"): torch.from_numpy(x).double() for key, x in golden.items() if key.startswith("ppo/")
    }
    advantages = ppo["advantages"]
    terms = joint_ppo_loss(
        log_probs=evaluation.log_probs,
        old_log_probs=ppo["old_log_probs"],
        advantages=(advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8),
        entropy=evaluation.entropy,
        values=evaluation.values,
        old_values=ppo["old_values"],
        value_targets=ppo["value_targets"],
        weights=torch.full_like(advantages, 1 / advantages.numel()),
        clip_param=ppo["clip_eps"].item(),
        vf_clip_param=ppo["clip_eps"].item(),
        huber_delta=None,
        vf_loss_coeff=ppo["vf_coef"].item(),
        entropy_coeff=ppo["ent_coef"].item(),
    )
    tolerance = 3e-4 if "entropy_noise" in golden else 1e-7  # the threshold of clipped actions, see above
    assert terms["total"].item() == pytest.approx(ppo["total_loss"].item(), abs=tolerance)
    terms["total"].backward()
    expected = published_state(golden, "ppo/grads/", policy.config)
    for key, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=tolerance, rtol=0)


def test_chunks_of_agents_see_earlier_chunks_only() -> None:
    policy = make_policy(load("sable_discrete"), recurrent=False, agents_per_chunk=1)
    obs = {"observations": torch.randn(4, 3, 7).double()}
    other = {"observations": obs["observations"].clone()}
    other["observations"][:, 1] = torch.randn(4, 7)
    changed = (policy.values(obs) != policy.values(other)).all(0).tolist()
    assert changed == [False, True, True]
