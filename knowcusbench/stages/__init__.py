"""The stages of a run: prepare, adapt, generate, score, report.

Each is a function from a prepared run to files in its run directory, and does only what is missing there.
"""
