"""Which parts are whose, of the right and of the left hand."""

import ast


def get_AgentIndex(config):  # noqa: N802
    return [ast.literal_eval(config["env"]["handAgentIndex"]) for _ in range(2)]
