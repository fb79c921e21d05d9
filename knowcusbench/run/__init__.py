"""A run: its directory, its plan, its identity, its jobs and its results."""
