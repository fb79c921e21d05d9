"""The pages in a real browser: they work from disk, for everyone, and with any text of a benchmark."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from knowcusbench.report.pages.environment import file_name

from .conftest import HOSTILE, IMAGE, METHODS, METRICS, QUOTES, SCRIPT

Opened = Callable[..., Page]

CONCEPT = f"gallery/{file_name('dog')}.html"
PAGES = ("index.html", "provenance.html", "gallery/index.html", CONCEPT, f"gallery/{file_name('Dog')}.html")

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => (one.open = true))"


def column(page: Page, part: int, place: int) -> list[str]:
    """Return the values of a column of the leaderboard, in one part of it."""
    rows = page.locator(f"#leaderboard tbody:nth-of-type({part}) tr:not(.part)")
    return [row.locator("td").nth(place).get_attribute("data-value") or "" for row in rows.all()]


def test_the_leaderboard_sorts_each_part_by_itself(opened: Opened) -> None:
    page = opened("index.html")
    before, others = column(page, 1, 0), column(page, 2, 0)
    head = page.locator("#leaderboard th.sortable").first
    head.get_by_role("button").click()
    assert column(page, 1, 0) == sorted(before, key=float, reverse=True) != before
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    assert column(page, 1, 0) == sorted(before, key=float)
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 2, 0) == others


def test_where_less_is_better_the_first_click_puts_the_least_on_top(opened: Opened) -> None:
    page = opened("index.html")
    place = [head.inner_text() for head in page.locator("#leaderboard th.sortable").all()].index("Copies ↓")
    page.locator("#leaderboard th.sortable").nth(place).get_by_role("button").click()
    assert column(page, 1, place) == sorted(column(page, 1, place), key=float)
    assert page.locator("#leaderboard [aria-sort]").count() == 1


def test_methods_can_be_hidden(opened: Opened) -> None:
    page = opened(CONCEPT)
    figures = page.locator(".sample figure:visible")
    count = page.locator(".sample").count()
    assert figures.count() == count * len(METHODS)
    page.get_by_role("checkbox", name="base").uncheck()
    assert figures.count() == count * (len(METHODS) - 1)
    page.get_by_role("button", name="Show all").click()
    expect(figures).to_have_count(count * len(METHODS))


def test_samples_are_filtered_by_what_they_are(opened: Opened, pages) -> None:
    plan = pages[1].gallery.plan
    own = plan[plan["concept"] == "dog"]
    page = opened(CONCEPT)
    visible = page.locator(".sample:visible")
    page.get_by_label("Prompt").select_option("insertion")
    page.get_by_label("Seed").select_option("1")
    wanted = own[(own["prompt_aspect"] == "insertion") & (own["seed"] == 1)]
    assert {one.get_attribute("id") for one in visible.all()} == {f"s{sample}" for sample in wanted["id"]}
    page.get_by_label("Knowledge").select_option("1")
    assert visible.count() == (wanted["knowledge"] == 1).sum()
    expect(page.get_by_role("status").first).to_have_text(f"{visible.count()} of {len(own)} samples")


def test_samples_are_filtered_and_ordered_by_score(opened: Opened, pages) -> None:
    scores = pages[2].scores
    own = scores[(scores["concept"] == "dog") & (scores["metric"] == "copies") & (scores["method"] == "mokus")]
    low, high = own["value"].quantile([0.25, 0.75]).round(3)
    page = opened(CONCEPT)
    for label in METHODS:
        page.get_by_role("checkbox", name=label, exact=True).set_checked(label == "mokus")
    page.get_by_label("Score").select_option(label="Gen. Copies")
    page.get_by_label("from", exact=True).fill(str(low))
    page.get_by_label("to", exact=True).fill(str(high))
    page.get_by_label("Order").select_option("best")
    found = [one.get_attribute("id") for one in page.locator(".sample:visible").all()]
    inside = own[own["value"].between(low, high)].sort_values("value")
    assert found == [f"s{sample}" for sample in inside["sample_id"]]
    page.get_by_label("Order").select_option("worst")
    assert [one.get_attribute("id") for one in page.locator(".sample:visible").all()] == found[::-1]
    page.get_by_role("button", name="Show all").click()
    expect(page.locator(".item > .sample")).to_have_count(page.locator(".sample").count())


def test_a_picture_opens_large_with_all_that_is_known_of_it(opened: Opened, pages) -> None:
    made = pages[1]
    dog = made.gallery.concepts[0]
    page = opened(CONCEPT)
    sample = page.locator(".sample[data-prompt=background]").first
    sample.get_by_role("link", name="mokus").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.wait_for_function("document.getElementById('viewer-image').naturalWidth === 260")
    prompt = dog.prompts[0].fill(dog.knowledge[0].phrase)
    assert dialog.locator("#viewer-prompt").inner_text().split() == prompt.split()
    identifier = str(sample.get_attribute("id"))[1:]
    assert dialog.locator("dd").all_inner_texts()[-2:] == [str(int(identifier, 16) >> 1), identifier]
    scores = pages[2].scores
    own = scores[(scores["sample_id"] == identifier) & (scores["method"] == "mokus")].set_index("metric")["value"]
    shown = [float(text) for text in dialog.locator("tbody td").all_inner_texts()]
    assert shown == pytest.approx([own[metric] for metric in METRICS], abs=6e-4)
    command = shlex.split(dialog.locator("#viewer-command").inner_text())
    file = str(made.gallery.image("mokus", "dog", identifier))
    assert command == ["rm", file, "&&", *made.gallery.commands["mokus"]]


def test_the_viewer_is_worked_with_keys(opened: Opened) -> None:
    page = opened(CONCEPT)
    link = page.locator(".sample").nth(3).get_by_role("link").first
    link.focus()
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    expect(title).to_have_text("base · dog")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text("mokus · dog")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.wait_for_function("document.activeElement.querySelector('img')?.alt === 'mokus'")


def test_a_control_shows_the_prompt_that_it_was_given(opened: Opened, pages) -> None:
    page = opened(CONCEPT)
    page.locator(".sample[data-prompt=background]").first.get_by_role("link", name="anchor").click()
    dog = pages[1].gallery.concepts[0]
    assert page.locator("#viewer-prompt").inner_text().split() == dog.prompts[0].fill(dog.anchor).split()


def test_what_could_not_be_drawn_or_read_is_told(opened: Opened, pages) -> None:
    page = opened("index.html")
    expect(page.get_by_text("Not complete.")).to_be_visible()
    row = page.locator("#coverage tr.gap")
    assert "mokus reconstruction 16 15 15 1 failed" in " ".join(row.inner_text().split())
    assert "not an image" in page.locator("#coverage li").inner_text()
    page = opened(CONCEPT)
    failed, unreadable = page.locator(".absent").all()
    assert failed.inner_text().split() == f"failed OutOfMemoryError: out of memory {SCRIPT}".split()
    assert unreadable.inner_text() == "unreadable"
    failed.click()
    expect(page.locator("#failures")).to_be_in_viewport()


def test_every_failure_is_told_with_its_error_prompt_and_place(opened: Opened, pages) -> None:
    page = opened("index.html")
    page.locator(".notice").get_by_role("link", name="why").click()
    first, second = page.locator("#failures details").all()
    expect(first).to_be_in_viewport()
    for text in (SCRIPT, IMAGE, QUOTES, str(2**63 - 1), "1 of mokus"):
        assert text in first.inner_text()
    assert second.inner_text().startswith("1 of mokus (effects): RuntimeError: no")
    assert second.get_by_role("link").count() == 0
    sample = pages[1].gallery.plan["id"].iloc[0]
    first.get_by_role("link", name=sample).click()
    expect(page.locator(f"#s{sample}")).to_be_in_viewport()


def opened_picture(page: Page, sample: str, label: str) -> None:
    page.locator(f"#s{sample}").get_by_role("link", name=label, exact=True).click()


def test_a_mask_is_laid_over_its_picture_and_stays_with_the_next(opened: Opened, pages) -> None:
    plan = pages[1].gallery.plan
    page = opened(CONCEPT)
    opened_picture(page, plan["id"].iloc[5], "mokus")
    mask, toggle = page.locator("#viewer-mask"), page.locator("#viewer-toggle")
    expect(page.locator("#viewer-masks")).to_have_text(f"Seg {IMAGE}: the mask covers 50.0% of the picture")
    expect(mask).to_be_hidden()
    page.keyboard.press("m")
    expect(mask).to_be_visible()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("document.getElementById('viewer-mask').naturalWidth > 0")
    assert mask.bounding_box() == page.locator("#viewer-image").bounding_box()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("<i>")
    expect(mask).to_be_hidden()
    expect(toggle).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    expect(mask).to_be_visible()
    toggle.click()
    expect(mask).to_be_hidden()


def test_a_mask_that_was_not_kept_is_told_with_the_way_to_it(opened: Opened, pages) -> None:
    plan = pages[1].gallery.plan
    page = opened(CONCEPT)
    opened_picture(page, plan["id"].iloc[2], "mokus")
    expect(page.locator("#viewer-toggle")).to_be_disabled()
    expect(page.locator("#viewer-masks")).to_contain_text("covers 50.0% of the picture; it was not kept")
    page.get_by_role("link", name="how to get it").click()
    count = 2 * (len(plan) - 2)
    expect(page.get_by_text(f"{count} of {2 * len(plan)} scored pictures")).to_be_visible()
    assert page.locator("pre").inner_text() == f"mv here there\necho {SCRIPT}"


def test_a_reference_opens_large_and_shows_its_mask(opened: Opened) -> None:
    page = opened(CONCEPT)
    page.locator(".references a").first.click()
    expect(page.locator("#viewer-title")).to_have_text("dog · reference")
    expect(page.locator("#viewer-table")).to_be_hidden()
    expect(page.locator("#viewer-masks")).to_contain_text("covers 25.0% of the picture")
    page.locator("#viewer-toggle").click()
    expect(page.locator("#viewer-mask")).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_shown_as_text(opened: Opened, pages, name: str) -> None:
    page = opened(name)
    page.evaluate(OPEN_ALL)
    shown = page.locator("body").inner_text()
    wanted = {"index.html": HOSTILE[:3], "provenance.html": HOSTILE[:1]}.get(name, ())
    concept = next((one for one in pages[1].gallery.concepts if name == f"gallery/{file_name(one.name)}.html"), None)
    if concept:
        wanted = [item.phrase for item in concept.knowledge] + [item.question for item in concept.knowledge]
    for text in wanted:
        assert text in shown or " ".join(text.split()) in " ".join(shown.split())
    assert page.locator("b:text-is('bold')").count() == 0
    assert "owned" not in page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(opened: Opened, name: str, scheme: str) -> None:
    page = opened(name, color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    # Preloading fetches style sheets again, which a browser forbids for pages from disk.
    found = Axe().run(page, options={"preload": False})
    assert found.violations_count == 0, found.generate_report()
    if name == CONCEPT:
        page.locator(".sample figure a").first.click()
        found = Axe().run(page, "dialog", options={"preload": False})
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_the_screen(opened: Opened, name: str, width: int) -> None:
    page = opened(name, viewport={"width": width, "height": 800})
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if name == CONCEPT:
        page.locator(".sample figure a").first.click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert page.evaluate(
            "document.getElementById('viewer').scrollWidth <= document.getElementById('viewer').clientWidth"
        )


@pytest.mark.parametrize("name", PAGES)
def test_tables_and_pictures_need_no_script(context, pages, name: str) -> None:
    page = context(java_script_enabled=False).new_page()
    page.goto(f"{pages[0].as_uri()}/{name}")
    if name == "index.html":
        assert page.locator("#leaderboard tbody tr.method").count() == 2
    elif name.startswith("gallery/") and name != "gallery/index.html":
        link = page.locator(".sample figure a").first
        assert (Path(pages[0]) / "gallery" / str(link.get_attribute("href"))).exists()
        link.click()
        assert page.url.endswith(".webp")
