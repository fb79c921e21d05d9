"""Low-rank adapters as data: their factors, files, sums and cost, and attaching them to a model."""
