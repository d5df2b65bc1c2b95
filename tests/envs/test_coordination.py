"""Independent policies cannot do the coordination tasks, however they are optimised; sequential ones can."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rllib_seqmarl.envs.suites.coordination import (
    UNREPEATED_INDEPENDENT_BOUND,
    DistinctChoice,
    UnrepeatedChoice,
    independent_bound,
    make_coordination,
    unrepeated_optimum,
)

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
    """Success probability of DistinctChoice, and its gradient; the first agent has a row for each secret."""
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
    """Probability that two draws are both permutations and differ, and its gradient."""
    n = len(policies)
    permutations = np.array(list(itertools.permutations(range(n))))  # (n!, n)
    factors = np.array(policies)[np.arange(n), permutations]  # (n!, n)
    q = factors.prod(axis=1)
    gradients = np.zeros((n, n))
    for i in range(n):
        np.add.at(gradients[i], permutations[:, i], 2.0 * (q.sum() - q) * q / np.maximum(factors[:, i], 1e-300))
    return float(q.sum() ** 2 - (q**2).sum()), list(gradients)


@pytest.mark.parametrize(("n", "k"), [(2, 2), (2, 3), (3, 3), (3, 4), (4, 4)])
def test_no_decentralised_policy_beats_the_bound_of_distinct_choice(n: int, k: int) -> None:
    best = ascend(distinct_value, [(k, k)] + [(k,)] * (n - 1), starts=8)
    assert best <= independent_bound(n, k) + 1e-9
    assert best == pytest.approx(independent_bound(n, k), abs=0.02)  # and the bound is reached


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_no_memoryless_product_policy_beats_the_bound_of_unrepeated_choice(n: int) -> None:
    best = ascend(unrepeated_value, [(n,)] * n, starts=8)
    assert 0.1 < best <= UNREPEATED_INDEPENDENT_BOUND
    assert best <= 1 / 8 + 1e-9
    assert best < unrepeated_optimum(n) / 2


def play(task: DistinctChoice | UnrepeatedChoice, choose: object, episodes: int) -> float:
    """Mean success of a policy: choose(agent's number, its observation, predecessors' choices)."""
    successes = []
    for seed in range(episodes):
        observations, _ = task.reset(seed=seed)
        while task.agents:
            taken: list[int] = []
            for i, agent in enumerate(task.agents):
                taken.append(choose(i, observations[agent], taken))  # type: ignore[operator]
            observations, *_, infos = task.step(dict(zip(task.agents, taken, strict=True)))
        successes.append(infos["agent_0"]["success"])
    return float(np.mean(successes))


def test_a_sequential_policy_always_succeeds_at_distinct_choice() -> None:
    def choose(i: int, seen: np.ndarray, taken: list[int]) -> int:
        return int(seen.argmax()) if i == 0 else min(set(range(5)) - set(taken))

    assert play(DistinctChoice(), choose, episodes=20) == 1.0


def test_knowing_ones_own_number_reaches_the_independent_bound_and_no_more() -> None:
    success = play(DistinctChoice(), lambda i, seen, taken: int(seen.argmax()) if i == 0 else i, episodes=300)
    assert success == pytest.approx(independent_bound(5, 5), abs=0.03)


def test_a_sequential_policy_that_draws_succeeds_at_unrepeated_choice() -> None:
    rng = np.random.default_rng(0)
    success = play(
        UnrepeatedChoice(),
        lambda i, seen, taken: int(rng.choice(sorted(set(range(5)) - set(taken)))),
        episodes=200,
    )
    assert success == pytest.approx(unrepeated_optimum(5), abs=0.01)


def test_a_fixed_assignment_fails_at_unrepeated_choice() -> None:
    assert play(UnrepeatedChoice(), lambda i, seen, taken: i, episodes=3) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 1}, "n_agents=1 is out of range: give an integer >= 2"),
        ({"n_agents": 4, "n_choices": 3}, "n_choices=3 is out of range: give an integer >= 4"),
        ({"max_cycles": 0}, "max_cycles=0 is out of range: give an integer >= 1"),
        ({"render_mode": "human"}, "render_mode='human' is unknown"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistinctChoice(**options)


def test_an_option_that_only_the_other_task_has_is_refused() -> None:
    with pytest.raises(ValueError, match="coordination/unrepeated_choice has no option 'n_choices'"):
        make_coordination("unrepeated_choice", n_choices=3)


def test_the_picture_shows_who_took_what() -> None:
    task = DistinctChoice(n_agents=2, n_choices=3, render_mode="rgb_array")
    task.reset(seed=0)
    task.step({"agent_0": 2, "agent_1": 0})
    picture = task.render()
    assert picture is not None and picture.dtype == np.uint8
    taken = (picture == (40, 80, 150)).all(axis=2)
    rows, columns = np.array_split(taken, 2), np.array_split(taken, 3, axis=1)
    assert all(row.any() for row in rows)
    assert [bool(column.any()) for column in columns] == [True, False, True]
