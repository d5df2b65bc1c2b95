"""What there is to run, and what is missing to use it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS

from rllib_seqmarl.envs import CATALOG, EnvEntry
from rllib_seqmarl.envs.descriptions import EnvDescription, known_descriptions
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.report import table
from rllib_seqmarl.experiments.tuned import tuned_configs
from rllib_seqmarl.registry import ALGORITHMS
from rllib_seqmarl.suggestions import did_you_mean


def inventory(word: str = "") -> str:
    """Algorithms, environments and tuned experiments, as text.

    Args:
        word: Only those whose name has this in it; environments then with a sentence each.

    Raises:
        ExperimentError: Nothing is named so.
    """
    entries = [entry for entry in CATALOG.values() if word in entry.name]
    algorithms = [
        [name, (inspect.getdoc(cls) or "").splitlines()[0]] for name, cls in ALGORITHMS.items() if word in name
    ]
    configs = [name for name in tuned_configs() if word in name]
    parts = []
    if algorithms:
        parts.append(table(["algorithm", ""], algorithms))
    if not word:
        parts.append(f"RLlib's own: {', '.join(RLLIB_ALGORITHMS)}")
    if entries:
        known = known_descriptions()
        rows = [_row(entry, known.get(entry.name), bool(word)) for entry in entries]
        parts.append(table([*_HEADER, "what it is"] if word else _HEADER, rows))
        parts.extend(_notes(entries))
    if configs:
        lines = [f"  {name}" for name in configs] if word else [f"  {line}" for line in _grouped(configs)]
        parts.append("\n".join(["tuned experiments: rllib train file NAME", *lines]))
    if not parts:
        raise ExperimentError(f"nothing is named '{word}'.{did_you_mean(word, [*CATALOG, *ALGORITHMS])}")
    return "\n\n".join(parts)


_HEADER = ["environment", "agents", "observation", "action", "masks", "state", "needs"]


def _row(entry: EnvEntry, found: EnvDescription | None, with_sentence: bool) -> list[str]:
    facts = ["?"] * 5
    if found is not None:
        masks, state = "yes" if found.action_mask else "-", str(found.state or "-")
        facts = [str(found.agents), found.observation, found.action, masks, state]
    return [entry.name, *facts, _needs(entry), *([entry.summary] if with_sentence else [])]


def _needs(entry: EnvEntry) -> str:
    suite = entry.suite
    needs = f"[{suite.extra}]" if suite.extra else suite.external or ", ".join(suite.requires) or "-"
    return f"{needs}, missing" if entry.missing() else needs


def _notes(entries: list[EnvEntry]) -> Iterator[str]:
    """What to install, and which tasks there are beside the listed ones; a paragraph each."""
    suites = {entry.suite.name: entry for entry in entries}
    missing = [f"  {name}: {entry.missing()}" for name, entry in suites.items() if entry.missing()]
    if missing:
        yield "\n".join(["missing:", *missing])
    others = [f"  {name}/{entry.suite.other_tasks}" for name, entry in suites.items() if entry.suite.other_tasks]
    if others:
        yield "\n".join(["more tasks by name:", *others])


def _grouped(configs: list[str]) -> Iterator[str]:
    """One line for each algorithm and suite."""
    groups: dict[str, list[str]] = {}
    for name in configs:
        algorithm, _, rest = name.partition("/")
        suites = [entry.suite.name for entry in CATALOG.values() if rest.startswith(f"{entry.suite.name}-")]
        suite = max(suites, key=len, default="")
        groups.setdefault(f"{algorithm}/{suite}-", []).append(rest.removeprefix(f"{suite}-"))
    for group, tasks in groups.items():
        yield f"{group}{{{','.join(tasks)}}}" if len(tasks) > 1 else f"{group}{tasks[0]}"
