"""The errors an environment can cause. All are ValueErrors, with one sentence that says who, what and the
remedy."""

from collections.abc import Iterable


class LayoutError(ValueError):
    """A team's spaces, observations, masks or actions do not fit together; names the agent.

    Attributes:
        team: Which one of several teams; 0 for a single one.
    """

    def __init__(self, message: str, team: Iterable[int] = ()):
        super().__init__(message)
        self.team = int(next(iter(team), 0))


class JointEnvError(ValueError):
    """An environment broke a promise while it ran; names the environment, the step and the agent."""
