"""The evaluated set: concepts, knowledge and prompts, and reading them from a release."""

from knowcusbench.benchmark.arrow import export_dataset, import_dataset
from knowcusbench.benchmark.check import CheckReport, check_benchmark
from knowcusbench.benchmark.release import load_benchmark
from knowcusbench.benchmark.source import resolve_source
from knowcusbench.benchmark.types import Benchmark, Concept, KnowledgeItem, Prompt, Task

__all__ = [
    "Benchmark",
    "CheckReport",
    "Concept",
    "KnowledgeItem",
    "Prompt",
    "Task",
    "check_benchmark",
    "export_dataset",
    "import_dataset",
    "load_benchmark",
    "resolve_source",
]
