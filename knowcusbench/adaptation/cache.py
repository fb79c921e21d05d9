"""A content-addressed store of adapters that several methods share."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from knowcusbench.adaptation.types import Adapter, Cost


class AdapterCache:
    """Keeps expensive adapters under a key made of everything that determines them.

    A later caller with the same key gets the same bytes, and the cost that the first one paid.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(
        self, key: Mapping[str, Any], make: Callable[[], tuple[Adapter, Cost]]
    ) -> tuple[Adapter, Cost]:
        """The adapter and cost stored under `key` (JSON values only), made and stored first if absent."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        raise NotImplementedError(digest)
