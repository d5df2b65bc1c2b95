"""A policy with memory: its state travels from sampling to the learner, which learns in windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import recurrent_policy
import torch
from ray import cloudpickle
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.learners import slices as slicing
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.minibatches import make_batch, minibatches
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.modules.joint_sequence_module import RESETS
from rllib_seqmarl.rollouts import Rollout

L, ENVS, N = 4, 3, 2


def config(**options: Any) -> MATConfig:
    """Episodes of 5 steps; each sample has 3 environments and at least 13 rows."""
    built = (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": N, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=ENVS, rollout_fragment_length=13)
        .training(train_batch_size_per_learner=39, num_epochs=2)
        .network(policy="recurrent", max_seq_len=L)
        .debugging(seed=3)
    )
    for key, value in options.items():
        setattr(built, key, value)
    return built


def make_runner(cls: Any = RolloutEnvRunner, **options: Any) -> Any:
    torch.manual_seed(0)
    runner = cls(config=config(**options), worker_index=0)
    with torch.no_grad():
        for parameter in runner.module.parameters():
            parameter.mul_(3.0)  # so that the past matters
    return runner


def sample(runner: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return runner.sample()


def make_learner(runner: Any, **options: Any) -> JointPPOTorchLearner:
    """Create a learner with the runner's weights."""
    learner = config(**options).build_learner(env=runner.env)
    learner.module[DEFAULT_MODULE_ID].load_state_dict(runner.module.state_dict())
    return learner


def columns_of(learner: JointPPOTorchLearner, data: TrainingData) -> dict[str, Any]:
    return dict(learner._make_batch(data).policy_batches[DEFAULT_MODULE_ID])


def by_step(learner: JointPPOTorchLearner, columns: dict[str, Any]) -> dict[str, np.ndarray]:
    """Select the steps of windows, in the order of their advantages and values, with the current log-probabilities."""
    log_probs, values = learner._evaluate(columns)
    mask = columns[Columns.LOSS_MASK]
    names = (Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS, Columns.ACTION_LOGP, Columns.VF_PREDS)
    steps = {name: columns[name][mask].numpy() for name in names} | {
        "log_probs": log_probs[mask].numpy(),
        "values": values[mask].numpy(),
    }
    order = np.lexsort(steps[Postprocessing.ADVANTAGES].T.round(4))
    return {name: array[order] for name, array in steps.items()}


