"""Errors caused by environments: ValueErrors whose message names the culprit, the problem and the remedy."""

from collections.abc import Iterable


class LayoutError(ValueError):
    """Raised if a team's spaces, observations, masks or actions do not fit together; the message names the agent.

    Attributes:
        team: Index of the team in a batch; 0 for a single one.
    """

    def __init__(self, message: str, team: Iterable[int] = ()):
        super().__init__(message)
        self.team = int(next(iter(team), 0))


class JointEnvError(ValueError):
    """Raised if an environment violates the contract; the message names the environment, the step and the agent."""
