"""The embedded world: things, words, pictures and facts."""
