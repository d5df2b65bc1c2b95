"""MAPPO's network and whole updates compared with the published implementations' numbers.

`mappo_update` is of HARL, with one state, reward and value per environment; `rmappo_update*` are of the original code,
where every agent has its own. In `*_recurrent`, actors and critic have GRUs, trained on windows of 3 steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tree
from golden_rollout import (
    ENVS,
    Golden,
    T,
    load,
    observations,
    option,
    per_agent,
    published_state,
    rows,
    set_published_state,
    spaces,
)
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_seqmarl import MAPPOConfig
from rllib_seqmarl.learners.advantages import AGENT_EARNS, normalize_advantages, per_agent_gae
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.minibatches import make_batch
from rllib_seqmarl.modules.joint_sequence_module import RESETS
from rllib_seqmarl.policies import reset_state

FILES = ("mappo_update", "rmappo_update", "rmappo_update_continuous")
VARIANTS = [
    ("mappo_update", "once"),
    ("mappo_update", "fresh_epochs"),
    ("rmappo_update", "once"),
    ("rmappo_update", "epochs"),
    ("rmappo_update_continuous", "once"),
    ("rmappo_update_continuous", "epochs"),
    ("mappo_recurrent", "once"),
    ("mappo_recurrent", "epochs"),
    ("rmappo_recurrent", "once"),
    ("rmappo_recurrent", "epochs"),
]
RECURRENT = ("mappo_recurrent", "rmappo_recurrent")
L = 3


def make_learner(golden: Golden) -> JointPPOTorchLearner:
    """Create a learner in the state of the published one before its update."""
    config = (
        MAPPOConfig()
        .network(hidden_sizes=[16, 16], activation=option(golden, "activation"), std="exp")
        .training(
            lr=option(golden, "lr"),
            critic_lr=option(golden, "critic_lr"),
            adam_epsilon=option(golden, "adam_eps"),
            clip_param=option(golden, "clip"),
            huber_delta=option(golden, "huber_delta"),
            entropy_coeff=option(golden, "entropy_coef"),
            vf_loss_coeff=option(golden, "value_loss_coef"),
            grad_clip=option(golden, "max_grad_norm"),
        )
    )
    if "config/recurrent_layers" in golden:
        config.network(memory="gru", max_seq_len=option(golden, "chunk_length"))
    joint_spaces = spaces(golden)
    learner = config.build_learner(
        spaces={DEFAULT_MODULE_ID: joint_spaces, "__env__": (None, None), "__env_single__": joint_spaces}
    )
    set_published_state(golden, learner.module[DEFAULT_MODULE_ID])
    return learner


@pytest.mark.parametrize("name", FILES)
def test_forward(name: str) -> None:
    golden = load(name)
    policy = make_learner(golden).module[DEFAULT_MODULE_ID].policy
    obs = observations(golden)
    values = policy.values(obs).detach()
    torch.testing.assert_close(values, rows(per_agent(golden["values_normalised"]), T + 1), rtol=0, atol=1e-5)
    if option(golden, "action_dim") > 1:
        obs["alive"] = torch.ones_like(obs["alive"])  # dead agents go on acting in this file
    evaluation = policy.evaluate({key: array[: T * ENVS] for key, array in obs.items()}, rows(golden["actions"]))
    torch.testing.assert_close(
        evaluation.log_probs.detach(), rows(golden["log_probs_before_update"]), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(evaluation.entropy.detach(), rows(golden["entropy_per_step"]), rtol=0, atol=1e-5)


def hidden_states(golden: Golden, row: int, prefix: str = "") -> dict[str, Any]:
    """The state before a row: of the actors (ENVS, N, layers, h), and of the critic (ENVS, 1 or N, layers, h)."""
    actor, critic = (torch.from_numpy(golden[f"{prefix}{part}_hidden"][row]) for part in ("actor", "critic"))
    return {"actor": {"hidden": actor}, "critic": {"hidden": critic if critic.dim() == 4 else critic.unsqueeze(1)}}


def resets(golden: Golden) -> Tensor:
    """Whether an episode begins with the row, (T, ENVS)."""
    continues = golden["episode_continues"][:T]
    return torch.from_numpy((continues if continues.ndim == 2 else continues[..., 0]) == 0)


def windows(x: Tensor) -> Tensor:
    """(T / L * ENVS, L, ...) of steps (T * ENVS, ...)."""
    return x.unflatten(0, (T // L, L, ENVS)).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("name", RECURRENT)
def test_steps_with_memory(name: str) -> None:
    golden, prefix = load(name), "forward_sequence/"
    policy = make_learner(golden).module[DEFAULT_MODULE_ID].policy
    obs = {key: x.unflatten(0, (T + 1, ENVS)) for key, x in observations(golden).items()}
    state = hidden_states(golden, 0)
    for t in range(T):
        state = reset_state(state, resets(golden)[t])
        now = {key: x[t] for key, x in obs.items()}
        window = {key: x.unsqueeze(1) for key, x in now.items()}
        with torch.no_grad():
            evaluation = policy.evaluate(window, torch.from_numpy(golden["actions"][t])[:, None], state)
        for key, mine in (("log_probs", evaluation.log_probs), ("entropy_per_step", evaluation.entropy)):
            np.testing.assert_allclose(mine[:, 0], golden[prefix + key][t], atol=1e-5)
        values = per_agent(golden[prefix + "values_normalised"])[t]
        np.testing.assert_allclose(policy.values(now, state).detach(), values, atol=1e-5)
        state = policy.act(now, state).state
        for part, expected in hidden_states(golden, t + 1, prefix).items():
            np.testing.assert_allclose(state[part]["hidden"], expected["hidden"], atol=1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_windows_with_memory(name: str) -> None:
    golden, prefix = load(name), "forward_chunks/"
    policy = make_learner(golden).module[DEFAULT_MODULE_ID].policy
    columns = with_windows(golden, train_batch(golden, "once"))
    with torch.no_grad():
        evaluation = policy.evaluate(
            columns[Columns.OBS], columns[Columns.ACTIONS], columns[Columns.STATE_IN], columns[RESETS]
        )
    for key, mine in (
        ("log_probs", evaluation.log_probs),
        ("entropy_per_step", evaluation.entropy),
        ("values_normalised", evaluation.values),
    ):
        expected = windows(rows(per_agent(golden[prefix + key])))
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def with_windows(golden: Golden, columns: dict[str, Any]) -> dict[str, Any]:
    """The batch as windows of L steps, which begin with the states of the policy that acted."""
    states = [hidden_states(golden, row) for row in range(0, T, L)]
    columns = tree.map_structure(windows, columns)
    columns[Columns.STATE_IN] = tree.map_structure(lambda *leaves: torch.cat(leaves), *states)
    columns[RESETS] = windows(resets(golden).flatten())
    columns[Columns.LOSS_MASK] = torch.ones_like(columns[RESETS])
    return columns


@pytest.mark.parametrize("name", (*FILES, *RECURRENT))
def test_returns(name: str) -> None:
    """The returns of episodes that a time limit ends like a termination, the setting that both have."""
    golden = load(name)
    normalizer = make_learner(golden).module[DEFAULT_MODULE_ID].value_normalizer
    values = normalizer.denormalize(torch.from_numpy(per_agent(golden["value_predictions_normalised"]))).numpy()
    advantages = per_agent_gae(
        per_agent(golden["rewards"]),
        values,
        per_agent(golden["episode_continues"])[1:],
        gamma=option(golden, "gamma"),
        lambda_=option(golden, "gae_lambda"),
    )
    key = "returns_time_limits_ignored" if option(golden, "use_proper_time_limits") else "returns"
    np.testing.assert_allclose(advantages + values[:-1], per_agent(golden[key]), atol=1e-5)


def train_batch(golden: Golden, variant: str) -> dict[str, Any]:
    """The columns of the published rollout, with its advantages and returns."""
    data = golden
    if variant == "fresh_epochs":  # the policy that acted is the one before the update
        data = golden | {key.removeprefix("fresh/"): x for key, x in golden.items() if key.startswith("fresh/")}
    alive = rows(data["active"])
    advantages = normalize_advantages(rows(per_agent(data["advantages"])), alive)
    torch.testing.assert_close(advantages, rows(data[f"{variant}/advantages_normalised"]), rtol=0, atol=1e-5)
    masks_values = option(golden, "use_value_active_masks")  # never in HARL
    return {
        Columns.OBS: {key: array[: T * ENVS] for key, array in observations(data).items()},
        Columns.ACTIONS: rows(data["actions"]),
        Columns.ACTION_LOGP: rows(data["log_probs"]),
        Columns.VF_PREDS: rows(per_agent(data["value_predictions_normalised"])),
        # The published surrogate of continuous actions counts every dimension (a broadcast), so its scale differs.
        Postprocessing.ADVANTAGES: advantages * option(golden, "action_dim"),
        Postprocessing.VALUE_TARGETS: rows(per_agent(data["returns"])),
        AGENT_EARNS: alive if masks_values else torch.ones_like(alive),
    }


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_whole_update(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradient norms (means over epochs), normaliser and weights after one or three epochs."""
    golden = load(name)
    learner = make_learner(golden)
    module = learner.module[DEFAULT_MODULE_ID]
    update = module.update_value_normalizer  # the published one is updated with the returns of all agents
    monkeypatch.setattr(
        module, "update_value_normalizer", lambda returns, weights=None, sync=None: update(returns, sync=sync)
    )
    columns, epochs = train_batch(golden, variant), golden[f"{variant}/epochs"].item()
    if name in RECURRENT:
        columns = with_windows(golden, columns)
    sums: dict[str, float] = {}
    for _ in range(epochs):
        batch = make_batch(columns)
        results = learner.update(training_data=TrainingData(batch=batch))[DEFAULT_MODULE_ID]
        for key, value in results.items():
            if key.startswith(("gradients", "policy_loss", "vf_loss", "entropy")):
                sums[key] = sums.get(key, 0.0) + float(getattr(value, "peek", lambda v=value: v)())
    for ours, theirs in {
        "policy_loss": "policy_loss",
        "vf_loss": "value_loss",
        "entropy": "entropy",
        "gradients_actor_optimizer_global_norm": "actor_grad_norm",
        "gradients_critic_optimizer_global_norm": "critic_grad_norm",
    }.items():
        assert sums[ours] / epochs == pytest.approx(golden[f"{variant}/{theirs}"].item(), abs=1e-5), ours
    for ours, theirs in (("mean", "mean"), ("mean_square", "mean_sq"), ("debias", "debias")):
        expected = golden[f"{variant}/valuenorm_{theirs}_after"].item()
        assert getattr(module.value_normalizer, ours).item() == pytest.approx(expected, abs=1e-8), ours
    before = published_state(golden, "weights/", module.policy)
    after = published_state(golden, f"{variant}/weights_after/", module.policy)
    for key, weight in after.items():
        np.testing.assert_allclose(module.policy.get_parameter(key).detach(), weight, atol=1e-5, err_msg=key)
    # The tolerance is only meaningful if the weights have changed by more.
    assert max((after[key] - before[key]).abs().max() for key in before) > 9e-4
