"""The standalone policy: argument checks, files and their checksums, and ONNX export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces

from rllib_seqmarl.envs import LayoutError, TeamLayout
from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.policies import ActionSpec, Decision, NetworkConfig, SequencePolicy, ValueNormalizer
from rllib_seqmarl.policies.export import ExportError
from rllib_seqmarl.policy import JointPolicy

DEPLOYMENT: dict[str, Any] = {
    "env": "coordination/distinct_choice",
    "env_config": {},
    "env_config_left_out": [],
    "joint_options": {},
    "normalize_actions": True,
    "clip_actions": False,
    "has_custom_connectors": False,
}
NAMES = (("red", 0), 7, "blue")
OBSERVATION = spaces.Box(-1, 1, (4,))
CHOICE = spaces.Discrete(3)
# The second dimension has no upper bound, so only the first is scaled.
FORCE = spaces.Box(np.array([0, -2], np.float32), np.array([1, np.inf], np.float32))


def team(
    action: spaces.Space = CHOICE,
    mixer: str = "attention",
    state_dim: int = 2,
    masks: bool = True,
    names: tuple[Any, ...] = NAMES,
    agent_order: Any = "fixed",
) -> JointPolicy:
    n = len(names)
    layout = TeamLayout(names, (OBSERVATION,) * n, (action,) * n, info_masks=masks, state_dim=state_dim)
    spec = ActionSpec("discrete", nvec=(3,)) if action is CHOICE else ActionSpec("continuous", dim=2)
    torch.manual_seed(1)
    sizes = {"state_dim": state_dim, "n_agents": n, "embed_dim": 8}
    config = NetworkConfig(
        layout.obs_dim, spec, encoder_mixer=mixer, decoder_mixer=mixer, agent_order=agent_order, **sizes
    )
    return JointPolicy(SequencePolicy(config), layout, ValueNormalizer(), DEPLOYMENT)


def observations_of(*agents: Any) -> dict[Any, np.ndarray]:
    return {agent: np.full(4, 0.1, np.float32) for agent in agents or NAMES}


ALL_LEGAL = {agent: np.ones(3, np.int8) for agent in NAMES}
STATE = np.zeros(2, np.float32)


@pytest.mark.parametrize("names", [NAMES, tuple(np.arange(3)), (np.str_("a"), "b", (np.int32(1), ("c", 2)))])
def test_agent_names_survive_saving_and_loading(names: tuple[Any, ...], tmp_path: Path) -> None:
    policy = team(names=names)
    policy.save(tmp_path / "team")
    loaded = JointPolicy.load(tmp_path / "team")
    masks = dict.fromkeys(names, np.ones(3, np.int8))
    actions = loaded.act(observations_of(*names), masks, state=STATE)
    assert actions.keys() == set(names) and actions == policy.act(observations_of(*names), masks, state=STATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((observations_of("agent_0"), ALL_LEGAL), "observations: the team has no agent 'agent_0'. Its agents are"),
        ((np.zeros((3, 2)), ALL_LEGAL), "observations must be a dictionary by agent, not a ndarray"),
        (((observations_of(), {}), ALL_LEGAL), "observations must be a dictionary .* not a tuple"),
        ((observations_of(*NAMES, 8), ALL_LEGAL), "the team has no agent 8"),
        ((observations_of(), {**ALL_LEGAL, "green": 0}), "action_masks: the team has no agent 'green'"),
        (({}, ALL_LEGAL), "no agent has an observation"),
        ((observations_of(), None), "agent .* has no action mask"),
    ],
)
def test_unknown_and_missing_agents_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        team().act(*arguments, state=STATE)


def test_unusable_arguments_are_rejected() -> None:
    with pytest.raises(LayoutError, match="state: the policy was trained with global_state=True and needs"):
        team().act(observations_of(), ALL_LEGAL)
    with pytest.raises(LayoutError, match="state: the policy was trained with global_state=False and has no"):
        team(state_dim=0).act(observations_of(), ALL_LEGAL, state=STATE)
    with pytest.raises(LayoutError, match="action_masks were given, but the policy was trained without"):
        team(masks=False).act(observations_of(), ALL_LEGAL, state=STATE)
    with pytest.raises(LayoutError, match="the team has no agent 'agent_0'"):
        team().values(observations_of("agent_0"), state=STATE)


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        (1.5, OBSERVATION, "agent 1.5: the name 1.5 is a float: use a string, an integer or a tuple"),
        (("a", None), OBSERVATION, "the name None is a NoneType"),
        ("a", spaces.Dict({"word": spaces.Text(3), "x": OBSERVATION}), "agent 'a': Text spaces are not supported"),
        ("a", spaces.OneOf([OBSERVATION, CHOICE]), "agent 'a': OneOf spaces are not supported"),
        ("a", spaces.Dict({"x": OBSERVATION, "goal": spaces.Tuple([spaces.Text(2)])}), "Text spaces are not supported"),
    ],
)
def test_names_and_spaces_that_cannot_be_saved_are_rejected(name: Any, space: spaces.Space, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        TeamLayout((name,), (space,), (CHOICE,))


# -- state ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """A function that acts for four teams, and returns the order in which the agents decided."""
    policy = team(agent_order="shuffled", names=tuple(range(8)))
    act, seen = policy.network.act, []

    def record(*args: Any, **kwargs: Any) -> Decision:
        seen.append(act(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(policy.network, "act", record)

    def orders(teams: int = 4, reset: bool = False, **options: Any) -> list[list[int]]:
        if reset:
            policy.reset()
        policy.act_for_many(policy.layout.blank(teams), **options)
        return seen[-1].extras["order"].tolist()

    return orders


def test_state_is_kept_until_episodes_begin(orders: Callable[..., list[list[int]]]) -> None:
    first = orders()
    assert orders() == orders(explore=True) == first
    some = orders(resets=np.array([True, False, False, True]))
    assert [one == other for one, other in zip(some, first, strict=True)] == [False, True, True, False]
    assert orders() == some
    again = orders(reset=True)
    assert not any(one == other for one, other in zip(again, some, strict=True))
    assert len(orders(teams=2)) == 2, "another number of teams begins new episodes"


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "team"
    team().save(path)
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    for suffix in ("json", "safetensors"):
        shutil.copy(f"{saved}.{suffix}", tmp_path)
    return tmp_path / "team"


def file(path: Path, suffix: str) -> Path:
    return Path(f"{path}.{suffix}")


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_any_flipped_bit_is_detected(copied: Path, suffix: str) -> None:
    content = file(copied, suffix).read_bytes()
    bits = np.random.default_rng(0).permutation(8 * len(content))[:500].tolist()
    for bit in [*range(64), *bits]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file(copied, suffix).write_bytes(flipped)
        with pytest.raises(ExportError):
            JointPolicy.load(copied)
    file(copied, suffix).write_bytes(content)
    JointPolicy.load(copied)


def test_files_of_different_policies_are_rejected(copied: Path, tmp_path: Path) -> None:
    other = team()
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other.safetensors", file(copied, "safetensors"))
    with pytest.raises(ExportError, match="damaged or belongs to another policy"):
        JointPolicy.load(copied)


def as_version_1(path: Path, change: Callable[[dict[str, Any]], None] = lambda description: None) -> None:
    """Converts the JSON file to version 1, which has no checksums, and applies `change` to it."""
    description = json.loads(file(path, "json").read_text())
    network = description["network"]
    network["obs_dim"] += network["state_dim"]
    for key in ("n_agents", "state_dim", "agent_order"):
        del network[key]
    del description["sha256"], description["weights_sha256"], description["policy"]
    description["format_version"] = 1
    change(description)
    file(path, "json").write_text(json.dumps(description))


def test_version_1_policies_load_and_act_identically(copied: Path) -> None:
    expected = JointPolicy.load(copied).act(observations_of(), ALL_LEGAL, state=STATE)
    as_version_1(copied)
    assert JointPolicy.load(copied).act(observations_of(), ALL_LEGAL, state=STATE) == expected


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All keys and indices below `layout` and `deployment`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner for key, part in items for inner in ((*path, key), *paths_in(part, (*path, key)))]


# Any value is valid here: the environment and its options.
FREE = {"env_config", "env_config_left_out", "joint_options", "env"}


def test_each_entry_of_layout_and_deployment_is_validated(copied: Path) -> None:
    """Wrong types and missing entries raise an ExportError with a one-line message."""
    original = file(copied, "json").read_text()
    description = json.loads(original)
    accepted = []
    for part in ("layout", "deployment"):
        for path in [(), *paths_in(description[part])]:
            for value in (None, "x", -3, [], {}, [None]):

                def put(changed: dict[str, Any], path: Any = (part, *path), value: Any = value) -> None:
                    *parents, last = path
                    for key in parents:
                        changed = changed[key]
                    changed[last] = value

                file(copied, "json").write_text(original)
                as_version_1(copied, put)
                try:
                    JointPolicy.load(copied)
                except ExportError as error:
                    assert "\n" not in str(error) and part in str(error)
                else:
                    accepted.append(path)
    assert {path[0] for path in accepted if path} <= FREE | {"agents", "observation_spaces", "action_spaces"}


def test_paths_may_start_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    team().save("~/models/team")
    assert (tmp_path / "models" / "team.json").exists()
    for load in (JointPolicy.load, JointPolicy.from_checkpoint):
        assert load("~/models/team").layout.agents == NAMES


def test_a_failed_save_keeps_the_old_files(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {suffix: file(copied, suffix).read_bytes() for suffix in ("json", "safetensors")}
    write = Path.write_bytes

    def fail_for_json(path: Path, content: bytes) -> int:
        if ".json" in path.name:
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail_for_json)
    with pytest.raises(OSError, match="No space left"):
        team(state_dim=0).save(copied)
    assert {path.name for path in copied.parent.iterdir()} == {"team.json", "team.safetensors"}
    assert {suffix: file(copied, suffix).read_bytes() for suffix in old} == old


# -- devices ----------------------------------------------------------------------------------------------------------


def test_observations_are_moved_to_the_networks_device(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = JointPolicy.load(copied, device="meta")
    devices = []

    def act(obs: dict[str, torch.Tensor], state: Any, deterministic: bool) -> Decision:
        devices.extend(tensor.device.type for tensor in obs.values())
        return Decision(*(torch.zeros(1, 3, dtype=torch.int64),) * 3, state, {})

    monkeypatch.setattr(policy.network, "act", act)
    assert policy.act(observations_of(), ALL_LEGAL, state=STATE) == dict.fromkeys(NAMES, 0)
    assert devices == ["meta"] * 4
    assert all(tensor.device.type == "meta" for tensor in policy.value_normalizer.buffers())


# -- export -----------------------------------------------------------------------------------------------------------


def some_observations(policy: JointPolicy, teams: int) -> dict[str, np.ndarray]:
    """Joint observations of several teams, with dead agents and illegal choices."""
    arrays = policy.layout.blank(teams)
    rng = np.random.default_rng(teams)
    arrays["observations"][..., :4] = rng.normal(size=(*arrays["alive"].shape, 4))
    arrays["state"][:] = rng.normal(size=(teams, 2))
    arrays["alive"][-1, 0] = 0
    if policy.layout.is_discrete:
        arrays["action_mask"][0, 1, 0] = 0
    return arrays


@pytest.mark.parametrize(("mixer", "action"), zip(MIXERS, [CHOICE, FORCE, CHOICE, FORCE, CHOICE, CHOICE], strict=True))
def test_onnx_export_matches_the_policy_for_any_number_of_teams(
    mixer: str, action: spaces.Space, tmp_path: Path
) -> None:
    policy = team(action, mixer, masks=action is CHOICE, names=NAMES[:2])
    session = onnxruntime.InferenceSession(policy.to_onnx(tmp_path / "new" / "team.onnx"))
    for teams in (1, 2, 5):
        arrays = some_observations(policy, teams)
        assert {argument.name for argument in session.get_inputs()} == set(arrays)
        (actions,) = session.run(None, arrays)
        np.testing.assert_allclose(actions, policy.act_for_many(arrays), atol=1e-5)


def test_onnx_export_carries_the_state_from_step_to_step(tmp_path: Path) -> None:
    """Here an order of agents, drawn where the state is zero."""
    policy = team(agent_order="shuffled")
    session = onnxruntime.InferenceSession(policy.to_onnx(tmp_path / "team.onnx"))
    for teams in (1, 2, 5):
        arrays = some_observations(policy, teams)
        _, drawn = session.run(None, {**arrays, "memory_0": np.zeros((teams, 3), np.int64)})
        np.testing.assert_array_equal(np.sort(drawn), np.arange(3)[None].repeat(teams, 0))
        actions, kept = session.run(None, {**arrays, "memory_0": drawn})
        decision = policy.network.act(
            {key: torch.from_numpy(array) for key, array in arrays.items()}, {"order": torch.from_numpy(drawn)}
        )
        np.testing.assert_array_equal(actions, decision.actions)
        np.testing.assert_array_equal(kept, drawn)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_torch_trace_matches_the_policy(mixer: str) -> None:
    class Act(torch.nn.Module):
        def __init__(self, network: SequencePolicy) -> None:
            super().__init__()
            self.network = network

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.network.act({"observations": obs}).actions

    policy = team(mixer=mixer, state_dim=0)
    act, obs = Act(policy.network), torch.randn(2, 3, policy.network.config.obs_dim)
    traced = torch.jit.trace(act, (obs,))
    other = torch.randn_like(obs)
    assert torch.equal(traced(other), act(other))
