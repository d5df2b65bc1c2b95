"""Experiment files with one random defect each, made reproducibly from valid ones."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TUNED = Path(__file__).parents[2] / "tuned_configs"

FULL = """\
full:
  run: MAT
  env: coordination/distinct_choice
  stop: {env_steps: 1000, episode_return_mean: 0.5}
  num_samples: 2
  max_failures: 1
  max_concurrent_trials: 1
  time_budget_s: 60
  checkpoint_freq: 5
  keep_checkpoints_num: 1
  config:
    env_config:
      n_agents: 3
    lr: 1.0e-4
    gamma: 0.99
    num_epochs: 2
    train_batch_size_per_learner: 320
    num_envs_per_env_runner: 4
    embed_dim: {choice: [16, 32]}
    evaluation_interval: 10
    evaluation_config:
      explore: false
  search:
    algorithm: random
    metric: episode_return_mean
    mode: max
    space:
      clip_param: {uniform: [0.1, 0.3]}
  scheduler:
    name: asha
    grace_period: 2
"""

# Values that are invalid for every key.
NEVER = [
    *[".nan", ".NaN", "1e400", "-1e999", "99999999999999999999", "yes", "off", "010", "1:30"],
    *["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}", "!own x"],
    *["*nowhere", "&loop [*loop]", "{1: 2}", "{true: 1}", "{null: 1}", "[1", "'unclosed", "{a: 1, a: 2}", "@x", "`x`"],
    *[
        "!!int many",
        "!!float ''",
        "!!bool 3",
        "\x00",
        "{sample_from: 'lambda: 1'}",
        "{choice: []}",
        "{uniform: [2, 1]}",
    ],
]
# Values that are valid for some key.
ODD = [
    *[
        "null",
        "",
        "-1",
        "-.inf",
        "0",
        "1.5",
        "text",
        "''",
        "[]",
        "{}",
        "[[0, 1], [1, 2]]",
        "{a: {b: {c: 1}}}",
        "true",
        "2001-01-01",
    ],
    *[
        "1_000",
        "{grid_search: 3}",
        "{grid_search: [a, 1]}",
        "{loguniform: [0, 1]}",
        "'" + "x" * 300 + "'",
        "../up",
        "~",
    ],
    *["9223372036854775807", "1e308", "é", "0x10", "5e-324", "{randn: [0, 1]}", "[{uniform: [0, 1]}]", "a\tb"],
]


@dataclass(frozen=True)
class SpoiltFile:
    """A defective experiment file.

    Attributes:
        text: The text of the file.
        what: A description of the defect.
        must_fail: Whether the file must be rejected; otherwise it may be valid by chance.
    """

    text: str
    what: str
    must_fail: bool


Spoil = Callable[[list[str], random.Random], tuple[list[str], str, bool]]


def spoilt_files(count: int, seed: int) -> Iterator[SpoiltFile]:
    """Yield `count` spoilt files; file i depends only on `seed` and i."""
    sources = [FULL, *(path.read_text() for path in sorted(TUNED.glob("m*/[cm]*.yaml")) if path.stat().st_size < 1500)]
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        source = draw.choice(sources) if draw.random() < 0.5 else FULL
        lines, what, must_fail = draw.choice(SPOILS)(source.splitlines(), draw)
        yield SpoiltFile("\n".join(lines) + "\n", what, must_fail)


def _settings(lines: list[str]) -> list[int]:
    """Return the numbers of the lines that assign a value to a key."""
    return [number for number, line in enumerate(lines) if re.match(r"\s+\w+: [^&*\s]", line)]


def _value(values: list[str], must_fail: bool) -> Spoil:
    def spoil(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
        number, value = draw.choice(_settings(lines)), draw.choice(values)
        key = lines[number].split(":")[0]
        return [*lines[:number], f"{key}: {value}", *lines[number + 1 :]], f"{key.strip()}: {value!r}", must_fail

    return spoil


def _misspelt(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    number = draw.choice(_settings(lines))
    line = lines[number].replace(":", "x:", 1)
    is_of_env = any("env_config:" in before for before in lines[max(0, number - 3) : number + 1])  # known only there
    return [*lines[:number], line, *lines[number + 1 :]], f"misspelt {line.strip()!r}", not is_of_env


def _key(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    number = draw.choice(_settings(lines))
    key = draw.choice(["1", "null", "1.5", "[a, b]", "on", "010", "? {a: b}\n"])
    line = re.sub(r"\w+(?=:)", key, lines[number], count=1)
    return [*lines[:number], line, *lines[number + 1 :]], f"key {key!r}", True


def _twice(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    number = draw.choice(_settings(lines))
    return [*lines[:number], lines[number], *lines[number:]], f"twice {lines[number].strip()!r}", True


def _deleted(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    number = draw.randrange(len(lines))
    return [*lines[:number], *lines[number + 1 :]], f"without {lines[number].strip()!r}", False


def _swapped(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    first, second = draw.sample(range(len(lines)), 2)
    lines = list(lines)
    lines[first], lines[second] = lines[second], lines[first]
    return lines, f"lines {first + 1} and {second + 1} swapped", False


def _indented(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    number = draw.randrange(len(lines))
    space = draw.choice([" ", "  ", "\t", "        "])
    return [*lines[:number], space + lines[number], *lines[number + 1 :]], f"line {number + 1} indented", False


def _cut(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    text = "\n".join(lines)
    end = draw.randrange(len(text))
    return [text[:end]], f"cut after {end} characters", False


def _character(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    text = "\n".join(lines)
    place, character = draw.randrange(len(text)), draw.choice("{}[]:,&*!|>'\"%@`#-?\t\x00\x07\ufeff\u2028é0")
    return [text[:place] + character + text[place:]], f"{character!r} inserted at {place}", False


def _bomb(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    kind = draw.choice(["sequence", "merge", "deep", "wide"])
    levels = range(1, 20)
    if kind == "sequence":
        added = ["b0: &b0 [x, x]", *(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in levels)]
    elif kind == "merge":
        added = ["b0: &b0 {x: 1}", *(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}" for i in levels)]
    elif kind == "deep":
        added = [f"deep: {'[' * 3000}{']' * 3000}"]
    else:
        added = [f"wide: [{', '.join('1' * 100_000)}]"]
    return [*lines, *added], f"{kind} bomb", True


def _name(lines: list[str], draw: random.Random) -> tuple[list[str], str, bool]:
    name = draw.choice(["''", "../up", "/tmp/x", "a/b", '"a\\0b"', "7", "null", "x" * 300, ".", "' '", '"a\\nb"', "~"])
    return [*lines, f"{name}: {{run: MAT, env: coordination/distinct_choice}}"], f"name {name!r}", True


SPOILS: list[Spoil] = [
    _value(NEVER, must_fail=True),
    _value(ODD, must_fail=False),
    *[_misspelt, _key, _twice, _deleted, _swapped, _indented, _cut, _character, _bomb, _name],
]
