"""The multi-robot warehouse (Papoudakis et al. 2021), from the package rware.

Robots carry requested shelves to a goal and then return them to any free size. Tasks are named
`{size}-{n}ag[-easy|-hard]`: the number of shelves requested at a time equals the number of robots, twice that if easy,
half that if hard. Sizes are the package's, and "xlarge" from Mava.
"""

import re
import warnings
from typing import Any, NamedTuple

from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_choice, check_number, check_options
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.tuple_env import TupleEnv

SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5), "xlarge": (4, 5)}  # rows, columns
_REQUESTS_PER_ROBOT = {"": 1.0, "-easy": 2.0, "-hard": 0.5}
_REWARD_TYPES = ("individual", "global", "two_stage")


class Task(NamedTuple):
    """The parts of a task's name."""

    size: str
    n_agents: int
    requests: int


def parse_task(task: str) -> Task | None:
    """Parse a task name; None if it is invalid."""
    match = re.fullmatch(rf"({'|'.join(SIZES)})-([1-9]|1[0-9])ag(|-easy|-hard)", task)
    if match is None:
        return None
    size, n_agents, difficulty = match.groups()
    return Task(size, int(n_agents), int(int(n_agents) * _REQUESTS_PER_ROBOT[difficulty]))


def make_rware(
    task: str,
    *,
    max_steps: int = 500,
    max_inactivity_steps: int | None = None,
    reward_type: str = "individual",
    request_queue_size: int | None = None,
    column_height: int = 8,
    sensor_range: int = 1,
    msg_bits: int = 0,
    normalised_coordinates: bool = False,
    render_mode: str | None = None,
) -> ParallelEnv:
    """Make a warehouse. There are no action masks (impossible actions do nothing) and no global state.

    Args:
        task: Such as "tiny-2ag".
        max_steps: Steps after which an episode is truncated, >= 1.
        max_inactivity_steps: Steps without a delivery after which it is terminated, >= 1; None for never.
        reward_type: Who is rewarded with 1 for a delivered shelf: "individual", the robot that carries it; "global",
            every robot; "two_stage", the carrier, one half for the delivery and one half for returning the shelf.
        request_queue_size: Shelves requested at a time, >= 1 and less than their total; None for the task's default.
        column_height: Shelves in a column, >= 1.
        sensor_range: How many cells a robot observes in each direction, >= 1.
        msg_bits: Bits that a robot sends to robots in sight, chosen in addition to its move, >= 0.
        normalised_coordinates: Whether a robot observes its position as a fraction of the warehouse size.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: A value is out of range.
    """
    spec = parse_task(task)
    assert spec is not None
    rows, columns = SIZES[spec.size]
    check_choice("reward_type", reward_type, _REWARD_TYPES)
    counts = dict.fromkeys(("max_steps", "max_inactivity_steps", "column_height", "sensor_range"), 1)
    check_options(make_rware, locals(), {**counts, "msg_bits": 0})
    # Columns are two shelves wide; one is left out for the queue at the goals. After a delivery a shelf that is not
    # requested yet is requested, so at least one must remain.
    n_shelves = 2 * column_height * (rows * columns - 1)
    requests = spec.requests if request_queue_size is None else request_queue_size
    check_number("request_queue_size", requests, 1, n_shelves - 1)

    from rware.warehouse import RewardType, Warehouse

    with warnings.catch_warnings():  # from gymnasium, about a space that the package uses internally
        warnings.filterwarnings("ignore", ".*precision lowered by casting")
        warehouse = Warehouse(
            shelf_columns=columns,
            column_height=column_height,
            shelf_rows=rows,
            n_agents=spec.n_agents,
            msg_bits=msg_bits,
            sensor_range=sensor_range,
            request_queue_size=requests,
            max_inactivity_steps=max_inactivity_steps,
            max_steps=max_steps,
            reward_type=RewardType[reward_type.upper()],
            normalised_coordinates=normalised_coordinates,
            render_mode=render_mode,
        )
    return WarehouseTeam(warehouse, f"rware/{task}", render_mode)


class WarehouseTeam(TupleEnv):
    """A team of robots. Unlike in the package, the time limit is a truncation, not a termination."""

    def _has_terminated(self) -> bool:
        limit = self.env.max_inactivity_steps
        return limit is not None and self.env._cur_inactive_steps >= limit


_LISTED = (
    *("tiny-2ag", "tiny-2ag-hard", "tiny-4ag", "tiny-4ag-easy", "tiny-4ag-hard"),
    *("small-4ag", "small-4ag-hard", "medium-4ag", "medium-4ag-hard", "medium-6ag"),
    *("large-4ag", "large-4ag-hard", "large-8ag", "large-8ag-hard", "xlarge-4ag", "xlarge-4ag-hard"),
)


def _describe(task: str) -> str:
    spec: Any = parse_task(task)
    size = "an extra large" if spec.size == "xlarge" else f"a {spec.size}"
    return f"{spec.n_agents} robots in {size} warehouse bring and return shelves, {spec.requests} requested at a time."


SUITE = Suite(
    name="rware",
    tasks={task: _describe(task) for task in _LISTED},
    make=make_rware,
    requires=("rware",),
    extra="rware",
    knows=lambda task: parse_task(task) is not None,
    other_tasks=f"{{{','.join(SIZES)}}}-{{1..19}}ag[-easy|-hard]",
)
