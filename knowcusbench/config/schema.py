"""The typed configuration: the schema of every section.

Sections with a fixed shape are Hydra structured configs below. Sections that a plug-in fills (backbone, method, editor,
encoders, metrics, engine) name a class by `_target_`; `build` checks their keys and value types against that class's
dataclass fields.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from knowcusbench.backbone.base import QuestionForm
from knowcusbench.benchmark.types import Task
from knowcusbench.machine.device import Precision
from knowcusbench.metrics.protocol import Reduction, ReferencePairing, ReferenceSplit, TextForm


class Pairing(Enum):
    """Pairings of concepts with prompts.

    `paired`: each concept with its own prompts (the paper's grid). `crossed`: every concept with every prompt of the
    benchmark.
    """

    paired = "paired"
    crossed = "crossed"


@dataclass
class RunConfig:
    """The run directory that results are written to.

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
    """The grid of samples to make.

    Attributes:
        pairing: which prompts each concept is drawn with.
        tasks: any of "reconstruction" and "generation".
        seeds: one image per sample and seed.
        concepts: names or globs of the concepts to include.
        knowledge_items: number of knowledge items to use of each concept, from the first; null uses all.
        prompts: number of prompts to use of each concept (paired) or of the benchmark (crossed), from the first; null
            uses all.
        held_out: number of each concept's reference images, from the last, that are not given to methods; metrics may
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
    """How scores are computed, where published work does it in more than one way.

    Attributes:
        name: the protocol's name.
        source: the publication or code that computes scores in this way.
        clip: the name in `encoders` of the encoder for CLIP scores.
        dino: the name in `encoders` of the encoder for DINO-I.
        pairing: how an image is compared with several references.
        references: which references count; "held_out" means those of `grid.held_out`.
        text_form: the words for the concept in the text that an image is compared with.
        scale: the factor on CLIP-T's cosine.
        image_scale: the factor on cosines with reference images.
        clamp: whether negative cosines with texts count as zero.
        precision: how precisely encoders compute.
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
        question: the question for the text encoder.
        answer: the right answer.
    """

    question: str = MISSING
    answer: str = MISSING


@dataclass
class LocalityConfig:
    """Questions and prompts unrelated to any concept, which an adaptation should leave unchanged.

    Attributes:
        questions: questions that the backbone's text encoder can answer.
        prompts: prompts for images.
    """

    questions: list[QuestionConfig] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


@dataclass
class EffectsConfig:
    """Side-effect measurements: how adaptations change unrelated answers, images and other concepts.

    Attributes:
        enabled: whether `bench` includes them; the verb `effects` always does.
        seeds: one image per unrelated prompt and seed.
        question_form: the form of the questions.
        interference: whether to draw the reconstruction samples with the adaptations of all concepts at once.
        encoder: the CLIP encoder that compares images.
    """

    enabled: bool = True
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    question_form: QuestionForm = QuestionForm.chat
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
    """The report's optional contents, and the selection for a paper (`report/paper/`).

    Attributes:
        truth: metrics that count as the truth. The report shows how well each other metric's ranking of methods and
            samples agrees with theirs. Metrics that the run does not have are skipped.
        columns: columns of the paper's table, in order: keys ("generation_clip_i"), metrics ("clip_i") or globs; null
            shows all.
        rows: rows of the paper's table and figures, in order: labels or globs; null shows all.
        concepts: concepts of the paper's image grids, in order: names or globs; null shows the first eight.
        precision: number of decimals of the paper's scores; null leaves it to the metric.
        percent: whether the paper's table shows scores between -1 and 1 times 100.
        cost: the cost that quality is compared with.
    """

    truth: list[str] = field(default_factory=list)
    columns: list[str] | None = None
    rows: list[str] | None = None
    concepts: list[str] | None = None
    precision: int | None = None
    percent: bool = False
    cost: CostKey = CostKey.train_seconds


class Scale(Enum):
    """How the values of a setting lie on an axis: on a logarithmic scale, or evenly spaced in their order."""

    log = "log"
    category = "category"


@dataclass
class AblationConfig:
    """One setting of a sweep that compares values of a setting: `configs/ablation/<name>.yaml` also has the sweep.

    Attributes:
        name: the ablation's name.
        title: the varied setting, in words.
        scale: the axis of the values.
        values: all values in order, or a mapping from names to values.
        value: the value that this method of the run has.
        taught: number of knowledge items that the method was taught; only samples of these items count. null counts
            all.
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
        run: where results are written.
        benchmark: the benchmark to evaluate on.
        grid: which samples are made.
        recipe: hyper-parameters for a backbone, which methods and editors refer to.
        encoders: the checkpoints that metrics refer to by name.
        backbone: the model that is customised.
        editor: the knowledge edit that `mokus` and the transfer probe make.
        method: the method that turns a concept and its knowledge into an adaptation.
        protocol: how scores are computed.
        metrics: the metrics to compute, by name.
        engine: the engine that runs the work.
        locality: questions and prompts unrelated to any concept.
        effects: side-effect measurements: how adaptations change everything else.
        report: the contents of the report.
        ablation: the comparison that the run makes, if it is an ablation.
        tracker: the experiment tracker that logs the run, if any.
        device: the device of the backbone and the metric encoders; "auto" takes a GPU if there is one.
        cpu_threads: torch's number of CPU threads; null leaves it to torch. The miniature draws hardly faster with two
            than with one (49 against 57 s for the embedded benchmark on two cores), and ten times slower when another
            program keeps a core busy, since the threads wait for each other.
        cache_dir: the directory of trained stage-1 adapters and the embedded world's files, shared by all runs.
        assumed_tflops: the rate by which `plan` turns operations into hours; an H200 multiplies bf16 matrices at about
            790 TFLOP/s.
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
