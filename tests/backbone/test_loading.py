import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from conftest import miniature_spec
from safetensors.torch import load_file, save_file

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.errors import ConfigError, UserError, WeightsError

HUB_ID = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

DIT = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
LLM = "text_encoder/model.safetensors"


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def library_log():
    """What diffusers and transformers log, in a list."""
    handler = Records()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture
def broken(miniature, tmp_path):
    copy = tmp_path / "broken"
    shutil.copytree(miniature, copy)
    return copy


def remove(name):
    return lambda directory: (directory / name).unlink()


def write(name, text):
    return lambda directory: (directory / name).write_text(text)


def truncate(name, size):
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def edit_index(**changes):
    def damage(directory):
        path = directory / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def edit_tensor(file, name, change):
    """Replace a tensor by `change(tensor)`, or leave it out where that is None."""

    def damage(directory):
        weights = load_file(directory / file)
        changed = change(weights.pop(name))
        save_file(weights if changed is None else {**weights, name: changed}, directory / file, {"format": "pt"})

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove(VAE), "vae"),
        (remove(LLM), "text_encoder"),
        (truncate(DIT, 1000), "transformer"),
        (truncate(LLM, 1_000_000), "text_encoder"),
        (truncate(VAE, 0), "vae"),
        (edit_tensor(DIT, "txt_in.bias", lambda _: None), "transformer .* lacks the tensor txt_in.bias"),
        (edit_tensor(VAE, "post_quant_conv.weight", lambda _: None), "vae .* lacks the tensor post_quant_conv.weight"),
        (
            edit_tensor(LLM, "model.layers.3.mlp.up_proj.weight", lambda _: None),
            r"lacks the tensor model.language_model.layers.3.mlp.up_proj.weight",
        ),
        (
            edit_tensor(LLM, "model.layers.3.mlp.up_proj.weight", lambda tensor: tensor[:5].contiguous()),
            r"up_proj.weight of shape \(5, 192\), its configuration says \(512, 192\)",
        ),
        (
            edit_tensor(DIT, "txt_in.bias", lambda tensor: tensor[:5].contiguous()),
            r"txt_in.bias of shape \(5,\), its configuration says \(128,\)",
        ),
        (remove("text_encoder/config.json"), "text_encoder/config.json can't be read"),
        (write("vae/config.json", "{"), "vae/config.json is not JSON"),
        (write("scheduler/scheduler_config.json", "{"), "scheduler_config.json"),
        (remove("tokenizer/tokenizer.json"), "tokenizer .* of the prompt template"),
        (write("tokenizer/tokenizer.json", "{"), "broken"),
        (remove("model_index.json"), "model_index.json can't be read"),
        (write("model_index.json", "{"), "model_index.json is not JSON"),
        (write("model_index.json", "[]"), "model_index.json is not a JSON object"),
        (edit_index(_class_name="FluxPipeline"), "holds a FluxPipeline"),
        (edit_index(vae=["diffusers", "AutoencoderKL"]), "the vae .* is a AutoencoderKL"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(broken, damage, named, library_log, capfd):
    damage(broken)
    with pytest.raises(UserError, match=named) as caught:
        QwenImageSpec(source=str(broken), height=64, width=64).load()
    assert "\n" not in str(caught.value)
    assert library_log == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["nobody/no-such-model", "./nowhere", "/no/where", "not a hub id", ""])
@pytest.mark.parametrize("act", [QwenImageSpec.load, QwenImageSpec.footprint])
def test_a_source_that_cannot_be_had_is_one_line(source, act, offline_hub, library_log, capfd):
    with pytest.raises(WeightsError, match=repr(source)) as caught:
        act(QwenImageSpec(source=source))
    assert "\n" not in str(caught.value)
    assert library_log == []
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_loads_without_a_word(miniature, library_log, capfd):
    miniature_spec(miniature).load()
    assert library_log == []
    assert capfd.readouterr() == ("", "")


def test_the_libraries_log_as_before_afterwards(broken):
    import diffusers
    import transformers

    truncate(LLM, 1000)(broken)
    for logger in (diffusers.utils.logging, transformers.utils.logging):
        before = logger.get_verbosity()
        try:
            logger.set_verbosity(logger.INFO)
            with pytest.raises(WeightsError):
                miniature_spec(broken).load()
            assert logger.get_verbosity() == logger.INFO
        finally:
            logger.set_verbosity(before)


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_hub_id_loads_and_is_counted_without_a_network(revision, cached_miniature, miniature, backbone):
    own = miniature_spec(miniature, steps=2)
    spec = QwenImageSpec(source=HUB_ID, revision=revision, height=64, width=64, steps=2, dtype=own.dtype)
    assert spec.load().digest == backbone.digest
    assert spec.footprint() == own.footprint()


def test_a_revision_that_is_not_cached_is_named(cached_miniature):
    with pytest.raises(WeightsError, match=r"'owner/name' at revision 'v2'"):
        QwenImageSpec(source=HUB_ID, revision="v2", height=64, width=64).load()


def test_a_footprint_needs_the_configuration_files_only(cached_miniature, miniature):
    for weights in cached_miniature.rglob("*.safetensors"):
        weights.unlink()
    own = miniature_spec(miniature)
    spec = QwenImageSpec(source=HUB_ID, height=64, width=64, steps=3, dtype=own.dtype)
    assert spec.footprint() == own.footprint()
    with pytest.raises(WeightsError, match=HUB_ID):
        spec.load()


def test_a_tilde_is_the_home_directory(miniature, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(miniature).parent))
    assert miniature_spec(f"~/{miniature.name}").load().digest


@pytest.mark.parametrize("act", [QwenImageSpec.load, QwenImageSpec.footprint])
def test_a_size_that_the_model_cannot_draw_is_named(miniature, act):
    with pytest.raises(ConfigError, match=r"backbone.height: expected a multiple of 8, found 60"):
        act(miniature_spec(miniature, height=60))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 1}, "backbone.steps"),
        ({"height": 0}, "backbone.height"),
        ({"true_cfg_scale": 0.5}, "backbone.true_cfg_scale"),
        ({"true_cfg_scale": float("nan")}, "backbone.true_cfg_scale"),
    ],
)
def test_settings_out_of_range_are_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        QwenImageSpec(source="owner/name", **changes)


def test_weights_are_in_the_dtype_that_was_asked_for(backbone_bf16, backbone_fp32):
    for loaded, dtype in ((backbone_bf16, torch.bfloat16), (backbone_fp32, torch.float32)):
        for model in (loaded.transformer, loaded.text_encoder):
            assert {parameter.dtype for parameter in model.parameters()} == {dtype}
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert not model.training
