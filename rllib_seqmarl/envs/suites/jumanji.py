"""Four of Jumanji's multi-agent environments, simulated in JAX: warehouse, foraging, connector and cleaner.

Task names, observations and team returns follow Mava, so results can be compared with its published ones.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from rllib_seqmarl.envs.options import check_options
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites import lbf, rware
from rllib_seqmarl.envs.suites.jax_batch import JaxBatchedSimulator, make_simulator
from rllib_seqmarl.envs.suites.jumanji_simulators import Cleaning, Connecting, Foraging, Warehouse

Sizes = dict[str, Any]


def parse_rware(task: str) -> Sizes | None:
    """Parse a task name into the generator's parameters; None if the name or the combination is invalid."""
    spec = rware.parse_task(task)
    if spec is None:
        return None
    (rows, columns), requests = rware.SIZES[spec.size], max(1, spec.requests)
    if requests >= 16 * (rows * columns - 1):  # one block of shelves is left out for the way to the goals
        return None
    return dict(shelf_rows=rows, shelf_columns=columns, num_agents=spec.n_agents, request_queue_size=requests)


def parse_lbf(task: str) -> Sizes | None:
    """As `parse_rware`."""
    match = re.fullmatch(r"(?:([1-9]\d?)s-)?([1-9]\d?)x\2-([1-9]\d?)p-([1-9]\d?)f(-coop)?", task)
    if match is None:
        return None
    grid, num_agents, num_food = int(match[2]), int(match[3]), int(match[4])
    sight = int(match[1] or grid)
    # Food needs free cells around it. Agents do not start in the rows drawn for food, which may leave only two rows.
    if grid < 5 or sight > grid or (grid - 2) ** 2 - num_agents <= 5 * num_food or num_agents > 2 * grid:
        return None
    return dict(grid_size=grid, fov=sight, num_agents=num_agents, num_food=num_food, force_coop=bool(match[5]))


def parse_connector(task: str) -> Sizes | None:
    """As `parse_rware`."""
    match = re.fullmatch(r"con-([1-9]\d?)x\1x([1-9]\d?)a", task)
    if match is None or 4 * int(match[2]) > int(match[1]) ** 2:
        return None
    return dict(grid_size=int(match[1]), num_agents=int(match[2]))


def parse_cleaner(task: str) -> Sizes | None:
    """As `parse_rware`."""
    match = re.fullmatch(r"clean-([1-9]\d?)x\1x([1-9]\d?)a", task)
    if match is None or int(match[1]) < 3:
        return None
    return dict(num_rows=int(match[1]), num_cols=int(match[1]), num_agents=int(match[2]))


def _parse_sizes(task: str, parse: Callable[[str], Sizes | None]) -> Sizes:
    sizes = parse(task)
    if sizes is None:
        raise ValueError(f"Unknown task {task!r}.")
    return sizes


def make_rware_batch(
    task: str, num_envs: int, *, time_limit: int = 500, sensor_range: int = 1, render_mode: str | None = None
) -> JaxBatchedSimulator:
    """Make warehouses in which robots carry requested shelves to a goal and put them back.

    All agents get the same reward: 1 for each requested shelf delivered to a goal. An episode terminates when robots
    collide. The global state is the concatenation of all agents' observations.

    Args:
        task: Such as "tiny-2ag": size and number of robots. The number of shelves requested at a time equals the
            number of robots, twice that with "-easy" and half that with "-hard".
        num_envs: Number of copies.
        time_limit: Steps after which an episode is truncated, >= 1.
        sensor_range: How many cells a robot observes in each direction, 1 to 5.
        render_mode: None or "rgb_array".
    """
    sizes = _parse_sizes(task, parse_rware)
    check_options(make_rware_batch, locals(), {"time_limit": 1, "sensor_range": (1, 5)})
    simulator = make_simulator(Warehouse, time_limit=time_limit, sensor_range=sensor_range, **sizes)
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


def make_lbf_batch(
    task: str,
    num_envs: int,
    *,
    time_limit: int = 100,
    max_agent_level: int = 2,
    normalize_reward: bool = True,
    penalty: float = 0.0,
    render_mode: str | None = None,
) -> JaxBatchedSimulator:
    """Make fields with food, which agents eat together if their levels add up to the food's.

    Rewards are individual: each agent's share of the level of the food eaten. If normalised, the rewards of all agents
    add up to 1 over an episode in which all food is eaten, which terminates and wins it. Mava's reported returns
    correspond to `team_reward="sum"`. The global state is the concatenation of all agents' observations.

    Args:
        task: Such as "2s-8x8-2p-2f-coop": sight (the whole grid if omitted), grid size, number of agents and of food.
            With "-coop" food requires the levels of all agents, or of the three weakest.
        num_envs: Number of copies.
        time_limit: Steps after which an episode is truncated, >= 1.
        max_agent_level: Maximum agent level, >= 2; levels are drawn from 1 to this value.
        normalize_reward: Whether rewards are divided by the sum of all food levels.
        penalty: Cost of trying to eat food with insufficient levels, >= 0.
        render_mode: None or "rgb_array".
    """
    sizes = _parse_sizes(task, parse_lbf)
    check_options(make_lbf_batch, locals(), {"time_limit": 1, "max_agent_level": 2, "penalty": 0})
    simulator = make_simulator(
        Foraging,
        time_limit=time_limit,
        max_agent_level=max_agent_level,
        normalize_reward=bool(normalize_reward),
        penalty=float(penalty),
        **sizes,
    )
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


