"""Low-rank adapters as data: their factors, files, sums and cost, and attaching them to a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
