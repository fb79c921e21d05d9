"""Counter of writes of each image, independent of the writers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchdog.events import DirMovedEvent, FileMovedEvent, FileSystemEventHandler
from watchdog.observers import Observer


class Observed(FileSystemEventHandler):
    """The images that appeared in a directory, with their number of writes. A file appears by its renaming."""

    def __init__(self, directory: Path, folders: list[Path]) -> None:
        self.folders = folders
        self._observer = Observer()
        self._observer.start()
        self.begin_again(directory)

    def begin_again(self, directory: Path) -> None:
        """Forget earlier writes, create `directory` and its `folders`, and watch them.

        Folders are created first: writes into a folder before it is watched are not seen.
        """
        self._observer.unschedule_all()
        self.written: list[str] = []
        self._directory = directory
        for folder in self.folders:
            (directory / folder).mkdir(parents=True, exist_ok=True)
            self._observer.schedule(self, str(directory / folder))

    def on_moved(self, event: DirMovedEvent | FileMovedEvent) -> None:
        path = Path(str(event.dest_path))
        if path.suffix == ".png" and not path.name.startswith("."):
            self.written.append(path.relative_to(self._directory).as_posix())

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()


@contextmanager
def observed(directory: Path, like: Path, folders: tuple[str, ...]) -> Iterator[Observed]:
    """Watch a run directory that will have the same folders as the run `like`."""
    made = {path.parent.relative_to(like) for folder in folders for path in (like / folder).rglob("*.png")}
    seen = Observed(directory, sorted(made))
    try:
        yield seen
    finally:
        seen.stop()
