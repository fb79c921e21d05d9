"""What an adaptation does to everything else: to answers, prompt embeddings and pictures, and to other concepts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
