"""The errors an environment can cause. All are ValueErrors, with one sentence that says who, what and the
remedy."""


class LayoutError(ValueError):
    """A team's spaces, observations, masks or actions do not fit together; names the agent."""


class JointEnvError(ValueError):
    """An environment broke a promise while it ran; names the environment, the step and the agent."""
