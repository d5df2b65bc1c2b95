"""Tests that sequential policies solve the coordination tasks and independent ones cannot."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from coordination_bounds import UNREPEATED_INDEPENDENT_BOUND, independent_bound, unrepeated_optimum

from rllib_seqmarl.envs.suites.coordination import DistinctChoice, UnrepeatedChoice, make_coordination

Policies = list[np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def ascend(value_and_gradient: object, shapes: list[tuple[int, ...]], starts: int, steps: int = 400) -> float:
    """The best value found by gradient ascent on all agents' logits, from several random starts."""
    best = 0.0
    for seed in range(starts):
        rng = np.random.default_rng(seed)
        logits = [rng.normal(scale=2.0, size=shape) for shape in shapes]
        for _ in range(steps):
            policies = [softmax(table) for table in logits]
            value, gradients = value_and_gradient(policies)  # type: ignore[operator]
            best = max(best, value)
            for table, policy, gradient in zip(logits, policies, gradients, strict=True):
                centred = gradient - (policy * gradient).sum(axis=-1, keepdims=True)
                table += 20.0 * policy * centred
    return best


def distinct_value(policies: Policies) -> tuple[float, Policies]:
    """The success probability of DistinctChoice and its gradient; the first agent has a row for each secret."""
    first, *others = policies
    k = first.shape[1]
    gradients = [np.zeros_like(policy) for policy in policies]
    value = 0.0
    for secret, *rest in itertools.permutations(range(k), len(policies)):
        factors = [first[secret, secret], *(p[choice] for p, choice in zip(others, rest, strict=True))]
        probability = np.prod(factors) / k
        value += probability
        gradients[0][secret, secret] += probability / factors[0]
        for i, choice in enumerate(rest, start=1):
            gradients[i][choice] += probability / factors[i]
    return float(value), gradients


def unrepeated_value(policies: Policies) -> tuple[float, Policies]:
    """The probability that two draws are different permutations, and its gradient."""
    n = len(policies)
    permutations = np.array(list(itertools.permutations(range(n))))  # (n!, n)
    factors = np.array(policies)[np.arange(n), permutations]  # (n!, n)
    q = factors.prod(axis=1)
    gradients = np.zeros((n, n))
    for i in range(n):
        np.add.at(gradients[i], permutations[:, i], 2.0 * (q.sum() - q) * q / np.maximum(factors[:, i], 1e-300))
    return float(q.sum() ** 2 - (q**2).sum()), list(gradients)


@pytest.mark.parametrize(("n", "k"), [(2, 2), (2, 3), (3, 3), (3, 4), (4, 4)])
def test_decentralised_policies_are_bounded_in_distinct_choice(n: int, k: int) -> None:
    best = ascend(distinct_value, [(k, k)] + [(k,)] * (n - 1), starts=8)
    assert best <= independent_bound(n, k) + 1e-9
    assert best == pytest.approx(independent_bound(n, k), abs=0.02)  # the bound is tight


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_memoryless_product_policies_are_bounded_in_unrepeated_choice(n: int) -> None:
    best = ascend(unrepeated_value, [(n,)] * n, starts=8)
    assert 0.1 < best <= UNREPEATED_INDEPENDENT_BOUND
    assert best <= 1 / 8 + 1e-9
    assert best < unrepeated_optimum(n) / 2


def play(task: DistinctChoice | UnrepeatedChoice, choose: object, episodes: int) -> float:
    """Mean success of the policy `choose(agent index, observation, choices of earlier agents)`."""
    successes = []
    for seed in range(episodes):
        observations, _ = task.reset(seed=seed)
        while task.agents:
            choices: list[int] = []
            for i, agent in enumerate(task.agents):
                choices.append(choose(i, observations[agent], choices))  # type: ignore[operator]
            observations, *_, infos = task.step(dict(zip(task.agents, choices, strict=True)))
        successes.append(infos["agent_0"]["success"])
    return float(np.mean(successes))


def test_sequential_policy_solves_distinct_choice() -> None:
    def choose(i: int, observation: np.ndarray, taken: list[int]) -> int:
        return int(observation.argmax()) if i == 0 else min(set(range(5)) - set(taken))

    assert play(DistinctChoice(), choose, episodes=20) == 1.0


def test_agent_indices_reach_the_independent_bound() -> None:
    success = play(DistinctChoice(), lambda i, obs, taken: int(obs.argmax()) if i == 0 else i, episodes=300)
    assert success == pytest.approx(independent_bound(5, 5), abs=0.03)


def test_stochastic_sequential_policy_solves_unrepeated_choice() -> None:
    rng = np.random.default_rng(0)
    success = play(
        UnrepeatedChoice(),
        lambda i, obs, taken: int(rng.choice(sorted(set(range(5)) - set(taken)))),
        episodes=200,
    )
    assert success == pytest.approx(unrepeated_optimum(5), abs=0.01)


def test_fixed_assignment_fails_in_unrepeated_choice() -> None:
    assert play(UnrepeatedChoice(), lambda i, obs, taken: i, episodes=3) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 1}, "n_agents=1 is out of range: give an integer >= 2"),
        ({"n_agents": 4, "n_choices": 3}, "n_choices=3 is out of range: give an integer >= 4"),
        ({"max_cycles": 0}, "max_cycles=0 is out of range: give an integer >= 1"),
        ({"render_mode": "human"}, "render_mode='human' is unknown"),
    ],
)
def test_invalid_options_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistinctChoice(**options)


def test_options_of_the_other_task_are_rejected() -> None:
    with pytest.raises(ValueError, match="coordination/unrepeated_choice has no option 'n_choices'"):
        make_coordination("unrepeated_choice", n_choices=3)


def test_image_shows_choices() -> None:
    task = DistinctChoice(n_agents=2, n_choices=3, render_mode="rgb_array")
    task.reset(seed=0)
    task.step({"agent_0": 2, "agent_1": 0})
    image = task.render()
    assert image is not None and image.dtype == np.uint8
    taken = (image == (40, 80, 150)).all(axis=2)
    rows, columns = np.array_split(taken, 2), np.array_split(taken, 3, axis=1)
    assert all(row.any() for row in rows)
    assert [bool(column.any()) for column in columns] == [True, False, True]


def test_recall_needs_the_first_observation() -> None:
    env = make_coordination("recall", n_agents=3, n_choices=4, max_cycles=5)
    successes = {"memory": 0, "blind": 0}
    for seed in range(200):
        observations, infos = env.reset(seed=seed)
        cues = {agent: int(observation.argmax()) for agent, observation in observations.items()}
        assert all(observation.sum() == 1 and observation[-1] == 0 for observation in observations.values())
        for step in range(5):
            is_last = step == 4
            masks = np.stack([infos[agent]["action_mask"] for agent in env.agents])
            assert (masks[:, 0] == 1).all() and (masks[:, 1:] == is_last).all()
            actions = dict.fromkeys(env.agents, 0)
            if is_last:  # nothing but the flag is observed
                assert all(observation.tolist() == [0, 0, 0, 0, 1] for observation in observations.values())
                actions = cues if seed % 2 else actions
            observations, rewards, terminations, truncations, infos = env.step(actions)
            assert not any(terminations.values()) and all(over == is_last for over in truncations.values())
            assert is_last or not any(rewards.values())
        assert all(rewards[agent] == (actions[agent] == cues[agent]) for agent in actions)
        assert {info["success"] for info in infos.values()} == {float(actions == cues)}
        successes["memory" if seed % 2 else "blind"] += actions == cues
    assert successes["memory"] == 100 and successes["blind"] < 10  # the bound is 4^-3
