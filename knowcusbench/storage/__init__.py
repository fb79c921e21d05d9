"""Files, tables, images, claims and digests: what everything stands on."""
