"""RLModules: thin shells that give a joint network RLlib's interface."""
