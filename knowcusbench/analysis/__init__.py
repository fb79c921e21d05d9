"""From scores to conclusions: data in, data out, no files."""
