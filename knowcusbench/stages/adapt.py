"""The adapt stage: one adaptation per concept, or per knowledge item where the method asks for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.adaptation.storage import save_adaptation
from knowcusbench.backbone.base import BackboneSpec
from knowcusbench.benchmark.types import Concept
from knowcusbench.stages.prepare import Run, claim_weights, resident
from knowcusbench.store import RunStore, writing


@dataclass(frozen=True)
class AdaptJob:
    """Adapt to a concept; `item` is the index of the only knowledge item it then has, or None for all."""

    concept: Concept
    item: int | None


def adapt_jobs(concepts: tuple[Concept, ...], method: Method) -> list[AdaptJob]:
    """All jobs of a method, done or not."""
    if not method.per_knowledge:
        return [AdaptJob(concept, None) for concept in concepts]
    return [
        AdaptJob(concept.with_knowledge(item), index)
        for concept in concepts
        for index, item in enumerate(concept.knowledge)
    ]


def adapt(run: Run) -> None:
    """Make the adaptations that are missing."""
    missing = [
        job
        for job in adapt_jobs(run.concepts, run.method)
        if not run.store.adaptation(run.label, job.concept.name, job.item).exists()
    ]
    if not missing:
        return
    worker = partial(AdaptWorker, run.backbone, run.method, run.store, run.label, run.cache)
    with writing():
        progress = tqdm(run.engine.run(worker, missing), total=len(missing), desc="adapt", disable=None)
        for job in progress:
            progress.set_postfix_str(job.concept.name)


@dataclass(frozen=True)
class AdaptWorker:
    """Does adapt jobs with the backbone of its process."""

    spec: BackboneSpec
    method: Method
    store: RunStore
    label: str
    cache: AdapterCache

    def __call__(self, job: AdaptJob) -> Iterator[AdaptJob]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        adaptation = self.method.adapt(job.concept, backbone, self.cache)
        backbone.check_intact()
        save_adaptation(adaptation, self.store.adaptation(self.label, job.concept.name, job.item))
        yield job
