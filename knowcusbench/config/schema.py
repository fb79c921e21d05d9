"""The typed configuration: schemas, registration with Hydra, and building objects from it.

Sections with a fixed shape are Hydra structured configs below. Sections that a plug-in fills (backbone,
method, editor, encoders, metrics, engine) name a class by `_target_`; `build` checks their keys and value types
against that class's dataclass fields.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.protocol import Reduction, ReferencePairing, ReferenceSplit, TextForm


class Pairing(Enum):
    """`paired`: each concept with its own prompts (the paper's grid). `crossed`: every prompt of the
    benchmark for every concept."""

    paired = "paired"
    crossed = "crossed"


class Precision(Enum):
    """Of an encoder's weights; embeddings are normalised and compared in fp32 and fp64."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AskedAs(Enum):
    """How a question is put to the text encoder: inside the backbone's prompt template, or as bare text."""

    chat = "chat"
    plain = "plain"


@dataclass
class RunConfig:
    """Where results go.

    Attributes:
        name: the run directory's name under `root`.
        root: the directory of all runs.
        label: the method's name in the run; null derives it from the method and its overrides.
    """

    name: str = "default"
    root: str = "results/runs"
    label: str | None = None


@dataclass
class BenchmarkConfig:
    """What is evaluated: a local directory (`path`), or a data set repository (`repo` at `revision`).

    Attributes:
        path: a directory in the release layout.
        repo: a Hugging Face data set id.
        revision: a commit or tag of `repo`.
        seeds: the seeds that the benchmark prescribes.
    """

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])


@dataclass
class GridConfig:
    """Which samples are made.

    Attributes:
        pairing: which prompts go with which concept.
        tasks: any of "reconstruction" and "generation".
        seeds: one image per sample and seed.
        concepts: names or globs of the concepts that take part.
        knowledge_items: use the first so many items of each concept; null uses all.
        prompts: use the first so many prompts of each concept (paired) or of the benchmark (crossed).
        held_out: so many of each concept's reference images, the last ones, are not shown to methods; metrics may
            compare with them (`protocol.references`).
    """

    pairing: Pairing = Pairing.paired
    tasks: list[str] = field(default_factory=lambda: [task.value for task in Task])
    seeds: list[int] = field(default_factory=lambda: "${benchmark.seeds}")  # type: ignore[arg-type, return-value]
    concepts: list[str] = field(default_factory=lambda: ["*"])
    knowledge_items: int | None = None
    prompts: int | None = None
    held_out: int = 0


@dataclass
class ProtocolConfig:
    """How scores are computed, where the field does it in more than one way.

    Attributes:
        name: of the protocol.
        source: who computes scores so.
        clip: which of `encoders` CLIP scores use.
        dino: which of `encoders` DINO-I uses.
        pairing: how an image is compared with several references.
        references: which references count; "held_out" are those of `grid.held_out`.
        text_form: what stands for the concept in the text that an image is compared with.
        scale: the factor on CLIP-T's cosine.
        image_scale: the factor on cosines with reference images.
        clamp: whether negative cosines with texts count as zero.
        precision: of encoders' weights.
        reduction: how scores become one number.
    """

    name: str = MISSING
    source: str = MISSING
    clip: str = "clip"
    dino: str = "dino"
    pairing: ReferencePairing = ReferencePairing.all
    references: ReferenceSplit = ReferenceSplit.train
    text_form: TextForm = TextForm.class_noun
    scale: float = 1.0
    image_scale: float = 1.0
    clamp: bool = False
    precision: Precision = Precision.float32
    reduction: Reduction = Reduction.macro


@dataclass
class QuestionConfig:
    """A question and its answer.

    Attributes:
        question: as it is put to the text encoder.
        answer: the right one.
    """

    question: str = MISSING
    answer: str = MISSING


@dataclass
class LocalityConfig:
    """What has nothing to do with any concept: an adaptation should leave it as it is.

    Attributes:
        questions: that the backbone's text encoder knows the answer to.
        prompts: for pictures.
    """

    questions: list[QuestionConfig] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


@dataclass
class EffectsConfig:
    """How it is measured what adaptations do to everything else.

    Attributes:
        enabled: whether `bench` measures it; the verb `effects` does in any case.
        seeds: one picture per unrelated prompt and seed.
        question_form: how questions are put to the text encoder.
        interference: whether to draw the reconstruction samples with the adaptations of all concepts at once.
        encoder: the CLIP that compares pictures.
    """

    enabled: bool = True
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    question_form: AskedAs = AskedAs.chat
    interference: bool = True
    encoder: Any = "${encoders.clip}"


