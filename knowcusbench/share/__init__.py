"""Sharing results: a run packed as a bundle that anybody can check, and several bundles in one table."""

from knowcusbench.share.bundle import Bundle, read_bundle
from knowcusbench.share.hub import push, scores_dataset
from knowcusbench.share.merge import merged
from knowcusbench.share.pack import pack, write_bundle

__all__ = ["Bundle", "merged", "pack", "push", "read_bundle", "scores_dataset", "write_bundle"]
