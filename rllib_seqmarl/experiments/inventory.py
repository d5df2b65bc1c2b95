"""The list of algorithms, environments and tuned experiments, made without importing Ray or torch."""

from collections.abc import Iterator

from rllib_seqmarl.algorithm_names import ALGORITHM_NAMES, RLLIB_ALGORITHM_NAMES
from rllib_seqmarl.envs import CATALOG, EnvEntry
from rllib_seqmarl.envs.descriptions import EnvDescription, known_descriptions
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.table import table
from rllib_seqmarl.experiments.tuned import tuned_configs
from rllib_seqmarl.suggestions import did_you_mean


def inventory(word: str = "") -> str:
    """List algorithms, environments and tuned experiments as tables and paragraphs of text.

    Args:
        word: If given, only names that contain it, in any case, are listed, and environments are described.

    Raises:
        ExperimentError: No name contains `word`.
    """
    part = word.lower()
    entries = [entry for entry in CATALOG.values() if part in entry.name.lower()]
    algorithms = [[name, summary] for name, summary in ALGORITHM_NAMES.items() if part in name.lower()]
    configs = [name for name in tuned_configs() if part in name.lower()]
    parts = []
    if algorithms:
        parts.append(table(["algorithm", ""], algorithms))
    if not word:
        parts.append(f"RLlib's own: {', '.join(RLLIB_ALGORITHM_NAMES)}")
    if entries:
        known = known_descriptions()
        rows = [_row(entry, known.get(entry.name), bool(word)) for entry in entries]
        parts.append(table([*_HEADER, "description"] if word else _HEADER, rows))
        parts.extend(_notes(entries))
    if configs:
        lines = [f"  {name}" for name in configs] if word else [f"  {line}" for line in _group_by_suite(configs)]
        parts.append("\n".join(["tuned experiments: rllib train file NAME", *lines]))
    if not parts:
        raise ExperimentError(f"no name contains '{word}'.{did_you_mean(word, [*CATALOG, *ALGORITHM_NAMES])}")
    return "\n\n".join(parts)


_HEADER = ["environment", "agents", "observation", "action", "masks", "state", "needs"]


def _row(entry: EnvEntry, description: EnvDescription | None, with_summary: bool) -> list[str]:
    facts = ["?"] * 5
    if description is not None:
        masks, state = "yes" if description.action_mask else "-", str(description.state or "-")
        facts = [str(description.agents), description.observation, description.action, masks, state]
    return [entry.name, *facts, _needs(entry), *([entry.summary] if with_summary else [])]


def _needs(entry: EnvEntry) -> str:
    suite = entry.suite
    needs = f"[{suite.extra}]" if suite.extra else suite.external or ", ".join(suite.requires) or "-"
    return f"{needs}, missing" if entry.missing() else needs


def _notes(entries: list[EnvEntry]) -> Iterator[str]:
    """Yield a paragraph of install hints and one of further tasks, if any."""
    suites = {entry.suite.name: entry for entry in entries}
    missing = [f"  {name}: {entry.missing()}" for name, entry in suites.items() if entry.missing()]
    if missing:
        yield "\n".join(["missing:", *missing])
    others = [f"  {name}/{entry.suite.other_tasks}" for name, entry in suites.items() if entry.suite.other_tasks]
    if others:
        yield "\n".join(["more tasks by name:", *others])


def _group_by_suite(configs: list[str]) -> Iterator[str]:
    """Yield one line per algorithm and suite."""
    groups: dict[str, list[str]] = {}
    for name in configs:
        algorithm, _, rest = name.partition("/")
        suites = [entry.suite.name for entry in CATALOG.values() if rest.startswith(f"{entry.suite.name}-")]
        suite = max(suites, key=len, default="")
        groups.setdefault(f"{algorithm}/{suite}-", []).append(rest.removeprefix(f"{suite}-"))
    for group, tasks in groups.items():
        yield f"{group}{{{','.join(tasks)}}}" if len(tasks) > 1 else f"{group}{tasks[0]}"
