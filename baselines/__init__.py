"""What methods are compared with: baselines of the paper, and controls. One file each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
