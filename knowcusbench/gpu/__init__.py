"""Checks and timings for a machine with a GPU: `make check-gpu`, `make benchmark-gpu`, `make gpu-bundle`."""
