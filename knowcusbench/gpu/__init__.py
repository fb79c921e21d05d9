"""Checks and stop-watches for a machine with a GPU: `make check-gpu`, `make benchmark-gpu`, `make gpu-bundle`."""
