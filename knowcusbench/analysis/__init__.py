"""Conclusions from scores: data in, data out, no files."""
