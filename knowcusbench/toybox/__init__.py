"""The embedded world: a miniature backbone, miniature metric encoders and a drawn benchmark.

They are ordinary checkpoint directories and an ordinary release directory. Only the configuration knows their origin,
by the `${embedded:...}` resolver.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
