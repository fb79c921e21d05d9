"""Training of the embedded world's weights: one module for each stage, and shared helpers."""