def test_states_are_carried_over_samples_and_zeroed_at_resets() -> None:
    runner = make_runner()
    module, hidden = runner.module, np.zeros((ENVS, N, 6), np.float32)
    for _ in range(3):
        rollout = runner.sample()
        np.testing.assert_allclose(rollout.states["hidden"][0], hidden * ~rollout.is_first[0, :, None, None], atol=1e-6)
        for t in range(rollout.num_rows):
            hidden = hidden * ~rollout.is_first[t, :, None, None]
            if t % L == 0:
                np.testing.assert_allclose(rollout.states["hidden"][t // L], hidden, atol=1e-6)
            obs = {key: torch.from_numpy(array[t]) for key, array in rollout.obs.items()}
            decision = module.policy.act(obs, {"hidden": torch.from_numpy(hidden)})
            np.testing.assert_allclose(
                rollout.outputs["vf_preds"][t], module.denormalize_values(decision.values).detach(), atol=1e-5
            )
            hidden = decision.state["hidden"].detach().numpy()
        np.testing.assert_allclose(
            rollout.last_state["hidden"], hidden * (runner._record.lengths > 0)[:, None, None], atol=1e-6
        )
        assert rollout.is_first[1:].any() and len(rollout.states["hidden"]) == -(-rollout.num_rows // L)


def test_windows_give_the_log_probabilities_of_sampling() -> None:
    runner = make_runner()
    learner = make_learner(runner)
    for _ in range(2):  # the second sample continues episodes
        rollout = runner.sample()
        columns = columns_of(learner, RolloutData(rollouts=[rollout]))
        assert columns[Columns.ACTIONS].shape[1:] == (L, N)
        mask = columns[Columns.LOSS_MASK]
        assert mask.sum() == rollout.env_steps and not mask.all() and columns[RESETS][:, 1:].any()
        log_probs, values = learner._evaluate(columns)
        torch.testing.assert_close(log_probs[mask], columns[Columns.ACTION_LOGP][mask], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values[mask], columns[Columns.VF_PREDS][mask], atol=1e-5, rtol=1e-5)
        advantages = columns[Postprocessing.ADVANTAGES][mask]
        assert advantages.mean().abs() < 1e-6 and advantages.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-3)


def test_gradients_are_those_of_a_plain_unroll_from_the_stored_states() -> None:
    runner = make_runner()
    learner = make_learner(runner, entropy_coeff=0.0, vf_loss_coeff=0.0)
    runner.sample()
    rollout = runner.sample()
    columns = columns_of(learner, RolloutData(rollouts=[rollout]))
    advantages = np.zeros((rollout.num_rows, ENVS, N), np.float32)
    holds_steps = [(k, b) for k in range(-(-rollout.num_rows // L)) for b in range(ENVS)]
    holds_steps = [(k, b) for k, b in holds_steps if rollout.is_step[k * L : (k + 1) * L, b].any()]
    for window, (k, b) in enumerate(holds_steps):
        length = min(L, rollout.num_rows - k * L)
        advantages[k * L : k * L + length, b] = columns[Postprocessing.ADVANTAGES][window, :length]

    module = learner.module[DEFAULT_MODULE_ID]
    module.zero_grad()
    total = torch.zeros(())
    for b in range(ENVS):
        for t in range(rollout.num_rows):
            if t % L == 0:
                hidden = torch.from_numpy(rollout.states["hidden"][t // L, b])[None]
            if rollout.is_first[t, b]:
                hidden = torch.zeros_like(hidden)
            hidden = module.policy._step(torch.from_numpy(rollout.obs["observations"][t, b])[None], hidden)
            if rollout.is_step[t, b]:
                logits = module.policy.logits(hidden)[0].log_softmax(-1)
                actions = torch.from_numpy(rollout.outputs["actions"][t, b])
                ratio = (
                    logits.gather(-1, actions[:, None])[:, 0] - torch.from_numpy(rollout.outputs["action_logp"][t, b])
                ).exp()
                total = total - (ratio * torch.from_numpy(advantages[t, b])).sum()
    (total / (rollout.env_steps * N)).backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}

    applied: dict[str, torch.Tensor] = {}
    learner.apply_gradients = lambda gradients: applied.update(
        {name: gradients[p] for name, p in module.named_parameters()}
    )
    learner.config.grad_clip = None
    learner._uncompiled_update({DEFAULT_MODULE_ID: columns})
    assert {"network.cell.weight_hh", "network.logits.weight"} <= expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(applied[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_rllibs_loop_and_connectors_give_the_same_steps() -> None:
    ours, theirs = make_runner(), make_runner(JointEnvRunner)
    learner = make_learner(ours)
    for seed in range(3):
        rollout, episodes = sample(ours, seed), sample(theirs, seed)
        assert isinstance(rollout, Rollout) and isinstance(episodes, list)
        expected = by_step(learner, columns_of(learner, RolloutData(rollouts=[rollout])))
        actual = by_step(learner, columns_of(learner, TrainingData(episodes=episodes)))
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], atol=2e-5, err_msg=name)


def test_with_users_connectors_rllib_carries_the_state() -> None:
    class Nothing(ConnectorV2):
        def __call__(self, *, batch: Any, **kwargs: Any) -> Any:
            return batch

    plain = make_runner(JointEnvRunner)
    users = make_runner(JointEnvRunner, _env_to_module_connector=lambda *args, **kwargs: Nothing())
    learner = make_learner(plain)
    for seed in range(2):
        samples = [TrainingData(episodes=sample(runner, seed)) for runner in (plain, users)]
        expected, actual = (by_step(learner, columns_of(learner, data)) for data in samples)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], atol=2e-5, err_msg=name)


def test_learner_connectors_get_episodes_with_states() -> None:
    runner = make_runner(_learner_connector=lambda *_: [])
    assert "learner_connector" in (runner.obstacle() or "")
    assert all(Columns.STATE_OUT in episode.extra_model_outputs for episode in runner.sample())


@pytest.mark.parametrize("num_shares", [2, 5, 7])
def test_shares_keep_whole_windows(num_shares: int) -> None:
    runner = make_runner()
    learner = make_learner(runner)
    runner.sample()
    rollout = runner.sample()
    whole = columns_of(learner, RolloutData(rollouts=[rollout]))
    shares = [columns_of(learner, share) for share, _ in RolloutData(rollouts=[rollout]).shard(num_shares)]
    for key in (Columns.ACTION_LOGP, RESETS, Columns.LOSS_MASK, Columns.VF_PREDS, ("state_in", "hidden")):

        def get(columns: dict[str, Any], key: Any = key) -> Any:
            return columns[key[0]][key[1]] if isinstance(key, tuple) else columns[key]

        rows = [row for share in shares for row in get(share).flatten(1).tolist()]
        mask = [row for share in shares for row in share[Columns.LOSS_MASK].tolist()]
        expected = get(whole).flatten(1).tolist()
        assert sorted(map(str, rows)) == sorted(map(str, expected)) and len(mask) == len(expected)


def test_minibatches_hold_whole_windows_and_count_steps() -> None:
    runner = make_runner()
    batch = make_learner(runner)._make_batch(RolloutData(rollouts=[runner.sample()]))
    parts = list(minibatches(batch, size=13, num_epochs=2, shuffle=True))
    assert len(parts) == 2 * batch.env_steps() // 13
    assert sum(part.env_steps() for part in parts) == 2 * batch.env_steps()
    windows = [len(part.policy_batches[DEFAULT_MODULE_ID][Columns.ACTIONS]) for part in parts]
    assert max(windows) - min(windows) <= 1
    assert list(minibatches(batch, size=1000, num_epochs=3, shuffle=True)) == [batch] * 3
    assert make_batch(dict(batch.policy_batches[DEFAULT_MODULE_ID])).env_steps() == batch.env_steps()


@pytest.mark.parametrize("options", [{}, {"sample_while_learning": True}])
def test_an_update_does_not_depend_on_slices(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner()
    data, weights = RolloutData(rollouts=[runner.sample()]), []
    for tokens in (1 << 12, 2 * L * N):
        monkeypatch.setattr(slicing, "TOKENS", tokens)
        learner = make_learner(runner, lr=1e-2, adam_epsilon=1e-3, **options)
        torch.manual_seed(0)
        learner.update(training_data=data, num_epochs=2)
        weights.append(torch.cat([p.detach().flatten() for p in learner.module[DEFAULT_MODULE_ID].parameters()]))
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


def test_non_steps_do_not_affect_an_update() -> None:
    runner = make_runner()
    rollout = runner.sample()
    spoilt = dataclasses.replace(rollout, outputs={key: array.copy() for key, array in rollout.outputs.items()})
    spoilt.outputs["action_logp"][~rollout.is_step] = -5.0
    weights = []
    for sample in (rollout, spoilt):
        learner = make_learner(runner)
        learner.update(training_data=RolloutData(rollouts=[sample]))
        weights.append(torch.cat([p.detach().flatten() for p in learner.module[DEFAULT_MODULE_ID].parameters()]))
    torch.testing.assert_close(*weights, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.network(max_seq_len=14), "max_seq_len=14 is longer than the 13 steps .*Decrease max_seq_len"),
        (lambda c: c.training(minibatch_size=3), "minibatch_size=3 is less than a window of max_seq_len=4 steps"),
        (lambda c: c.network(max_seq_len=0), "max_seq_len=0 is not a whole number"),
        (lambda c: c.network(policy="sequence"), "max_seq_len=4 has no effect without memory"),
        (
            lambda c: c.env_runners(episode_lookback_horizon=0),
            "episode_lookback_horizon=0 loses the state .* set it to 1",
        ),
        (
            lambda _: MATConfig().network(agent_order="shuffled").env_runners(episode_lookback_horizon=0),
            "episode_lookback_horizon=0 loses the state of policy='sequence'",
        ),
        (lambda _: MATConfig().rl_module(model_config={"max_seq_len": 4}), "max_seq_len"),
        (lambda _: MATConfig().network(max_seq_len=4), "max_seq_len=4 has no effect without memory"),
    ],
)
def test_unusable_windows_are_refused(change: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        change(config()).validate()


def test_policies_without_a_state_need_no_lookback() -> None:
    MATConfig().network(agent_order="shuffled_steps").env_runners(episode_lookback_horizon=0).validate()


@pytest.mark.usefixtures("ray_cluster")
def test_two_learners_learn_windows_like_one() -> None:
    cloudpickle.register_pickle_by_value(recurrent_policy)  # workers cannot import it
    runner = make_runner()
    rollout = runner.sample()
    learner = make_learner(runner, adam_epsilon=1e-3)
    learner.update(training_data=RolloutData(rollouts=[rollout]), num_epochs=2)
    group = config(adam_epsilon=1e-3, num_learners=2).build_learner_group(env=runner.env)
    group.set_weights({DEFAULT_MODULE_ID: runner.module.get_state()})
    group.update(training_data=RolloutData(rollouts=[rollout]), num_epochs=2)
    for name, weight in group.get_weights()[DEFAULT_MODULE_ID].items():
        expected = learner.module[DEFAULT_MODULE_ID].state_dict()[name].numpy()
        np.testing.assert_allclose(weight, expected, atol=1e-5, rtol=1e-4, err_msg=name)
    group.shutdown()


@pytest.mark.usefixtures("ray_cluster")
def test_an_algorithm_trains_a_policy_with_memory() -> None:
    algo = config(minibatch_size=10).build_algo()
    for _ in range(2):
        results = algo.train()
    learned = results["learners"][DEFAULT_MODULE_ID]
    assert np.isfinite(learned["policy_loss"]) and learned["num_module_steps_trained"] >= 2 * 39
    algo.stop()


def test_a_users_objective_is_checked_on_windows() -> None:
    def mean(columns: Any, outputs: Any, settings: Any) -> Any:
        return {"total": outputs[Columns.VF_PREDS].square().mean()}

    runner = make_runner()
    with pytest.raises(ValueError, match="'total' is .* the sum over its halves"):
        make_learner(runner, objective=mean)
    learner = make_learner(runner, objective="rllib_seqmarl.learners.objectives:joint_ppo")
    learner.update(training_data=RolloutData(rollouts=[runner.sample()]))
