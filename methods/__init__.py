"""Methods of knowledge-aware concept customization, one file each."""
