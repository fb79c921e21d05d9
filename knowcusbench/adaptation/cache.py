"""A content-addressed store of adapters that several methods share, and of the class images they are trained with."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from knowcusbench.adaptation.class_images import ClassImages
from knowcusbench.adapters.peft_files import entry_name, is_saved, load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation
from knowcusbench.storage.claims import Claims

WAIT = 0.5
"""Seconds between two looks at an entry that another process makes."""


class AdapterCache:
    """Keeps expensive adaptations under a key made of everything that determines them.

    A later caller with the same key gets the same bytes, and the cost that the first one paid.

    Attributes:
        directory: of the adaptations.
        class_images: those that trainings with prior preservation share, in a directory beside it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.class_images = ClassImages(directory.with_name(f"{directory.name}-class-images"))
        self._claims = Claims(directory.with_name(f"{directory.name}-claims"))

    def get(self, key: Mapping[str, Any], make: Callable[[], Adaptation]) -> Adaptation:
        """What is stored under `key` (JSON values only), made and stored first if absent.

        The entry's `details` hold the key, for people who look into the cache. Of several processes that want the same
        entry at once, one makes it, and the others wait for it.
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
