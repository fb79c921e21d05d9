"""The run directory: where every file of a run lies, and how it is read and written.

    run.json                              what the run is: the configuration that all its methods share
    weights.json                          digest of the backbone's base weights; version of torch when it was written
    encoders.json                         the commits that the branches of metrics' encoders stand for
    plan.parquet                          one row per sample
    configs/<label>.yaml                  the resolved configuration of each method
    released/<label>.json                 the digests of the released checkpoints that a method took
    provenance/<time>-<label>.json        one per command: versions, commit, hardware, command line, timings
    adaptations/<label>/<concept>[/<n>]/  adapters in PEFT form, adaptation.json
    images/<label>/<concept>/<id>.png     the sample's record in its text chunks
    prompts/<encoder>/<shard>.safetensors embeddings of prompts, by the state of the text encoder; can be removed
    scores/<label>/<metric>.parquet       one row per sample
    floors/<label>/<metric>.parquet       the same images beside references or prompts that are not theirs
    ceilings/<metric>.parquet             references scored against each other
    journal/<label>/<worker>.jsonl        a line for every batch drawn: stage, concept, images, batches, seconds,
                                          peak_memory_bytes, ...
    failures/<label>/<id>.json            samples that could not be drawn, and why
    claims/<label>/<stage>/               who is at work on what at the moment
    unrelated/<id>.png                    unrelated prompts drawn by the backbone as it is
    effects/<label>/<concept>[/<n>]/      text.parquet and pictures.parquet, what an adaptation does to everything else;
                                          <id>.png, the unrelated prompts drawn with it
    together/<label>/<concept>/<id>.png   reconstruction samples drawn with the adaptations of all concepts at once
    interference/<label>.parquet          the nearest concept of every reconstruction sample, drawn either way
    report/                               tables
    probe/                                the transfer probe

A label names a method within the run. Files appear whole or not at all, so a file that exists is done.
"""

from dataclasses import dataclass
from pathlib import Path

from knowcusbench.config.schema import RunConfig
from knowcusbench.storage.claims import Claims
from knowcusbench.storage.files import location, names_in
from knowcusbench.storage.names import check_name

GENERATE = "generate"


TEXT = "text.parquet"

PICTURES = "pictures.parquet"

INTERFERENCE = "interference"
"""The name of the real-image ceiling of interference."""


@dataclass(frozen=True)
class RunStore:
    """Paths of one run directory.

    Attributes:
        root: a `Path`, or a remote place with the methods of one.
    """

    root: Path

    @classmethod
    def of(cls, config: RunConfig) -> "RunStore":
        """The run that a configuration names; `run.root` may be an fsspec URL. Raises ConfigError for a
        name that can't be part of a path."""
        check_name(config.name, "run.name")
        return cls(location(config.root) / config.name)

    @property
    def identity(self) -> Path:
        return self.root / "run.json"

    @property
    def weights(self) -> Path:
        return self.root / "weights.json"

    @property
    def encoders(self) -> Path:
        return self.root / "encoders.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"

    @property
    def probe(self) -> Path:
        return self.root / "probe"

    def config(self, label: str) -> Path:
        return self.root / "configs" / f"{label}.yaml"

    def released(self, label: str) -> Path:
        return self.root / "released" / f"{label}.json"

    def provenance(self, stamp: str, label: str) -> Path:
        return self.root / "provenance" / f"{stamp}-{label}.json"

    def adaptation(self, label: str, concept: str, item: int | None) -> Path:
        """`item` is the knowledge item's index where a method adapts for each item by itself."""
        directory = self.root / "adaptations" / label / concept
        return directory if item is None else directory / str(item)

    def image(self, label: str, concept: str, sample_id: str) -> Path:
        return self.root / "images" / label / concept / f"{sample_id}.png"

    def scores(self, label: str, metric: str) -> Path:
        return self.root / "scores" / label / f"{metric}.parquet"

    def floors(self, label: str, metric: str) -> Path:
        return self.root / "floors" / label / f"{metric}.parquet"

    def ceilings(self, metric: str) -> Path:
        return self.root / "ceilings" / f"{metric}.parquet"

    def journal(self, label: str, worker: str) -> Path:
        return self.root / "journal" / label / f"{worker}.jsonl"

    def failure(self, label: str, sample_id: str) -> Path:
        return self.root / "failures" / label / f"{sample_id}.json"

    def claims(self, label: str, stage: str) -> Claims:
        return Claims(self.root / "claims" / label / stage)

    def remove_dead_claims(self, label: str) -> None:
        """Remove what processes that are no more were at work on."""
        for stage in names_in(self.root / "claims" / label):
            self.claims(label, stage).remove_dead()

    def unrelated(self, picture_id: str) -> Path:
        return self.root / "unrelated" / f"{picture_id}.png"

    def effects(self, label: str, concept: str, item: int | None) -> Path:
        """The directory of an adaptation's effects; `item` as in `adaptation`."""
        directory = self.root / "effects" / label / concept
        return directory if item is None else directory / str(item)

    def together(self, label: str, concept: str, sample_id: str) -> Path:
        return self.root / "together" / label / concept / f"{sample_id}.png"

    def interference(self, label: str) -> Path:
        return self.root / "interference" / f"{label}.parquet"

    def labels(self) -> list[str]:
        """The methods of this run, by name."""
        return sorted(name.removesuffix(".yaml") for name in names_in(self.root / "configs"))
