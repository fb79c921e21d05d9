"""Side effects of an adaptation: changes of unrelated answers, prompt embeddings, images and other concepts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
