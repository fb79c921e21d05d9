"""A run: its directory, plan, identity, jobs and results."""
