"""A made-up run with hostile texts, its pages, and a browser to open them."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.ablation import AblationInput, Setting, build_ablation
from knowcusbench.analysis.agreement import build_agreement
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.statistics import build_statistics
from knowcusbench.analysis.types import MetricHeading, ReportInput, RowKind
from knowcusbench.benchmark.types import Concept, KnowledgeItem, Prompt, Task
from knowcusbench.config.schema import GridConfig
from knowcusbench.report.pages import Failure, GalleryInput, MaskLayer, PagesInput, ScoredMask, write_html
from knowcusbench.run.plan import make_plan

SCRIPT = "</script><script>window.owned = 1</script>"
IMAGE = "<img src=x onerror='window.owned = 2'>"
QUOTES = "\"'><b>bold</b> & $& {{ 7 * 7 }} `"
RIGHT_TO_LEFT = "הכלב שלי"
LONG = "Donaudampfschifffahrt" * 12
EMOJI = "🦊 of my 👩‍👩‍👧"

HOSTILE = (SCRIPT, IMAGE, QUOTES, RIGHT_TO_LEFT, LONG, EMOJI)

METHODS = {"base": Role.FLOOR, "mokus": Role.METHOD, 'a "b" <i>&, x=1e-3': Role.METHOD, "anchor": Role.CEILING}

METRICS = {
    "clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task)),
    **{f"metric_{n}": MetricHeading(title=f"Metric {n}", tasks=frozenset({Task.GENERATION})) for n in range(4)},
    "copies": MetricHeading(title="Copies", tasks=frozenset({Task.GENERATION}), higher_is_better=False),
}

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def concepts(folder: Path) -> tuple[Concept, ...]:
    """Return four concepts; every field that a benchmark fills has a hostile text."""
    made = []
    for number, name in enumerate(("dog", "Dog", IMAGE.replace("/", ""), RIGHT_TO_LEFT)):
        file = folder / f"reference {number}.png"
        Image.new("RGB", (300, 200), (80 * number, 90, 120)).save(file)
        texts = [HOSTILE[(number + shift) % len(HOSTILE)] for shift in range(2)]
        items = tuple(KnowledgeItem(f"{text} {number}", f"What is {text}?", text, text[:40]) for text in texts)
        prompts = (
            Prompt("a photo of {} $& on <b>the</b> beach", "background"),
            Prompt(f"{{}} and {SCRIPT}", "insertion"),
        )
        made.append(Concept(name, HOSTILE[number], (file,), items, prompts))
    return tuple(made)


def mask_layer(folder: Path, everything: tuple[Concept, ...], plan: pd.DataFrame) -> MaskLayer:
    """Return masks of the images of two methods, and of the references.

    Each covers the left half of its image; the third sample's is missing and the fourth's unreadable. Those of
    references cover the top.
    """
    place = folder / "kept" / "segmenter"
    place.mkdir(parents=True)
    half = np.zeros((260, 260), dtype=np.bool_)
    half[:, :130] = True
    names = [f"{sample}-noun.png" for sample in plan["id"]]
    for name in names[:2] + names[3:]:
        Image.fromarray(half).save(place / name)
    (place / names[3]).write_bytes(b"damaged")
    top = np.zeros((200, 300), dtype=np.bool_)
    top[:50] = True
    for number in range(len(everything)):
        Image.fromarray(top).save(place / f"reference-{number}.png")
    notes = {names[4]: f"whole image: {SCRIPT}"}
    scored = {
        sample: ScoredMask(name, 0.5, notes.get(name, "")) for sample, name in zip(plan["id"], names, strict=True)
    }
    return MaskLayer(
        title=f"Seg {IMAGE}",
        metric="clip_i_seg",
        directory=place,
        names=frozenset(file.name for file in place.iterdir()),
        scored={"base": scored, "mokus": scored},
        references={one.images[0]: f"reference-{number}.png" for number, one in enumerate(everything)},
        remedy=["mv here there", f"echo {SCRIPT}"],
    )


def made_up_input(folder: Path, **changes: Any) -> tuple[PagesInput, ReportInput]:
    """Return a run of four methods with images on disk, except a missing and an unreadable one."""
    everything = concepts(folder)
    plan = make_plan(everything, GridConfig(seeds=[0, 1]))
    generator = np.random.default_rng(0)
    parts = []
    for number, label in enumerate(METHODS):
        for metric, heading in METRICS.items():
            own = plan[plan["task"].isin([task.value for task in heading.tasks])]
            values = generator.normal(0.5 + 0.1 * number, 0.05, len(own)).round(5)
            parts.append(own.rename(columns={"id": "sample_id"}).assign(method=label, metric=metric, value=values))
    scores = pd.concat(parts, ignore_index=True).assign(protocol="abc", note="")
    first, second = plan["id"].iloc[:2]
    scores = scores[(scores["method"] != "mokus") | (scores["sample_id"] != first)]
    inputs = ReportInput(
        run=f"night {QUOTES}",
        methods=METHODS,
        metrics=METRICS,
        concepts=len(everything),
        scores=scores,
        expected=pd.DataFrame(
            [(label, task.value, int((plan["task"] == task.value).sum())) for label in METHODS for task in Task],
            columns=["method", "task", "planned"],
        ),
        costs=pd.DataFrame(
            [
                (label, one.name, 10.0 * place, 2**30, 2**20, 0.2)
                for place, label in enumerate(METHODS)
                for one in everything
            ],
            columns=["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes", "image_seconds"],
        ),
        ceilings=pd.DataFrame({"metric": "clip_i", "concept": [one.name for one in everything], "value": 0.97}),
    )

    def image(label: str, concept: str, sample: str) -> Path:
        return folder / "images" / str(list(METHODS).index(label)) / f"{sample}.png"

    for label in METHODS:
        for concept, sample in zip(plan["concept"], plan["id"], strict=True):
            file = image(label, concept, sample)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((260, 260)).save(file)
    image("mokus", "", first).unlink()
    image("mokus", "", second).write_bytes(b"not a picture")
    board, statistics = build_leaderboard(inputs), build_statistics(inputs)
    labels = tuple(row.label for row in board.rows if row.kind in (RowKind.METHOD, RowKind.CONTROL))
    gallery = GalleryInput(
        concepts=everything,
        plan=plan,
        methods=labels,
        competing=frozenset(label for label, role in METHODS.items() if role is Role.METHOD),
        columns=statistics.columns,
        scores=scores,
        drawn={label: frozenset(plan["id"]) - ({first} if label == "mokus" else set()) for label in METHODS},
        failed={
            "mokus": {
                first: Failure(
                    error=f"OutOfMemoryError: out of memory {SCRIPT}",
                    attempts=3,
                    prompt=f"a photo of {IMAGE}",
                    noise_seed=2**63 - 1,
                    traceback=f"Traceback: {QUOTES}",
                ),
                "f" * 16: Failure(error="RuntimeError: no", stage="effects"),
            }
        },
        image=image,
        subjects={("anchor", one.name, number): one.anchor for one in everything for number in range(2)},
        commands={"mokus": ["knowcusbench", "generate", "method=mokus", "run.name='a b'"]},
        masks=(mask_layer(folder, everything, plan),),
    )
    record = {
        "time": "2026-01-01T00:00:00+00:00",
        "verb": "bench",
        "command": ["knowcusbench", f"run.name={SCRIPT}"],
        "git": None,
        "hardware": {"gpus": [], "processor": QUOTES, "cores": 2},
        "seconds": {"report": 1.5},
    }
    names = [concept.name for concept in everything]
    confusion = pd.DataFrame(generator.integers(0, 9, (4, 4)), index=names, columns=names)
    made = PagesInput(
        board=board,
        statistics=statistics,
        agreement=build_agreement(dataclasses.replace(inputs, truth=("metric_0",))),
        effects=dataclasses.replace(board, title="Effects"),
        confusions={"mokus": {"separately": confusion, "together": confusion}},
        ablation=build_ablation(
            AblationInput(
                name="eta",
                title=f"strength {IMAGE}",
                scale="log",
                settings=[Setting(label=label, value=10.0**-number) for number, label in enumerate(list(METHODS)[1:3])],
                controls=["base", "anchor"],
                metrics=METRICS,
                scores=scores,
                effects=None,
                costs=inputs.costs,
            )
        ),
        gallery=gallery,
        identity={"metrics": {"clip_i": {"encoder": QUOTES}}, "benchmark": "digest"},
        configs={label: {"method": {"_target_": label, "text": SCRIPT}} for label in METHODS},
        records=[record],
    )
    return dataclasses.replace(made, **changes), inputs


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PagesInput, ReportInput]:
    """Return the folder of the pages, and their input."""
    folder = tmp_path_factory.mktemp("pages")
    made, inputs = made_up_input(folder)
    write_html(folder / "report", made)
    return folder / "report", made, inputs


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(
                f"no Chromium to test the pages with ({str(error).splitlines()[0]}): make test-browser installs it"
            )
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that opens a browser window; keywords as of `Browser.new_context`."""
    made: list[BrowserContext] = []

    def make(**settings: Any) -> BrowserContext:
        made.append(browser.new_context(**{"reduced_motion": "reduce", **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def opened(context: Callable[..., BrowserContext], pages: tuple[Path, Any, Any]) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page of the report by its file's name.

    Afterwards the page must be free of errors, console messages, requests beyond the folder, and scripts other than
    ours.
    """
    troubles: list[str] = []
    shown: list[Page] = []

    def open_page(name: str, **settings: Any) -> Page:
        page = context(**settings).new_page()
        page.set_default_navigation_timeout(120_000)  # A busy machine takes its time.
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        # A request still loading when the page was left is not a failure.
        page.on(
            "requestfailed",
            lambda request: request.failure == "net::ERR_ABORTED" or troubles.append(f"failed: {request.url}"),
        )
        here = pages[0].as_uri()
        page.on("request", lambda request: request.url.startswith((here, "data:")) or troubles.append(request.url))
        page.goto(f"{here}/{name}")
        shown.append(page)
        return page

    yield open_page
    for page in shown:
        if page.context.pages:
            assert page.evaluate("window.owned === undefined"), "a text of the benchmark ran as a script"
    assert not troubles
