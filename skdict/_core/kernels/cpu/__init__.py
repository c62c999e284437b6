"""Bodies of operations on the CPU, compiled by Numba."""
