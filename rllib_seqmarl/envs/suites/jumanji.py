"""Four of Jumanji's environments for teams, simulated in JAX: warehouse, foraging, connecting and cleaning.

Tasks are named as in Mava. What agents observe, and what a team's return is made of, follow it too, so that numbers
compare with those published for it.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rllib_seqmarl.envs.options import check_choice, check_number
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.jax_batch import JaxBatchedSimulator
from rllib_seqmarl.envs.suites.jumanji_simulators import Cleaning, Connecting, Foraging, JumanjiSimulator, Warehouse

Sizes = dict[str, Any]

_SHELVES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5), "xlarge": (4, 5)}  # rows, columns
_REQUESTS_PER_AGENT = {"-easy": 2.0, "": 1.0, "-hard": 0.5}


def read_rware(task: str) -> Sizes | None:
    """The generator's parameters for a task's name; None where it is none or names what does not fit."""
    match = re.fullmatch(rf"({'|'.join(_SHELVES)})-([1-9]|1[0-9])ag(|-easy|-hard)", task)
    if match is None:
        return None
    (rows, columns), num_agents = _SHELVES[match[1]], int(match[2])
    requests = max(1, int(num_agents * _REQUESTS_PER_AGENT[match[3]]))
    if requests >= 16 * (rows * columns - 1):  # There is a way to the goals where one block of shelves would stand.
        return None
    return dict(shelf_rows=rows, shelf_columns=columns, num_agents=num_agents, request_queue_size=requests)


def read_lbf(task: str) -> Sizes | None:
    """As `read_rware`."""
    match = re.fullmatch(r"(?:([1-9]\d?)s-)?([1-9]\d?)x\2-([1-9]\d?)p-([1-9]\d?)f(-coop)?", task)
    if match is None:
        return None
    grid, num_agents, num_food = int(match[2]), int(match[3]), int(match[4])
    sight = int(match[1] or grid)
    # Food needs room around it, and no agent starts in a row that food was drawn for: the outer two may be all it has.
    if grid < 5 or sight > grid or (grid - 2) ** 2 - num_agents <= 5 * num_food or num_agents > 2 * grid:
        return None
    return dict(grid_size=grid, fov=sight, num_agents=num_agents, num_food=num_food, force_coop=bool(match[5]))


def read_connector(task: str) -> Sizes | None:
    """As `read_rware`."""
    match = re.fullmatch(r"con-([1-9]\d?)x\1x([1-9]\d?)a", task)
    if match is None or 4 * int(match[2]) > int(match[1]) ** 2:
        return None
    return dict(grid_size=int(match[1]), num_agents=int(match[2]))


def read_cleaner(task: str) -> Sizes | None:
    """As `read_rware`."""
    match = re.fullmatch(r"clean-([1-9]\d?)x\1x([1-9]\d?)a", task)
    if match is None or int(match[1]) < 3:
        return None
    return dict(num_rows=int(match[1]), num_cols=int(match[1]), num_agents=int(match[2]))


@lru_cache(maxsize=32)  # so that a second instance in a process compiles nothing
def _simulator(kind: type[JumanjiSimulator], **options: Any) -> JumanjiSimulator:
    return kind(**options)


def _sizes(task: str, read: Callable[[str], Sizes | None]) -> Sizes:
    sizes = read(task)
    if sizes is None:
        raise ValueError(f"Unknown task {task!r}.")
    return sizes


def make_rware_batch(
    task: str, num_envs: int, *, time_limit: int = 500, sensor_range: int = 1, render_mode: str | None = None
) -> JaxBatchedSimulator:
    """Warehouses, in which robots fetch the requested shelves, bring them to a goal, and put them back.

    All agents get the same reward: 1 for a requested shelf at a goal. An episode terminates when robots collide. The
    global state is all agents' observations together.

    Args:
        task: Such as "tiny-2ag": size, number of robots; as many shelves are requested at a time as there are robots,
            "-easy" twice and "-hard" half as many.
        num_envs: copies.
        time_limit: After how many steps an episode is cut off, from 1.
        sensor_range: How many cells a robot sees in each direction, 1 to 5.
        render_mode: None or "rgb_array".
    """
    sizes = _sizes(task, read_rware)
    check_number("time_limit", time_limit, 1)
    check_number("sensor_range", sensor_range, 1, 5)
    simulator = _simulator(Warehouse, time_limit=time_limit, sensor_range=sensor_range, **sizes)
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
    """Fields with food, which agents can eat together if their levels add up to the food's.

    Rewards are each agent's own: its share in the level of the food that is eaten. If normalised, those of all agents
    add up to 1 over an episode in which all is eaten, which terminates and wins it. The returns that Mava reports are
    those with `team_reward="sum"`. The global state is all agents' observations together.

    Args:
        task: Such as "2s-8x8-2p-2f-coop": how far agents see (to the ends of the grid, if not given), grid, numbers of
            agents and of food; with "-coop" food takes the levels of all agents, or of the three lowest.
        num_envs: copies.
        time_limit: After how many steps an episode is cut off, from 1.
        max_agent_level: Agents' levels are drawn from 1 to this, which is from 2.
        normalize_reward: Whether rewards are divided by the sum of all food's levels.
        penalty: What agents lose that try to eat food above their levels, a number >= 0.
        render_mode: None or "rgb_array".
    """
    sizes = _sizes(task, read_lbf)
    check_number("time_limit", time_limit, 1)
    check_number("max_agent_level", max_agent_level, 2)
    check_choice("normalize_reward", normalize_reward, (True, False))
    check_number("penalty", penalty, 0, whole=False)
    simulator = _simulator(
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
    """Grids on which each agent draws a path to its target, and no agent may cross a path.

    Rewards are each agent's own. An episode terminates when every agent is connected or blocked, and is won if all are
    connected. The returns that Mava reports are those with `team_reward="sum"`. Agents observe five layers of the
    grid: heads, targets, paths, their own head, their own target; the first two hold each agent's number, counted from
    the observer, over the number of agents. So ids tell nothing new: Mava's runs have none (`agent_ids=False`). The
    global state is the first agent's first three layers.

    Args:
        task: Such as "con-5x5x3a": grid, number of agents.
        num_envs: copies.
        time_limit: After how many steps an episode is cut off, from 1; None for as many as the grid has cells.
        connected_reward: For reaching the target, once.
        timestep_reward: In each step that an agent begins unconnected.
        render_mode: None or "rgb_array".
    """
    sizes = _sizes(task, read_connector)
    time_limit = sizes["grid_size"] ** 2 if time_limit is None else time_limit
    check_number("time_limit", time_limit, 1)
    check_number("connected_reward", connected_reward, whole=False)
    check_number("timestep_reward", timestep_reward, whole=False)
    simulator = _simulator(
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
    """Mazes whose every tile has to be cleaned by stepping on it. All agents begin in the upper left corner.

    All agents get the same reward: 1 for each tile that became clean, less the penalty. An episode terminates, and is
    won, when all is clean. Agents observe four layers of the maze: dirt, walls, how many agents stand there, and their
    own place; Mava's runs have no ids besides (`agent_ids=False`). The global state is the first three layers.

    Args:
        task: Such as "clean-10x10x3a": maze, number of agents.
        num_envs: copies.
        time_limit: After how many steps an episode is cut off, from 1; None for as many as the maze has cells, at most
            600.
        penalty_per_timestep: What each step costs, a number >= 0.
        render_mode: None or "rgb_array".
    """
    sizes = _sizes(task, read_cleaner)
    time_limit = min(sizes["num_rows"] * sizes["num_cols"], 600) if time_limit is None else time_limit
    check_number("time_limit", time_limit, 1)
    check_number("penalty_per_timestep", penalty_per_timestep, 0, whole=False)
    simulator = _simulator(Cleaning, time_limit=time_limit, penalty=float(penalty_per_timestep), **sizes)
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


def _suite(
    name: str,
    names: str,
    sentence: str,
    make_batch: Callable[..., JaxBatchedSimulator],
    read: Callable[..., Sizes | None],
    other_tasks: str,
) -> Suite:
    def in_words(task: str) -> str:
        sizes = read(task)
        assert sizes is not None
        return sentence.format(**sizes)

    return Suite(
        name=name,
        tasks={task: in_words(task) for task in names.split()},
        make=single(make_batch),
        make_batch=make_batch,
        requires=("jumanji",),
        extra="jumanji",
        knows=lambda task: read(task) is not None,
        other_tasks=other_tasks,
    )


SUITES = (
    _suite(
        "jumanji-rware",
        "tiny-2ag tiny-2ag-hard tiny-4ag tiny-4ag-easy tiny-4ag-hard small-4ag small-4ag-hard medium-4ag "
        "medium-4ag-hard medium-6ag large-4ag large-4ag-hard large-8ag large-8ag-hard xlarge-4ag xlarge-4ag-hard",
        "{num_agents} robots among {shelf_rows} x {shelf_columns} blocks of shelves, {request_queue_size} requested.",
        make_rware_batch,
        read_rware,
        "{tiny,small,medium,large,xlarge}-{1..19}ag{,-easy,-hard}",
    ),
    _suite(
        "jumanji-lbf",
        "2s-8x8-2p-2f-coop 8x8-2p-2f-coop 2s-10x10-3p-3f 10x10-3p-3f 15x15-3p-5f 15x15-4p-3f 15x15-4p-5f",
        "{num_agents} agents eat {num_food} pieces of food together, and see {fov} cells far.",
        make_lbf_batch,
        read_lbf,
        "{sight}s-{size}x{size}-{players}p-{food}f{,-coop}",
    ),
    _suite(
        "jumanji-connector",
        "con-5x5x3a con-7x7x5a con-10x10x5a con-10x10x10a con-15x15x23a",
        "{num_agents} agents draw paths to their targets that must not cross.",
        make_connector_batch,
        read_connector,
        "con-{size}x{size}x{agents}a",
    ),
    _suite(
        "jumanji-cleaner",
        "clean-5x5x5a clean-10x10x3a clean-10x10x10a clean-15x15x15a clean-20x20x20a clean-30x30x30a",
        "{num_agents} agents clean every tile of a maze.",
        make_cleaner_batch,
        read_cleaner,
        "clean-{size}x{size}x{agents}a",
    ),
)
