"""Cooperative scenarios of the vectorised multi-agent simulator VMAS (Bettini et al. 2022, arXiv 2207.03530).

The physics of many teams is simulated at once, in torch on the CPU. Rewards (shared or individual) and the defaults of
all options are the scenario's. There are no action masks and no global state.

Scenarios left out: those with opponents (football, simple_tag, ...), those for debugging, road_traffic, which resets
agents during an episode, and simple_reference and simple_speaker_listener, where all copies of a batch share one goal
(`mpe/...` has both).
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
from rllib_seqmarl.envs.options import check_names, check_number, check_options
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite, listed_tasks

# Time limits of BenchMARL's published configurations; VMAS itself has none.
MAX_STEPS = {
    **dict.fromkeys(("ball_passage", "joint_passage", "joint_passage_size", "passage"), 500),
    "multi_give_way": 200,
}
DEFAULT_MAX_STEPS = 100

TASKS = listed_tasks("vmas")

# Win conditions of tasks that have a goal. Most of them terminate only when it is reached.
_WINS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("discovery", "dispersion", "dropout", "navigation", "passage"), lambda scenario, ended: ended),
    **dict.fromkeys(("joint_passage", "joint_passage_size"), lambda scenario, ended: ended),
    **dict.fromkeys(("reverse_transport", "transport"), lambda scenario, ended: ended),
    "balance": lambda scenario, ended: ended & ~scenario.on_the_ground,
    "ball_passage": lambda scenario, ended: (scenario.ball.state.pos - scenario.goal.state.pos).norm(dim=1) <= 0.01,
    "buzz_wire": lambda scenario, ended: ended & ~scenario.collided,
    "give_way": lambda scenario, ended: scenario.goal_reached,
}


class VmasBatch(BatchedSimulator):
    """Copies of a VMAS scenario, stepped together.

    VMAS draws all random numbers of a batch from one stream, so only the first copy's seed is used. Each batch has a
    private stream: torch's global one, which the learner may be using, and those of other batches are unaffected.

    Args:
        task: One of TASKS.
        num_envs: Number of copies.
        max_steps: Steps after which an episode is truncated, >= 1; None for BenchMARL's limit: 100, but 200 for
            multi_give_way and 500 for the passage tasks.
        continuous_actions: Whether actions are forces (or velocities), clipped to their range. Otherwise actions are
            discrete: one for each combination of pushing backward, not at all or forward along each axis.
        render_mode: "rgb_array" or None. Rendering requires OpenGL, from a display or EGL.
        **scenario: The scenario's own options, such as `n_agents`.

    Raises:
        ValueError: An option is unknown or has an invalid value.
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
        check_options(VmasBatch, locals(), {"max_steps": 1})
        self._scenario = _load_scenario_class(task)()
        check_names(f"vmas/{task}", scenario, _list_options(self._scenario))
        for name, value in scenario.items():
            if name.startswith("n_"):
                check_number(name, value, 1 if name == "n_agents" else 0)
        self.task, self.num_envs, self.render_mode = task, num_envs, render_mode
        self.metadata = {"name": f"vmas/{task}", "render_modes": ["rgb_array"], "render_fps": 10}
        self._won = _WINS.get(task)
        try:
            self._env = importlib.import_module("vmas").make_env(
                self._scenario,
                num_envs,
                max_steps=max_steps,
                continuous_actions=continuous_actions,
                terminated_truncated=True,
                **scenario,
            )
        except Exception as error:  # scenarios raise anything from AssertionError to ZeroDivisionError
            raise ValueError(f"vmas/{task} cannot be made with {scenario}: {error!r}.") from error
        # VMAS's decorated methods swap the states of three generators around every call, which costs as much as a small
        # step. Call the undecorated ones, with this batch's stream.
        self._rng_state = _make_rng_state(np.random.SeedSequence().generate_state(1).item())
        self._step = partial(inspect.unwrap(type(self._env).step), self._env)
        self._scenario.info = lambda agent: {}  # infos are not used
        self.agents = tuple(agent.name for agent in self._env.agents)
        self.observation_spaces = tuple(
            spaces.Box(-np.inf, np.inf, space.shape) for space in self._env.observation_space
        )
        self._sizes = [space.shape[0] for space in self._env.observation_space]
        if continuous_actions:
            bounds = [(space.low, space.high) for space in self._env.action_space]
            self.action_spaces = tuple(spaces.Box(low, high, dtype=np.float32) for low, high in bounds)
        else:
            self.action_spaces = tuple(spaces.Discrete(int(space.n)) for space in self._env.action_space)

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        if seeds is not None:
            self._rng_state = _make_rng_state(seeds[0])
        with self._use_own_rng():
            self._reset_copies(np.ones(self.num_envs, np.bool_))
            return self._observe()

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        if reset_mask.all():  # as after a common time limit: one batched reset suffices
            no_end = np.zeros(self.num_envs, np.bool_)
            rewards = np.zeros((self.num_envs, len(self.agents)), np.float32)
            return StepResult(self.reset(), rewards, no_end, no_end, no_end.astype(np.float32) if self._won else None)
        with self._use_own_rng():
            agent_obs, agent_rewards, ended, timed_out, _ = self._step(self._convert_actions(actions))
            # (B, n); one scenario returns (B, 1) per agent instead of (B,)
            rewards = np.stack([reward.numpy().reshape(-1) for reward in agent_rewards], axis=1)
            wins = self._won(self._scenario, ended).numpy().astype(np.float32) if self._won else None
            terminated, truncated = ended.numpy(), (timed_out & ~ended).numpy()
            if not reset_mask.any():
                return StepResult(self._stack_observations(agent_obs), rewards, terminated, truncated, wins)
            self._reset_copies(reset_mask)
            rewards[reset_mask] = 0.0
            return StepResult(self._observe(), rewards, terminated & ~reset_mask, truncated & ~reset_mask, wins)

    def _reset_copies(self, reset_mask: np.ndarray) -> None:
        """Start an episode in the copies of `reset_mask` (B,), leaving the others unchanged."""
        import torch

        world, is_reset = self._env.world, torch.from_numpy(reset_mask).unsqueeze(-1)
        # A joint between two bodies is itself a body, and resetting one copy realigns it in all copies.
        joints = [body.state for body in world.landmarks if body.is_joint]
        saved = [(joint.pos, joint.rot) for joint in joints]
        if reset_mask.all():
            self._env._reset(return_observations=False)
        else:
            for copy in np.flatnonzero(reset_mask).tolist():
                self._env._reset_at(copy, return_observations=False)
        for joint, (pos, rot) in zip(joints, saved, strict=True):
            joint.pos, joint.rot = torch.where(is_reset, joint.pos, pos), torch.where(is_reset, joint.rot, rot)
        if self.task == "wind_flocking":  # otherwise the previous episode's wind acts on the first step
            body = self._scenario.big_agent
            body.gravity = torch.where(is_reset, self._scenario.wind, body.gravity)

    def _convert_actions(self, actions: np.ndarray) -> list[Any]:
        """Convert actions to VMAS's format, one tensor (B, size) per agent."""
        import torch

        if isinstance(self.action_spaces[0], spaces.Discrete):
            return list(torch.from_numpy(actions).unsqueeze(-1).unbind(1))
        return [
            torch.from_numpy(np.clip(actions[:, i, : space.shape[0]], space.low, space.high, dtype=np.float32))
            for i, space in enumerate(self._env.action_space)
        ]

    def _observe(self) -> BatchObservation:
        """Return the teams' current observations."""
        (agent_obs,) = self._env._get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        return self._stack_observations(agent_obs)

    def _stack_observations(self, agent_obs: Sequence[Any]) -> BatchObservation:
        """Stack the agents' observations, one tensor (B, size) per agent, into one padded array."""
        observations = np.zeros((self.num_envs, len(self.agents), max(self._sizes)), np.float32)
        for i, (size, obs) in enumerate(zip(self._sizes, agent_obs, strict=True)):
            observations[:, i, :size] = obs.numpy()
        return BatchObservation(observations, np.ones(observations.shape[:2], np.bool_))

    @contextlib.contextmanager
    def _use_own_rng(self) -> Iterator[None]:
        """Swap this batch's random stream with torch's global one, from which scenarios draw."""
        import torch

        global_state = torch.random.get_rng_state()
        torch.random.set_rng_state(self._rng_state)
        try:
            yield
        finally:
            self._rng_state = torch.random.get_rng_state()
            torch.random.set_rng_state(global_state)

    def render(self) -> np.ndarray:
        """Render the first copy, uint8 (height, width, 3).

        Raises:
            RuntimeError: There is neither a display nor EGL.
        """
        try:
            image = self._env.render(mode="rgb_array", env_index=0)
        except Exception as error:  # the specific types of pyglet and OpenGL cannot be imported without OpenGL
            raise RuntimeError(
                f"vmas/{self.task} cannot render: {error!r}. VMAS renders with OpenGL: install EGL (libegl1), start a "
                "virtual display (xvfb-run), or leave out render_mode."
            ) from error
        return np.ascontiguousarray(image)

    def close(self) -> None:
        if self._env.viewer is not None:
            self._env.viewer.close()
            self._env.viewer = None


def _load_scenario_class(task: str) -> Any:
    with contextlib.redirect_stderr(io.StringIO()):  # VMAS imports gym, which prints a deprecation notice
        importlib.import_module("vmas")
    return importlib.import_module("vmas.scenarios").load(f"{task}.py").Scenario


def _list_options(scenario: Any) -> list[str]:
    """List a scenario's options, read from its source, since VMAS only warns about unknown ones."""
    source = ast.parse(textwrap.dedent(inspect.getsource(scenario.make_world)))
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "kwargs.pop"]


def _make_rng_state(seed: int) -> Any:
    """Return the state of a torch generator seeded with `seed`."""
    import torch

    return torch.Generator().manual_seed(seed).get_state()


SUITE = Suite(name="vmas", tasks=TASKS, make=single(VmasBatch), make_batch=VmasBatch, requires=("vmas",), extra="vmas")
