"""The run directory: the path of every file of a run.

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
    floors/<label>/<metric>.parquet       the same images scored against other concepts' references or prompts
    ceilings/<metric>.parquet             references scored against each other
    journal/<label>/<worker>.jsonl        a line for every batch drawn: stage, concept, images, batches, seconds,
                                          peak_memory_bytes, ...
    failures/<label>/<id>.json            samples that could not be drawn, and why
    claims/<label>/<stage>/               leases of the processes at work
    unrelated/<id>.png                    unrelated prompts drawn by the unadapted backbone
    effects/<label>/<concept>[/<n>]/      text.parquet and pictures.parquet, an adaptation's side effects;
                                          <id>.png, the unrelated prompts drawn with it
    together/<label>/<concept>/<id>.png   reconstruction samples drawn with the adaptations of all concepts at once
    interference/<label>.parquet          the nearest concept of every reconstruction sample, drawn alone and together
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
"""The generate stage's name in journals."""


TEXT = "text.parquet"
"""The file of an adaptation's effects on answers."""

PICTURES = "pictures.parquet"
"""The file of an adaptation's effects on images."""

INTERFERENCE = "interference"
"""The name of the real-image ceiling of interference."""


@dataclass(frozen=True)
class RunStore:
    """The paths of one run directory.

    Attributes:
        root: the run directory, a `Path` or a remote path with its methods.
    """

    root: Path

    @classmethod
    def of(cls, config: RunConfig) -> "RunStore":
        """Return the store of the run that a configuration names; `run.root` may be an fsspec URL.

        Raises ConfigError for a name that can't be part of a path.
        """
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
        """Return an adaptation's directory. `item` is the knowledge item's index if the method adapts to each item
        separately."""
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
        """Remove the claims of dead processes."""
        for stage in names_in(self.root / "claims" / label):
            self.claims(label, stage).remove_dead()

    def unrelated(self, picture_id: str) -> Path:
        return self.root / "unrelated" / f"{picture_id}.png"

    def effects(self, label: str, concept: str, item: int | None) -> Path:
        """Return the directory of an adaptation's effects; `item` as in `adaptation`."""
        directory = self.root / "effects" / label / concept
        return directory if item is None else directory / str(item)

    def together(self, label: str, concept: str, sample_id: str) -> Path:
        return self.root / "together" / label / concept / f"{sample_id}.png"

    def interference(self, label: str) -> Path:
        return self.root / "interference" / f"{label}.parquet"

    def labels(self) -> list[str]:
        """Return the labels of this run's methods, sorted."""
        return sorted(name.removesuffix(".yaml") for name in names_in(self.root / "configs"))
