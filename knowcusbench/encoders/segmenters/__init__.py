"""Segmenters: where the subject of an image is."""
