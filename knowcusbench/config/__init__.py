"""The typed configuration: its schema, its composition with Hydra, and the objects built from it."""
