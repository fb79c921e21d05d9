import numpy as np
import pytest
import torch

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.checkpoint import open_checkpoint
from knowcusbench.toybox.models.pipeline import build_pipeline, build_tokenizer


def files(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_same_bytes_come_out_whatever_the_global_generator_says(miniature, tmp_path, capfd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        state = torch.random.get_rng_state()
        build_pipeline(tmp_path / "again", layers=3, heads=4, channels=8)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert files(tmp_path / "again") == files(miniature)
    assert capfd.readouterr() == ("", "")


def test_it_is_small_and_has_the_layout_of_a_diffusers_pipeline(miniature):
    assert sum(map(len, files(miniature).values())) < 15e6
    assert open_checkpoint(QwenImageSpec.family, str(miniature), None, weights=True).pixels_per_token == 8
    assert {path.suffix for path in files(miniature)} <= {".json", ".jinja", ".safetensors"}


@pytest.mark.parametrize("text", ["naïve ☃ \t\n  spaces, 1234 <|im_end|>", "a red robot on the beach"])
def test_the_tokenizer_spells_any_text(text):
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_tokens_are_single_tokens():
    tokenizer = build_tokenizer()
    ids = tokenizer("<|im_start|><|im_end|><|endoftext|><|image_pad|>")["input_ids"]
    assert len(set(ids)) == 4


def test_untrained_it_still_tells_prompts_and_seeds_apart(backbone):
    """Untrained, but every output is finite and depends on its inputs."""
    images = {
        (prompt, seed): np.asarray(image, dtype=float)
        for prompt in ("a red robot on the beach", "sks cake")
        for seed, image in zip((0, 1), backbone.sample(backbone.encode(prompt), [0, 1]), strict=True)
    }
    assert all(backbone.encode(prompt).embeds.isfinite().all() for prompt, _ in images)
    for image in images.values():
        assert 5 < image.mean() < 250
        assert image.std() > 5
    (first, other_seed), (other_prompt, _) = (
        [images[prompt, seed] for seed in (0, 1)] for prompt in ("a red robot on the beach", "sks cake")
    )
    assert np.abs(first - other_seed).mean() > 1
    assert np.abs(first - other_prompt).mean() > 0.1
