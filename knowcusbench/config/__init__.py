"""The typed configuration: its schema, composing it with Hydra, and building objects from it."""
