"""The summary printed at the end of an experiment."""

from typing import Any

from rllib_seqmarl.experiments.metrics import ENV_STEPS, SECONDS, best, lookup, metric
from rllib_seqmarl.experiments.progress import duration
from rllib_seqmarl.experiments.runner import Outcome
from rllib_seqmarl.experiments.table import table


def results_table(outcome: Outcome) -> str:
    """Return a table of the trials, best first: parameters, best and last metric, steps, time, state."""
    name, mode = outcome.experiment.metric
    keys = outcome.experiment.tuned_keys
    rows = []
    for number, result in enumerate(outcome.results, start=1):
        history = result.metrics_dataframe
        column = history[name] if history is not None and name in history else ()
        best_value = best((metric({"value": value}, "value") for value in column), mode)
        last = result.metrics or {}
        cells = [
            str(number),
            *(_format(lookup(last.get("config") or {}, key)) for key in keys),
            "-" if best_value is None else _format(best_value),
            "-" if (final := metric(last, name)) is None else _format(final),
            f"{metric(last, ENV_STEPS) or 0:,.0f}",
            duration(metric(last, SECONDS) or 0.0),
            "failed" if result.error else "done" if last.get("done") else "stopped",
        ]
        rows.append((best_value, cells))
    worst = float("-inf") if mode == "max" else float("inf")
    rows.sort(key=lambda row: worst if row[0] is None else row[0], reverse=mode == "max")
    short = name.rsplit("/", 1)[-1].replace("episode_return_mean", "return")
    header = ["trial", *keys, f"best {short}", f"last {short}", "env steps", "time", "state"]
    return table(header, [cells for _, cells in rows])


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def closing_message(outcome: Outcome) -> str:
    """Return the closing lines of a run: the results folder, failures, and how to continue."""
    lines = [f"Results: {outcome.path}"]
    for failure in outcome.failures:
        lines += [
            f"A trial failed: {failure.message}",
            f"  full traceback: {failure.error_file}",
            f"  last checkpoint: {failure.checkpoint or 'none written yet'}",
        ]
    checkpoint = best_checkpoint(outcome)
    if checkpoint is not None and not outcome.failures:
        lines.append(f"{'Last' if outcome.interrupted else 'Best trial, last'} checkpoint: {checkpoint}")
    if outcome.interrupted or outcome.failures:
        why = "Stopped before the end. " if outcome.interrupted else ""
        lines.append(f"{why}The same command with --resume continues from the last checkpoints.")
    elif checkpoint is not None:
        lines.append(f"Watch it: rllib evaluate {checkpoint} --render team.gif")
    return "\n".join(lines)


def best_checkpoint(outcome: Outcome) -> str | None:
    """Return the last checkpoint of the trial with the best final metric; None if no trial wrote one."""
    name, mode = outcome.experiment.metric
    written = [result for result in outcome.results if result.checkpoint]
    values = [metric(result.metrics, name) for result in written]
    chosen = best(values, mode)
    if not written:
        return None
    return str(written[values.index(chosen) if chosen is not None else -1].checkpoint.path)
