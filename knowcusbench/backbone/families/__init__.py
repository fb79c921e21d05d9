"""Models: one file each, with what is particular to it."""
