"""The VAE's half of drawing: from the latents that the transformer made to images."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from knowcusbench.backbone.family import Family
from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory


def decoded(family: Family, pipeline: Any, latents: Tensor, height: int, width: int) -> list[Image.Image | None]:
    """Return the RGB images of latents, as the pipeline itself makes them, and None for each that has a latent or a
    pixel which is not finite: converted to 8 bits it would be black."""
    given = family.decoder_input(pipeline, latents, height, width)
    pixels = family.pixels(_decode(pipeline.vae, given))
    finite = [_is_finite(own) and _is_finite(image) for own, image in zip(given, pixels, strict=True)]
    images = pipeline.image_processor.postprocess(pixels.nan_to_num(), output_type="pil")
    return [image if good else None for image, good in zip(images, finite, strict=True)]


@torch.no_grad()
def _decode(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents. Where there is no room for all at once, decode one after another: the transformer need not draw
    them again."""
    try:
        pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels
    except Exception as error:
        if not is_out_of_memory(error) or len(latents) == 1:
            raise
    free_memory()
    return torch.cat([vae.decode(one, return_dict=False)[0] for one in torch.split(latents, 1)])


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
