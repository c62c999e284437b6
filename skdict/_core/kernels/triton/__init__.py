"""Bodies of operations on CUDA devices, in Triton."""
