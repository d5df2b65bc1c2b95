"""Assignment of the right and the left hand's parts to agents."""

import ast


def get_AgentIndex(config):  # noqa: N802
    return [ast.literal_eval(config["env"]["handAgentIndex"]) for _ in range(2)]
