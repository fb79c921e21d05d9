"""The models of the embedded world."""
