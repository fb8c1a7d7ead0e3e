"""CUDA kernels: which steps compute an operation, and the CUDA C of each kernel."""
