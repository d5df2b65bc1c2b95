"""A complete update from rollout to new weights, compared with the published implementation's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl import MATConfig, load_published_mat
from rllib_seqmarl.learners.advantages import per_agent_gae
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner

GOLDEN = Path(__file__).parent.parent / "golden" / "mat_ppo_update.npz"
T, ENVS, N, OBS_DIM, N_ACTIONS = 8, 4, 3, 10, 5


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


def published_state(golden: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    weights = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    return load_published_mat(weights, n_head=1).state_dict()


def spaces() -> tuple[gym.Space, gym.Space]:
    return (
        gym.spaces.Dict(
            {
                "observations": gym.spaces.Box(-np.inf, np.inf, (N, OBS_DIM), np.float32),
                "alive": gym.spaces.MultiBinary(N),
                "action_mask": gym.spaces.MultiBinary((N, N_ACTIONS)),
            }
        ),
        gym.spaces.MultiDiscrete([N_ACTIONS] * N),
    )


def make_learner(golden: dict[str, np.ndarray]) -> JointPPOTorchLearner:
    """Create a learner in the state of the published one before its update."""
    config = (
        MATConfig()
        .network(embed_dim=32)
        .training(
            gamma=float(golden["gamma"]),
            lambda_=float(golden["gae_lambda"]),
            lr=float(golden["lr"]),
            adam_epsilon=float(golden["adam_eps"]),
            clip_param=float(golden["clip"]),
            huber_delta=float(golden["huber_delta"]),
            entropy_coeff=float(golden["entropy_coef"]),
            vf_loss_coeff=float(golden["value_loss_coef"]),
            grad_clip=float(golden["max_grad_norm"]),
        )
    )
    observation_space, action_space = spaces()
    learner = config.build_learner(
        spaces={DEFAULT_MODULE_ID: (observation_space, action_space), "__env__": (None, None)}
        | {"__env_single__": (observation_space, action_space)}
    )
    module = learner.module[DEFAULT_MODULE_ID]
    module.network.load_state_dict(published_state(golden, "weights/"))
    normalizer = module.value_normalizer
    normalizer.mean.fill_(golden["valuenorm_mean_before"].item())
    normalizer.mean_square.fill_(golden["valuenorm_mean_sq_before"].item())
    normalizer.debias.fill_(golden["valuenorm_debias_before"].item())
    return learner


def golden_episodes(golden: dict[str, np.ndarray], denormalize: Any) -> list[SingleAgentEpisode]:
    """Convert the rollout to episodes as returned by RLlib's env runner: cut where an episode terminated."""
    observation_space, action_space = spaces()
    values = denormalize(torch.from_numpy(golden["value_predictions_normalised"])).numpy()
    episodes = []
    for env in range(ENVS):
        ends = [t for t in range(T) if golden["episode_continues"][t + 1, env, 0] == 0]
        for start, stop in zip([0, *(t + 1 for t in ends)], [*(t + 1 for t in ends), T], strict=True):
            if start == stop:
                continue
            steps = range(start, stop)
            episodes.append(
                SingleAgentEpisode(
                    observation_space=observation_space,
                    action_space=action_space,
                    observations=[
                        {
                            "observations": golden["obs"][t, env],
                            "alive": golden["active"][t, env].astype(np.int8),
                            "action_mask": golden["action_mask"][t, env].astype(np.int8),
                        }
                        for t in range(start, stop + 1)
                    ],
                    actions=[golden["actions"][t, env] for t in steps],
                    rewards=[float(golden["rewards"][t, env].mean()) for t in steps],
                    infos=[
                        {},
                        *(
                            {"agent_rewards": golden["rewards"][t, env], "agent_earns": golden["active"][t, env] > 0}
                            for t in steps
                        ),
                    ],
                    terminated=stop - 1 in ends,
                    extra_model_outputs={
                        Columns.ACTION_LOGP: [golden["log_probs"][t, env] for t in steps],
                        Columns.VF_PREDS: [values[t, env] for t in steps],
                    },
                    len_lookback_buffer=0,
                ).to_numpy()
            )
    return episodes


def test_advantages_and_returns(golden: dict[str, np.ndarray]) -> None:
    learner = make_learner(golden)
    denormalize = learner.module[DEFAULT_MODULE_ID].denormalize_values
    values = denormalize(torch.from_numpy(golden["value_predictions_normalised"])).numpy()
    advantages = per_agent_gae(
        golden["rewards"],
        values,
        golden["episode_continues"][1:],
        gamma=float(golden["gamma"]),
        lambda_=float(golden["gae_lambda"]),
    )
    np.testing.assert_allclose(advantages, golden["advantages"], atol=1e-5)
    np.testing.assert_allclose(advantages + values[:-1], golden["returns"][:-1], atol=1e-5)


def test_whole_update(golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare losses, normaliser and weights after one update.

    The published update masks its value loss by the alive mask, but updates its normaliser with the returns of all
    agents. So `agent_earns` is set to `active` here, and the normaliser's weights are dropped.
    """
    learner = make_learner(golden)
    module = learner.module[DEFAULT_MODULE_ID]
    update = module.update_value_normalizer
    monkeypatch.setattr(
        module, "update_value_normalizer", lambda returns, weights=None, sync=None: update(returns, sync=sync)
    )
    results = learner.update(episodes=golden_episodes(golden, module.denormalize_values))[DEFAULT_MODULE_ID]

    measured = {key: float(getattr(value, "peek", lambda v=value: v)()) for key, value in results.items()}
    assert measured["policy_loss"] == pytest.approx(float(golden["policy_loss"]), abs=1e-5)
    assert measured["vf_loss"] == pytest.approx(float(golden["value_loss"]), abs=1e-5)
    assert measured["entropy"] == pytest.approx(float(golden["entropy"]), abs=1e-5)
    assert measured["gradients_default_optimizer_global_norm"] == pytest.approx(float(golden["grad_norm"]), abs=1e-5)
    normalizer = module.value_normalizer
    np.testing.assert_allclose(normalizer.mean.item(), golden["valuenorm_mean_after"].item(), atol=1e-8)
    np.testing.assert_allclose(normalizer.mean_square.item(), golden["valuenorm_mean_sq_after"].item(), atol=1e-8)
    np.testing.assert_allclose(normalizer.debias.item(), golden["valuenorm_debias_after"].item(), atol=1e-10)

    expected = published_state(golden, "weights_after/")
    before = published_state(golden, "weights/")
    for name, weight in module.network.state_dict().items():
        np.testing.assert_allclose(weight, expected[name], atol=1e-5, err_msg=name)
    # The tolerance is only meaningful if the weights have changed by more.
    assert max((expected[name] - before[name]).abs().max() for name in before) > 4e-4