def make_connector_batch(
    task: str,
    num_envs: int,
    *,
    time_limit: int | None = None,
    connected_reward: float = 1.0,
    timestep_reward: float = -0.03,
    render_mode: str | None = None,
) -> JaxBatchedSimulator:
    """Make grids on which each agent draws a path to its target without crossing other paths.

    Rewards are individual. An episode terminates when every agent is connected or blocked, and is won if all are
    connected. Mava's reported returns correspond to `team_reward="sum"`. Agents observe five layers of the grid:
    heads, targets, paths, their own head, their own target; the first two contain each agent's number, counted from
    the observer, divided by the number of agents. Agent ids are thus redundant; Mava uses none (`agent_ids=False`).
    The global state is the first agent's first three layers.

    Args:
        task: Such as "con-5x5x3a": grid size, number of agents.
        num_envs: Number of copies.
        time_limit: Steps after which an episode is truncated, >= 1; None for the number of grid cells.
        connected_reward: Reward for reaching the target, given once.
        timestep_reward: Reward for each step that an agent begins unconnected.
        render_mode: None or "rgb_array".
    """
    sizes = _parse_sizes(task, parse_connector)
    time_limit = sizes["grid_size"] ** 2 if time_limit is None else time_limit
    check_options(make_connector_batch, locals(), {"time_limit": 1})
    simulator = make_simulator(
        Connecting,
        time_limit=time_limit,
        connected_reward=float(connected_reward),
        timestep_reward=float(timestep_reward),
        **sizes,
    )
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


def make_cleaner_batch(
    task: str,
    num_envs: int,
    *,
    time_limit: int | None = None,
    penalty_per_timestep: float = 0.5,
    render_mode: str | None = None,
) -> JaxBatchedSimulator:
    """Make mazes in which agents clean tiles by stepping on them. All agents start in the upper left corner.

    All agents get the same reward: 1 for each newly cleaned tile, minus the penalty. An episode terminates, and is won,
    when all tiles are clean. Agents observe four layers of the maze: dirt, walls, number of agents per tile, and their
    own position; Mava uses no agent ids (`agent_ids=False`). The global state is the first three layers.

    Args:
        task: Such as "clean-10x10x3a": maze size, number of agents.
        num_envs: Number of copies.
        time_limit: Steps after which an episode is truncated, >= 1; None for the number of maze cells, at most 600.
        penalty_per_timestep: Cost of each step, >= 0.
        render_mode: None or "rgb_array".
    """
    sizes = _parse_sizes(task, parse_cleaner)
    time_limit = min(sizes["num_rows"] * sizes["num_cols"], 600) if time_limit is None else time_limit
    check_options(make_cleaner_batch, locals(), {"time_limit": 1, "penalty_per_timestep": 0})
    simulator = make_simulator(Cleaning, time_limit=time_limit, penalty=float(penalty_per_timestep), **sizes)
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


def _suite(
    name: str,
    names: Iterable[str],
    template: str,
    make_batch: Callable[..., JaxBatchedSimulator],
    parse: Callable[..., Sizes | None],
    other_tasks: str,
) -> Suite:
    return Suite(
        name=name,
        tasks={task: template.format(**_parse_sizes(task, parse)) for task in names},
        make=single(make_batch),
        make_batch=make_batch,
        requires=("jumanji",),
        extra="jumanji",
        knows=lambda task: parse(task) is not None,
        other_tasks=other_tasks,
    )


SUITES = (
    _suite(
        "jumanji-rware",
        rware.SUITE.tasks,
        "{num_agents} robots among {shelf_rows} x {shelf_columns} blocks of shelves, {request_queue_size} requested.",
        make_rware_batch,
        parse_rware,
        "{tiny,small,medium,large,xlarge}-{1..19}ag{,-easy,-hard}",
    ),
    _suite(
        "jumanji-lbf",
        lbf.SUITE.tasks,
        "{num_agents} agents eat {num_food} pieces of food together and see {fov} cells far.",
        make_lbf_batch,
        parse_lbf,
        "{sight}s-{size}x{size}-{players}p-{food}f{,-coop}",
    ),
    _suite(
        "jumanji-connector",
        ("con-5x5x3a", "con-7x7x5a", "con-10x10x5a", "con-10x10x10a", "con-15x15x23a"),
        "{num_agents} agents draw paths to their targets; paths must not cross.",
        make_connector_batch,
        parse_connector,
        "con-{size}x{size}x{agents}a",
    ),
    _suite(
        "jumanji-cleaner",
        [f"clean-{size}a" for size in ("5x5x5", "10x10x3", "10x10x10", "15x15x15", "20x20x20", "30x30x30")],
        "{num_agents} agents clean every tile of a maze.",
        make_cleaner_batch,
        parse_cleaner,
        "clean-{size}x{size}x{agents}a",
    ),
)
