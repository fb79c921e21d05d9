"""The generated configuration reference is whole."""

import dataclasses
import re

from docs.documents import ROOT


def test_every_typed_class_is_reached(reference):
    from knowcusbench.config import schema

    names = {cls.__name__ for cls in reference.typed()}
    sections = {
        name
        for name, cls in vars(schema).items()
        if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == schema.__name__
    }
    assert sections <= names
    # By `_target_`, at the top of a file and inside of one, and by the type of a field alone.
    assert {"MoKus", "QwenImageSpec", "StepLora", "DreamBooth", "TransferProbe", "WholeImageBoxes", "Fact"} <= names


def test_every_target_in_a_configuration_file_is_reached(reference):
    written = {
        target
        for file in (ROOT / "configs").rglob("*.yaml")
        for target in re.findall(r"_target_: *(\S+)", file.read_text())
    }
    assert written == set(reference.targets())


def test_every_key_says_what_it_means(reference):
    keys = [(cls.__name__, key) for cls in reference.typed() for key in reference.keys(cls)]
    assert not [f"{name}.{key.name}" for name, key in keys if not key.meaning]


def test_every_class_says_what_it_is(reference):
    # Without a docstring a dataclass gets its signature for one.
    assert not [cls for cls in reference.typed() if cls.__doc__.startswith(f"{cls.__name__}(")]


def test_every_key_and_option_is_in_the_text(reference):
    text = reference.render()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(reference.keys(cls)) for cls in reference.typed())
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
    for group, files in reference.groups().items():
        assert f"### {group}=" in text
        assert all(f"**`{file.stem}`**" in text and file.read_text().rstrip() in text for file in files)


def test_a_key_is_described_by_type_default_and_docstring(reference):
    from knowcusbench.backbone import QwenImageSpec

    keys = {key.name: key for key in reference.keys(QwenImageSpec)}
    assert (keys["source"].type, keys["source"].default) == ("text", "")
    assert (keys["steps"].type, keys["steps"].default) == ("integer", "50")
    assert keys["steps"].meaning == "denoising steps; the scheduler is used as shipped."
    # Two names before one colon.
    assert keys["height"].meaning == keys["width"].meaning == "size of the images, in pixels."
    assert keys["offload"].type == "`none`, `text_encoder`, `alternating`"
    assert keys["negative_prompt"].default == "' '"
    assert keys["step_lora"].type.startswith("[StepLora](#")


def test_a_key_of_a_base_class_is_described(reference):
    from knowcusbench.editors.gated import GatedUltraEdit

    keys = {key.name: key for key in reference.keys(GatedUltraEdit)}
    assert keys["layers"].meaning.startswith("decoder layers to edit")
    assert keys["eta"].meaning == "strength of the edit."
