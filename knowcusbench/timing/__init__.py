"""Timings against a named alternative: `make timing`."""
