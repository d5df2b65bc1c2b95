"""OptunaSearch for training runs whose first results may come before the first episode has ended."""

from __future__ import annotations

from typing import Any

from ray.tune.search.optuna import OptunaSearch


class PatientOptunaSearch(OptunaSearch):
    """As Tune's `OptunaSearch`, but a result without the metric is passed over and does not end the sweep."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:
            super().on_trial_result(trial_id, result)
