"""Findings of reading a benchmark: faults, which make it unusable, and notes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Findings:
    """Collects one line per finding, so that one pass reports everything.

    Attributes:
        faults: what must be corrected before the benchmark can be used.
        notes: assumptions, derived values, conversions and ignored files.
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, where: str, what: str) -> None:
        """Record a fault; `where` is a path relative to the benchmark, and a position in it."""
        self.faults.append(f"{where}: {what}")

    def note(self, where: str, what: str) -> None:
        """Record a note."""
        self.notes.append(f"{where}: {what}")
