"""Experiment trackers behind one small hook: `Tracker` is the contract, `tracked` calls it while the stages run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
