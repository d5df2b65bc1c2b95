"""OptunaSearch for training runs whose first results may precede the end of the first episode."""

from __future__ import annotations

from typing import Any

from ray.tune.search.optuna import OptunaSearch


class PatientOptunaSearch(OptunaSearch):
    """Tune's `OptunaSearch`, except that results without the metric are ignored instead of ending the sweep."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:
            super().on_trial_result(trial_id, result)
