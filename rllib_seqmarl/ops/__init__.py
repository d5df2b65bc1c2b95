"""The recurrences behind the mixers, each with several backends: plain torch, numba on CPUs, fused CUDA libraries."""
