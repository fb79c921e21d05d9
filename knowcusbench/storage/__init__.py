"""Files, tables, images, claims and digests, which every other room builds on."""
