"""Encoders of images and texts for metrics, and the store of their embeddings."""
