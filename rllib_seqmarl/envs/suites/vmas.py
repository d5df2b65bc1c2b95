"""Cooperative scenarios of the vectorised multi-agent simulator VMAS (Bettini et al. 2022, arXiv 2207.03530).

Physics in torch, on the CPU, of many teams at once. Rewards, shared or each agent's own, and all options keep the
scenario's own defaults; there are no action masks and there is no global state.

Left out of the package's scenarios: those with opponents (football, simple_tag, ...), those for debugging,
road_traffic, which restarts its agents in mid-episode, and simple_reference and simple_speaker_listener, where all
copies of a batch share one goal (`mpe/...` has both).
"""

import ast
import contextlib
import importlib
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.options import check_choice, check_names, check_number
from rllib_seqmarl.envs.single_team import SingleTeam
from rllib_seqmarl.envs.suite import Suite

# The limits of BenchMARL's published configurations; VMAS itself has none.
MAX_STEPS = {
    **dict.fromkeys(("ball_passage", "joint_passage", "joint_passage_size", "passage"), 500),
    "multi_give_way": 200,
}
DEFAULT_MAX_STEPS = 100

TASKS = {
    "balance": "Agents below a line lift a package on it to a goal, against gravity.",
    "ball_passage": "Two agents push a ball through a gap in a wall to a goal.",
    "ball_trajectory": "Two agents held together by joints and a ball drive it along a circle.",
    "buzz_wire": "Two agents carry a ring through a corridor without touching it.",
    "discovery": "Agents find targets, each of which several must cover at once.",
    "dispersion": "Agents spread out to eat all the food.",
    "dropout": "Any one agent shall reach the goal, and the others save their energy.",
    "flocking": "Agents flock around a target among obstacles.",
    "give_way": "Two agents have to pass each other in a corridor that is wide enough for one.",
    "joint_passage": "Two agents linked by a joint pass a narrow gap.",
    "joint_passage_size": "Two linked agents of different sizes pass gaps of different sizes.",
    "multi_give_way": "Four agents cross a junction of corridors that are wide enough for one.",
    "navigation": "Every agent goes to its goal without collisions.",
    "passage": "A formation passes a gap one by one and forms up again.",
    "reverse_transport": "Agents inside a package push it to a goal.",
    "sampling": "Agents spread over a field to collect what is rare.",
    "simple_spread": "Agents cover landmarks without colliding; the particle environments' task in this simulator.",
    "transport": "Agents push a package too heavy for one of them to a goal.",
    "wheel": "Agents turn a heavy line at a given speed.",
    "wind_flocking": "Two agents fly in formation against the wind, one in the lee of the other.",
}

# Whether the team has won, where an episode has an aim: most end only when it is reached.
_WINS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(
        (
            "discovery",
            "dispersion",
            "dropout",
            "joint_passage",
            "joint_passage_size",
            "navigation",
            "passage",
            "reverse_transport",
            "transport",
        ),
        lambda scenario, ended: ended,
    ),
    "balance": lambda scenario, ended: ended & ~scenario.on_the_ground,
    "ball_passage": lambda scenario, ended: (scenario.ball.state.pos - scenario.goal.state.pos).norm(dim=1) <= 0.01,
    "buzz_wire": lambda scenario, ended: ended & ~scenario.collided,
    "give_way": lambda scenario, ended: scenario.goal_reached,
}


