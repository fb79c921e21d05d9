"""The oracle: its questions and its answers."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from knowcusbench.errors import ImageError, WeightsError
from knowcusbench.toybox.models.oracle import ATTRIBUTES, OracleSpec, Sight, hidden, truth
from knowcusbench.toybox.models.oracle_net import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Oracle,
    OracleNet,
    answers,
    box,
    build_oracle,
    crop,
    moved,
    pixels,
    save_oracle,
)
from knowcusbench.toybox.shipped import WEIGHTS
from knowcusbench.toybox.world.benchmark import references
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS, NovelConcept
from knowcusbench.toybox.world.draws import choose
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, STYLES
from knowcusbench.toybox.world.world import compose, draw_scene, draw_second
from knowcusbench.toymaker.oracle import evaluate_oracle

pytestmark = pytest.mark.model

TOY = Thing(kind="toy", colour="blue", pattern="checked", trim="yellow", accent="red")
STAR = Thing(kind="star", colour="green")


def spec(directory: Path, **changes: int) -> OracleSpec:
    return OracleSpec(source=str(directory), device="cpu", **changes)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("oracle") / "oracle"
    build_oracle(directory)
    return directory


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = random.Random(0)
    return [render(draw_scene(rng)) for _ in range(5)]


def test_the_truth_of_a_scene_is_read_off_it() -> None:
    main = Placed(thing=TOY, left=20, top=40, size=18)
    second = Placed(thing=STAR, left=2, top=44, size=14)
    assert truth(Scene(main=main, background="snow", style="sketch", second=second)) == {
        "kind": "toy",
        "colour": "blue",
        "pattern": "checked",
        "trim": "yellow",
        "accent": "red",
        "background": "snow",
        "style": "sketch",
        "size": "tiny",
        "second_kind": "star",
        "second_colour": "green",
    }
    plain = truth(Scene(main=Placed(thing=STAR, left=2, top=10, size=44), background="night"))
    assert [plain[name] for name in ("trim", "accent", "second_kind", "second_colour", "size", "style")] == [
        *["none"] * 4,
        *("huge", "photo"),
    ]


def test_every_scene_can_be_said_in_the_oracles_words() -> None:
    rng = random.Random(1)
    for _ in range(300):
        for name, word in truth(draw_scene(rng)).items():
            assert word in ATTRIBUTES[name]


def test_pictures_become_64_pixels_wide_with_values_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (256, 256), (0, 255, 51))
    tensor = pixels([image, image.resize((64, 64))])
    assert tensor.shape == (2, 3, 64, 64)
    assert tensor[:, :, 0, 0].tolist() == [[-1, 1, pytest.approx(-0.6)]] * 2


@pytest.mark.parametrize("second", [None, STAR])
def test_each_question_is_answered_with_the_word_of_its_largest_logit(second: Thing | None, tmp_path: Path) -> None:
    thing = second or TOY
    beside = second and Placed(thing=second, left=50, top=36, size=14)
    scene = Scene(
        main=Placed(thing=thing, left=2, top=20, size=30), background="room", style="pixel art", second=beside
    )
    wanted = truth(scene)
    model = OracleNet()
    with torch.no_grad():
        for name, answer in model.thing_answers.items():
            answer.bias.zero_()[ATTRIBUTES[name].index(wanted[name])] = 1e3
        for name in ("background", "style", "size"):
            model.scene_answers[name].bias.zero_()[ATTRIBUTES[name].index(wanted[name])] = 1e3
        model.scene_answers["second"].bias.zero_()[1 if second else 0] = 1e3
    save_oracle(model, tmp_path / "fixed")
    blank = Image.new("RGB", (64, 64))
    assert spec(tmp_path / "fixed").load().look([blank, blank]) == [wanted, wanted]


def test_an_answer_depends_on_its_picture_alone(untrained: Path, images: list[Image.Image]) -> None:
    together = Oracle(spec(untrained)).look(images)
    assert Oracle(spec(untrained, batch_size=2)).look(images) == together
    assert Oracle(spec(untrained)).look(images[::-1])[::-1] == together


def test_files_are_told_as_their_pixels_are(untrained: Path, images: list[Image.Image], tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    oracle = Oracle(spec(untrained))
    assert oracle.look_at_files([*paths, paths[0]]) == oracle.look([*images, images[0]])
    with pytest.raises(ImageError, match=r"gone\.png"):
        oracle.look_at_files([tmp_path / "gone.png"])


def test_a_thing_is_cropped_with_a_margin_whatever_its_place_and_size() -> None:
    for placed in (Placed(thing=STAR, left=3, top=40, size=20), Placed(thing=STAR, left=14, top=8, size=44)):
        picture = torch.zeros(1, 3, 64, 64)
        picture[:, :, placed.top : placed.top + placed.size, placed.left : placed.left + placed.size] = 1
        cropped = crop(picture, torch.tensor([box(placed)]))
        # A margin of a tenth of the thing's side all around: the thing covers 33.3 of 40 pixels.
        assert cropped.shape == (1, 3, 40, 40)
        assert cropped[:, :, 4:36, 4:36].min() > 0.999
        assert cropped.sum() / 3 == pytest.approx((40 / 1.2) ** 2, rel=0.02)
        assert cropped[:, :, 0].max() == cropped[:, :, -1].max() == cropped[..., 0].max() == cropped[..., -1].max() == 0


def test_a_box_that_is_off_comes_right_by_the_move_that_it_needs() -> None:
    off, right = torch.tensor([[[0.0, 0.5, 0.25]]]), torch.tensor([[[0.1, 0.45, 0.3]]])
    moves = torch.tensor([[[0.4, -0.2, 0.2]]])
    assert torch.allclose(moved(off, moves), right)


def test_the_second_thing_is_none_or_one_of_all_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = {"second": torch.randn(3, 2, generator=generator)}
    things = {name: torch.randn(3, 2, len(ATTRIBUTES[name]), generator=generator) for name in ("kind", "colour")}
    for name in ("kind", "colour"):
        chances = answers(scene, things)[f"second_{name}"].exp()
        assert torch.allclose(chances.sum(dim=1), torch.ones(3))
        assert torch.allclose(chances[:, 0], scene["second"].softmax(dim=1)[:, 0])
        among = chances[:, 1:] / chances[:, 1:].sum(dim=1, keepdim=True)
        assert torch.allclose(among, things[name][:, 1].softmax(dim=1))
    assert torch.equal(answers(scene, things)["kind"], things["kind"][:, 0])


def test_the_same_weights_come_back_from_disk_and_give_another_version_when_they_change(
    untrained: Path, tmp_path: Path
) -> None:
    build_oracle(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (untrained / WEIGHTS_FILE).read_bytes()
    assert sum(file.stat().st_size for file in untrained.iterdir()) < 1.5e6
    assert list(spec(untrained).weights().values()) == list(spec(tmp_path / "again").weights().values())
    save_oracle(OracleNet(), tmp_path / "other")
    assert list(spec(untrained).weights().values()) != list(spec(tmp_path / "other").weights().values())


def test_an_oracle_that_does_not_fit_is_refused_in_one_line(untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere: no such directory"):
        spec(tmp_path / "nowhere").load()
    build_oracle(tmp_path / "other")
    config = json.loads((tmp_path / "other" / CONFIG_FILE).read_text())
    config["attributes"]["colour"][0] = "crimson"
    (tmp_path / "other" / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="another version of the embedded world") as caught:
        spec(tmp_path / "other").load()
    assert "\n" not in str(caught.value)
    build_oracle(tmp_path / "empty")
    (tmp_path / "empty" / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match="empty: can't be loaded"):
        spec(tmp_path / "empty").load()


def test_what_leaves_no_trace_in_the_pixels_is_hidden() -> None:
    def flag(size: int, style: str, **changes: str) -> Scene:
        thing = Thing(**{**vars(TOY), "kind": "flag", **changes})
        return Scene(main=Placed(thing=thing, left=20, top=20, size=size), background="snow", style=style)

    # A pole is 12% as wide as the flag: of 16 pixels two, which a cartoon's outline of 1.5 pixels on both sides covers.
    assert hidden(flag(16, "cartoon")) == {"trim"}
    assert render(flag(16, "cartoon")).tobytes() == render(flag(16, "cartoon", trim="pink")).tobytes()
    assert hidden(flag(16, "photo")) == hidden(flag(36, "cartoon")) == frozenset()
    star = Scene(main=Placed(thing=STAR, left=2, top=10, size=44), background="night")
    assert hidden(star) == frozenset()


def right(found: list[Sight], scenes: list[Scene]) -> dict[str, float]:
    """Return the share of right answers by attribute, and as "all" the share of scenes with all of them right.

    Hidden attributes count as right.
    """
    rows = [
        {name: sight[name] == word or name in hidden(scene) for name, word in truth(scene).items()}
        for sight, scene in zip(found, scenes, strict=True)
    ]
    shares = {name: sum(row[name] for row in rows) / len(rows) for name in ATTRIBUTES}
    return shares | {"all": sum(all(row.values()) for row in rows) / len(rows)}


def test_the_shipped_oracle_tells_every_attribute_of_99_in_100_scenes_of_the_world() -> None:
    figures = evaluate_oracle(WEIGHTS / "oracle", scenes=600)
    assert min(figures[name] for name in ATTRIBUTES) >= 0.99, figures
    assert figures["all"] >= 0.97, figures


@pytest.mark.parametrize(
    ("concepts", "each", "together"),
    # In sketches it reads the black door of one development concept as brown.
    [(NOVEL_CONCEPTS, 0.98, 0.96), (DEVELOPMENT_CONCEPTS, 0.85, 0.85)],
)
def test_the_shipped_oracle_knows_the_concepts_that_no_model_has_seen(
    concepts: tuple[NovelConcept, ...], each: float, together: float
) -> None:
    rng = random.Random("oracle test")
    scenes = [scene for concept in concepts for scene in references(concept)]
    scenes += [
        compose(
            rng,
            choose(rng, concepts).thing,
            background=choose(rng, list(BACKGROUNDS)),
            style=choose(rng, list(STYLES)),
            second=draw_second(rng) if n % 2 else None,
        )
        for n in range(300)
    ]
    shares = right(spec(WEIGHTS / "oracle").load().look([render(scene) for scene in scenes]), scenes)
    assert min(shares[name] for name in ATTRIBUTES) >= each, shares
    assert shares["all"] >= together, shares
