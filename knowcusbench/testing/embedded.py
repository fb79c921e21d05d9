"""Building a method as the command does, with a backbone and concept to try it on."""

from knowcusbench.adaptation.method import Method
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept


def embedded_case(name: str, *overrides: str) -> tuple[Method, Backbone, Concept]:
    """Return the method `method=<name>` with overrides, the embedded backbone, and the embedded benchmark's first
    concept.

    Raises ConfigError for a configuration that the command would refuse.
    """
    # Composing a configuration imports all stages.
    from knowcusbench.benchmark.release import load_benchmark
    from knowcusbench.benchmark.source import resolve_source
    from knowcusbench.config.build import build
    from knowcusbench.config.compose import compose_config, read_config

    config, _ = read_config(compose_config([f"method={name}", *overrides]))
    given = config.benchmark
    concepts = load_benchmark(resolve_source(given.path, given.repo, given.revision)).concepts
    method: Method = build(config.method, "method")
    return method.for_benchmark(concepts), build(config.backbone, "backbone").load(), concepts[0]
