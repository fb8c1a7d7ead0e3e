"""The CUDA device: executes plans on an NVIDIA GPU through CuPy's low-level modules, NVRTC and cuBLASLt."""