class VmasBatch(BatchedSimulator):
    """Copies of a VMAS scenario, stepped by VMAS as one.

    VMAS draws all random numbers of a batch from one stream, so there is one seed for all copies: that of the first.
    The stream is this batch's own; torch's, which the learner may be using, and other batches' are left alone.

    Args:
        task: One of TASKS.
        num_envs: How many copies.
        max_steps: After how many steps an episode is truncated, at least 1; None for BenchMARL's limit: 100, with
            multi_give_way 200, with the passages 500.
        continuous_actions: Whether agents give forces (or velocities), which are clipped to their range; otherwise each
            has a choice for every combination of pushing back, not at all or forth along its axes.
        render_mode: "rgb_array" or None. Drawing needs OpenGL: a display, or EGL.
        **scenario: The scenario's own options, such as `n_agents`.

    Raises:
        ValueError: An option the scenario does not have, or a wrong value.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        max_steps: int | None = None,
        continuous_actions: bool = True,
        render_mode: str | None = None,
        **scenario: Any,
    ):
        if max_steps is None:
            max_steps = MAX_STEPS.get(task, DEFAULT_MAX_STEPS)
        check_number("max_steps", max_steps, 1)
        check_choice("continuous_actions", continuous_actions, (True, False))
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self._scenario = _scenario_class(task)()
        check_names(f"vmas/{task}", scenario, _options(self._scenario))
        for name, value in scenario.items():
            if name.startswith("n_"):
                check_number(name, value, 1 if name == "n_agents" else 0)
        self.task, self.num_envs, self.render_mode = task, num_envs, render_mode
        self.metadata = {"name": f"vmas/{task}", "render_modes": ["rgb_array"], "render_fps": 10}
        self._won = _WINS.get(task)
        try:
            self._env = self._make(max_steps, continuous_actions, scenario)
        except Exception as error:  # what scenarios raise ranges from AssertionError to ZeroDivisionError
            raise ValueError(f"vmas/{task} cannot be made with {scenario}: {error!r}.") from error
        # VMAS's own methods exchange the states of three generators around every call, at the cost of a small step.
        # What lies beneath them is called, and with this batch's stream.
        self._random = _random_state(np.random.SeedSequence().generate_state(1).item())
        self._step = partial(inspect.unwrap(type(self._env).step), self._env)
        self._scenario.info = lambda agent: {}  # these numbers are not used
        self.agents = tuple(agent.name for agent in self._env.agents)
        self.observation_spaces = tuple(spaces.Box(-np.inf, np.inf, seen.shape) for seen in self._env.observation_space)
        self._sizes = [seen.shape[0] for seen in self._env.observation_space]
        if continuous_actions:
            bounds = [(acted.low, acted.high) for acted in self._env.action_space]
            self.action_spaces = tuple(spaces.Box(low, high, dtype=np.float32) for low, high in bounds)
            self._bounds: tuple[np.ndarray, np.ndarray] | None = _padded(bounds, 0), _padded(bounds, 1)
        else:
            self.action_spaces = tuple(spaces.Discrete(int(acted.n)) for acted in self._env.action_space)
            self._bounds = None

    def _make(self, max_steps: int, continuous_actions: bool, scenario: dict[str, Any]) -> Any:
        from vmas import make_env

        return make_env(
            self._scenario,
            self.num_envs,
            max_steps=max_steps,
            continuous_actions=continuous_actions,
            terminated_truncated=True,
            **scenario,
        )

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        if seeds is not None:
            self._random = _random_state(seeds[0])
        with self._own_stream():
            self._restart(np.ones(self.num_envs, np.bool_))
            return self._observe()

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        if reset_mask.all():  # where episodes end by the time limit all begin at once, and one reset does for all
            nothing = np.zeros(self.num_envs, np.bool_)
            rewards = np.zeros((self.num_envs, len(self.agents)), np.float32)
            return StepResult(
                self.reset(), rewards, nothing, nothing, nothing.astype(np.float32) if self._won else None
            )
        with self._own_stream():
            seen, agent_rewards, ended, cut, _ = self._step(self._forces(actions))
            # (B, n); one scenario gives its agents (B, 1) instead of (B,)
            rewards = np.stack([reward.numpy().reshape(-1) for reward in agent_rewards], axis=1)
            wins = self._won(self._scenario, ended).numpy().astype(np.float32) if self._won else None
            terminated, truncated = ended.numpy(), (cut & ~ended).numpy()
            if not reset_mask.any():
                return StepResult(self._arranged(seen), rewards, terminated, truncated, wins)
            self._restart(reset_mask)
            rewards[reset_mask] = 0.0
            return StepResult(self._observe(), rewards, terminated & ~reset_mask, truncated & ~reset_mask, wins)

    def _restart(self, reset_mask: np.ndarray) -> None:
        """Starts an episode in the copies `reset_mask` (B,), and changes nothing of the others."""
        import torch

        world, of_begins = self._env.world, torch.from_numpy(reset_mask).unsqueeze(-1)
        # A joint between two bodies is itself a body. When one copy is reset VMAS puts it straight in all of them.
        joints = [body.state for body in world.landmarks if body.is_joint]
        kept = [(joint.pos, joint.rot) for joint in joints]
        if reset_mask.all():  # at once, as after a common time limit
            self._env._reset(return_observations=False)
        else:
            for copy in np.flatnonzero(reset_mask).tolist():
                self._env._reset_at(copy, return_observations=False)
        for joint, (pos, rot) in zip(joints, kept, strict=True):
            joint.pos, joint.rot = torch.where(of_begins, joint.pos, pos), torch.where(of_begins, joint.rot, rot)
        if self.task == "wind_flocking":  # where the last episode's wind would blow in the first step
            body = self._scenario.big_agent
            body.gravity = torch.where(of_begins, self._scenario.wind, body.gravity)

    def _forces(self, actions: np.ndarray) -> list[Any]:
        """Each agent's actions as VMAS takes them, (B, size)."""
        import torch

        if self._bounds is None:
            return list(torch.from_numpy(actions).unsqueeze(-1).unbind(1))
        within = torch.from_numpy(np.clip(actions, *self._bounds, dtype=np.float32))  # (B, n, dim)
        return [within[:, i, : acted.shape[0]] for i, acted in enumerate(self._env.action_space)]

    def _observe(self) -> BatchObservation:
        """The teams' current observations."""
        (seen,) = self._env._get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        return self._arranged(seen)

    def _arranged(self, seen: Sequence[Any]) -> BatchObservation:
        """Observations, one tensor (B, size) an agent, as one array."""
        observations = np.zeros((self.num_envs, len(self.agents), max(self._sizes)), np.float32)
        for i, (size, observed) in enumerate(zip(self._sizes, seen, strict=True)):
            observations[:, i, :size] = observed.numpy()
        return BatchObservation(observations, np.ones(observations.shape[:2], np.bool_))

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Lets scenarios, which draw from torch's global stream, draw from this batch's."""
        import torch

        others = torch.random.get_rng_state()
        torch.random.set_rng_state(self._random)
        try:
            yield
        finally:
            self._random = torch.random.get_rng_state()
            torch.random.set_rng_state(others)

    def render(self) -> np.ndarray:
        """A picture of the first copy, uint8 (height, width, 3).

        Raises:
            RuntimeError: There is neither a display nor EGL.
        """
        try:
            picture = self._env.render(mode="rgb_array", env_index=0)
        except Exception as error:  # pyglet's and OpenGL's own kinds, whose modules need OpenGL to be imported
            raise RuntimeError(
                f"vmas/{self.task} cannot draw here: {error!r}. VMAS draws with OpenGL: install EGL (libegl1) or "
                "start a virtual display (xvfb-run), or leave render_mode out."
            ) from error
        return np.ascontiguousarray(picture)

    def close(self) -> None:
        if self._env.viewer is not None:
            self._env.viewer.close()
            self._env.viewer = None


def make_vmas(task: str, **options: Any) -> SingleTeam:
    """One copy of a scenario; options as for VmasBatch."""
    return SingleTeam(VmasBatch(task, 1, **options))


def _scenario_class(task: str) -> Any:
    with contextlib.redirect_stderr(io.StringIO()):  # VMAS imports gym, which advises against itself
        importlib.import_module("vmas")
    return importlib.import_module("vmas.scenarios").load(f"{task}.py").Scenario


def _options(scenario: Any) -> list[str]:
    """A scenario's options, read from its source: one that is misspelt VMAS would only warn about."""
    source = ast.parse(textwrap.dedent(inspect.getsource(scenario.make_world)))
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "kwargs.pop"]


def _random_state(seed: int) -> Any:
    """The state of torch's generator after `seed`."""
    import torch

    return torch.Generator().manual_seed(seed).get_state()


def _padded(bounds: Sequence[tuple[np.ndarray, np.ndarray]], side: int) -> np.ndarray:
    """The lower (side 0) or upper (1) bounds of all agents' actions, (n, dim)."""
    dim = max(low.size for low, _ in bounds)
    return np.stack([np.pad(pair[side], (0, dim - pair[side].size)) for pair in bounds])


SUITE = Suite(
    name="vmas",
    tasks=TASKS,
    make=make_vmas,
    make_batch=VmasBatch,
    requires=("vmas",),
    extra="vmas",
)
