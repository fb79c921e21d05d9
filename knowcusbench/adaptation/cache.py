"""A content-addressed store of adapters that several methods share, and of their class images."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from knowcusbench.adaptation.class_images import ClassImages
from knowcusbench.adapters.peft_files import entry_name, is_saved, load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation
from knowcusbench.storage.claims import Claims

WAIT = 0.5
"""Seconds between two checks for an entry that another process is making."""


class AdapterCache:
    """A store of expensive adaptations; the key holds everything that determines the result.

    A later caller with the same key gets the same bytes and the cost of the first computation.

    Attributes:
        directory: directory of the adaptations.
        class_images: class images shared by trainings with prior preservation, in a sibling directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.class_images = ClassImages(directory.with_name(f"{directory.name}-class-images"))
        self._claims = Claims(directory.with_name(f"{directory.name}-claims"))

    def get(self, key: Mapping[str, Any], make: Callable[[], Adaptation]) -> Adaptation:
        """Return the entry of `key` (JSON values only), making and storing it first if absent.

        The entry's `details` hold the key, for people who inspect the cache. If several processes request the same
        entry at once, one makes it and the others wait.
        """
        name = entry_name(key)
        entry = self.directory / name
        while not is_saved(entry):
            with self._claims.of(name) as claim:
                if claim and not is_saved(entry):
                    made = make()
                    details = {**made.details, "key": dict(key)}
                    save_adaptation(Adaptation(made.transformer, made.text_encoder, made.cost, details), entry)
            if not claim:
                time.sleep(WAIT)
        return load_adaptation(entry)
