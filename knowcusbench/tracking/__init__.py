"""Experiment trackers behind one small hook: `Tracker` is the contract, `tracked` calls it while the stages run."""

from knowcusbench.tracking.base import Tracker
from knowcusbench.tracking.hook import tracked

__all__ = ["Tracker", "tracked"]
