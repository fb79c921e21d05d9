"""The VAE's half of drawing: from the latents that the transformer made to pictures."""

from typing import Any

import torch
from diffusers import QwenImagePipeline
from PIL import Image
from torch import Tensor

from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory


def decoded(pipeline: QwenImagePipeline, packed: Tensor, height: int, width: int) -> list[Image.Image | None]:
    """Return the pictures of packed latents (images, tokens, channels), as `QwenImagePipeline` itself makes them, and
    None for each that has a latent or a pixel which is not finite: converted to 8 bits it would be black."""
    vae: Any = pipeline.vae
    latents = pipeline._unpack_latents(packed, height, width, pipeline.vae_scale_factor).to(vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    inverse_std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    pixels = _decode(vae, latents / inverse_std + mean)[:, :, 0]
    finite = [_is_finite(own) and _is_finite(picture) for own, picture in zip(latents, pixels, strict=True)]
    pictures = pipeline.image_processor.postprocess(pixels.nan_to_num(), output_type="pil")
    return [picture if good else None for picture, good in zip(pictures, finite, strict=True)]


@torch.no_grad()
def _decode(vae: Any, latents: Tensor) -> Tensor:
    """Pixels (images, 3, 1, height, width). Where there is no room for all at once, one after another: the transformer
    need not draw them again."""
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
