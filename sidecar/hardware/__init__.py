"""Readings of the machine: GPUs (nvml), host and training processes (host), and when they are taken (sampler)."""
