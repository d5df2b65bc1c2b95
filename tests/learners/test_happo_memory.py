"""Agents with memory that are updated one after another: windows begin with stored states, for the factor M too."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_seqmarl import HAPPOConfig
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.learners import slices as slicing
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.objectives import FACTOR
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.policies import IndependentPolicy, reset_state
from rllib_seqmarl.rollouts import Rollout

L, ENVS, N = 4, 3, 2


def config(**options: Any) -> HAPPOConfig:
    """Episodes of 5 steps; each sample has 3 environments and at least 13 rows."""
    return (
        HAPPOConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": N, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=ENVS, rollout_fragment_length=13)
        .training(train_batch_size_per_learner=39, lr=1e-2, adam_epsilon=1e-3)
        .network(memory="gru", max_seq_len=L, hidden_sizes=[6])
        .learners(**options)
        .debugging(seed=3)
    )


@pytest.fixture(scope="module")
def runner() -> Any:
    """An env runner whose agents remember, and have gone on for a sample."""
    torch.manual_seed(0)
    runner = RolloutEnvRunner(config=config(), worker_index=0)
    with torch.no_grad():
        for parameter in runner.module.parameters():
            parameter.mul_(3.0)  # so that the past matters
    runner.sample()
    return runner


@pytest.fixture(scope="module")
def rollout(runner: Any) -> Rollout:
    sampled: Rollout = runner.sample()
    assert sampled.is_first[1:].any() and any(state.any() for state in tree.flatten(sampled.states))
    return sampled


def update(runner: Any, rollout: Rollout, order: list[int]) -> tuple[JointPPOTorchLearner, list[torch.Tensor]]:
    """Return a learner with the runner's weights after an update, and the factors (W, L) of the second agent."""
    learner, factors = config().build_learner(env=runner.env), []
    learner.module[DEFAULT_MODULE_ID].load_state_dict(runner.module.state_dict())
    objective = learner._objective

    def recorded(columns: dict[str, Any], *args: Any) -> Any:
        factors.append(columns[FACTOR])
        return objective(columns, *args)

    learner._objective = recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda n: torch.tensor(order))
        learner.update(training_data=RolloutData(rollouts=[rollout]), num_epochs=2)
    return learner, factors


def weights(module: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_an_update_does_not_depend_on_slices(runner: Any, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, factors = update(runner, rollout, [0, 1])
    monkeypatch.setattr(slicing, "TOKENS", 2 * L * N)
    sliced, parts = update(runner, rollout, [0, 1])
    assert len(parts) > len(factors) == 2 * (N + 1)
    learned = [weights(learner.module[DEFAULT_MODULE_ID]) for learner in (sliced, whole)]
    torch.testing.assert_close(*learned, atol=1e-5, rtol=1e-4)


def test_the_factor_is_of_windows_that_begin_with_stored_states(runner: Any, rollout: Rollout) -> None:
    learner, factors = update(runner, rollout, [0, 1])
    assert factors[0].eq(1).all() and torch.equal(factors[2], factors[3])
    before, after = copy.deepcopy(runner.module.policy), learner.module[DEFAULT_MODULE_ID].policy
    ratio = (unroll(after, rollout) - unroll(before, rollout))[..., 0].exp()  # (T, ENVS)
    columns = dict(learner._make_batch(RolloutData(rollouts=[rollout])).policy_batches[DEFAULT_MODULE_ID])
    mask, window, compared = columns[Columns.LOSS_MASK], 0, 0
    for start in range(0, rollout.num_rows, L):
        for env in range(ENVS):
            if rollout.is_step[start : start + L, env].any():
                length = min(L, rollout.num_rows - start)
                is_step = mask[window, :length]
                mine = factors[2][window, :length, 1][is_step]
                torch.testing.assert_close(mine, ratio[start : start + length, env][is_step], atol=1e-5, rtol=1e-5)
                window, compared = window + 1, compared + int(is_step.sum())
    assert compared == rollout.env_steps and (ratio - 1).abs().max() > 1e-2


@torch.no_grad()
def unroll(policy: IndependentPolicy, rollout: Rollout) -> torch.Tensor:
    """Step through the rollout, from the stored states: log-probabilities (T, ENVS, N)."""
    log_probs = []
    for t in range(rollout.num_rows):
        if t % L == 0:
            state = tree.map_structure(lambda x, k=t // L: torch.from_numpy(x[k]), rollout.states)
        state = reset_state(state, torch.from_numpy(rollout.is_first[t]))
        obs = {key: torch.from_numpy(array[t]) for key, array in rollout.obs.items()}
        actions = torch.from_numpy(rollout.outputs["actions"][t])
        window = {key: x.unsqueeze(1) for key, x in obs.items()}
        log_probs.append(policy.evaluate(window, actions.unsqueeze(1), state).log_probs[:, 0])
        state = policy.act(obs, state).state
    return torch.stack(log_probs)


@pytest.mark.usefixtures("ray_cluster")
def test_two_learners_update_agents_like_one(runner: Any, rollout: Rollout) -> None:
    """Advantages are normalised per agent over all learners, which follow the first one's order."""
    expected = [update(runner, rollout, order)[0].module[DEFAULT_MODULE_ID] for order in ([0, 1], [1, 0])]
    assert (weights(expected[0]) - weights(expected[1])).abs().max() > 1e-3
    group = config(num_learners=2).build_learner_group(env=runner.env)
    group.set_weights({DEFAULT_MODULE_ID: runner.module.get_state()})
    group.update(training_data=RolloutData(rollouts=[rollout]), num_epochs=2)
    learned = group.get_weights()[DEFAULT_MODULE_ID]
    group.shutdown()
    errors = [
        max(np.abs(learned[name] - x.detach().numpy()).max() for name, x in module.state_dict().items())
        for module in expected
    ]
    assert min(errors) < 1e-5, errors
