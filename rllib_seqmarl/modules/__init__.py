"""RLModules: thin wrappers that give a joint network RLlib's interface."""
