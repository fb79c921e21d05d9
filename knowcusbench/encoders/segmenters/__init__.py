"""Segmenters, which find the subject of an image."""