class CostKey(Enum):
    """A cost of the leaderboard."""

    train_seconds = "train_seconds"
    peak_memory_mib = "peak_memory_mib"
    adapter_mib = "adapter_mib"
    draw_seconds = "draw_seconds"


@dataclass
class ReportConfig:
    """What the report shows besides the leaderboard, and what of it goes into a paper (`report/paper/`).

    Attributes:
        truth: metrics that count as the truth. The report tells how well each other metric ranks methods and samples
            as they do. Those that are not among the run's metrics are passed over.
        columns: of the paper's table, in their order: keys ("generation_clip_i"), metrics ("clip_i") or globs; null
            shows all.
        rows: of the paper's table and figures, in their order: labels or globs; null shows all.
        concepts: of the paper's pictures, in their order: names or globs; null shows the first eight.
        precision: digits after the point of the paper's scores; null leaves them to the metric.
        percent: whether the paper's table shows scores between -1 and 1 times 100.
        cost: what quality is compared with.
    """

    truth: list[str] = field(default_factory=list)
    columns: list[str] | None = None
    rows: list[str] | None = None
    concepts: list[str] | None = None
    precision: int | None = None
    percent: bool = False
    cost: CostKey = CostKey.train_seconds


class Scale(Enum):
    """How the values of a setting lie on an axis: as logarithms, or side by side in their order."""

    log = "log"
    category = "category"


@dataclass
class AblationConfig:
    """One setting of a sweep that compares values of a setting: `configs/ablation/<name>.yaml` also has the sweep.

    Attributes:
        name: of the ablation.
        title: what is varied, in words.
        scale: how the values lie on an axis.
        values: all of them in their order, or a mapping by their names.
        value: the one that this method of the run has.
        taught: only samples of the first so many knowledge items count, since the method was taught no more; null
            counts all.
    """

    name: str = MISSING
    title: str = MISSING
    scale: Scale = Scale.category
    values: Any = MISSING
    value: Any = MISSING
    taught: int | None = None


@dataclass
class Config:
    """The whole configuration of a command.

    Attributes:
        run: where results go.
        benchmark: what is evaluated.
        grid: which samples are made.
        recipe: hyper-parameters for a backbone, which methods and editors refer to.
        encoders: the checkpoints that metrics refer to by name.
        backbone: the model that is customised.
        editor: the knowledge edit that `mokus` and the transfer probe make.
        method: what turns a concept and its knowledge into an adaptation.
        protocol: how scores are computed.
        metrics: which scores are computed, by name.
        engine: what runs the work.
        locality: questions and prompts that have nothing to do with any concept.
        effects: how it is measured what adaptations do to everything else.
        report: what the report shows.
        ablation: what the run compares, if it is an ablation.
        tracker: which experiment tracker hears of it, if any.
        device: where the backbone and the metric encoders compute; "auto" takes a GPU if there is one.
        cpu_threads: of torch; null leaves it to torch. The miniature draws hardly faster with two than with one (49
            against 57 s for the embedded benchmark on two cores), and ten times slower when another program keeps a
            core busy, since the threads wait for each other.
        cache_dir: trained stage-1 adapters and the embedded world's files, shared by all runs.
        assumed_tflops: the rate that `plan` turns operations into hours with; an H200 multiplies bf16 matrices at
            about 790 TFLOP/s.
    """

    run: RunConfig = field(default_factory=RunConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    recipe: Any = MISSING
    encoders: Any = MISSING
    backbone: Any = MISSING
    editor: Any = MISSING
    method: Any = MISSING
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    metrics: dict[str, Any] = field(default_factory=dict)
    engine: Any = MISSING
    locality: LocalityConfig = field(default_factory=LocalityConfig)
    effects: EffectsConfig = field(default_factory=EffectsConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    ablation: AblationConfig | None = None
    tracker: Any = None
    device: str = "auto"
    cpu_threads: int | None = 1
    cache_dir: str = "~/.cache/knowcusbench"
    assumed_tflops: float = 790.0


SECTIONS = {
    "run": RunConfig,
    "benchmark": BenchmarkConfig,
    "grid": GridConfig,
    "protocol": ProtocolConfig,
    "locality": LocalityConfig,
    "effects": EffectsConfig,
    "report": ReportConfig,
    "ablation": AblationConfig,
}
"""The sections with a fixed shape."""
