"""The oracle's network, and a resident oracle. `knowcusbench.toybox.models.oracle` explains its purpose."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from knowcusbench.encoders.batching import PaddedBatches
from knowcusbench.encoders.checkpoint import loading, locate
from knowcusbench.encoders.store import MEMORY
from knowcusbench.errors import WeightsError
from knowcusbench.machine.device import resolve_device
from knowcusbench.storage.digests import Memo, content_digest
from knowcusbench.storage.images import read_image
from knowcusbench.storage.tables import write_json
from knowcusbench.toybox.models.oracle import ATTRIBUTES, IDENTITY, OracleSpec, Sight
from knowcusbench.toybox.world.scene import RESOLUTION, Placed

SCENE_QUESTIONS = {name: len(ATTRIBUTES[name]) for name in ("background", "style", "size")} | {"second": 2}
"""Questions about the whole picture, with their number of answers; "second" is whether there is a second thing."""

CROP = 40
"""Side of a crop in pixels."""

CORRECTIONS = 2
"""Number of corrections of a box before its thing is read."""

MARGIN = 1.2
"""Side of a crop, in sides of the thing."""

SEED = 0

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.relu(features + self.inner(features))


def _halved(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution to half of the resolution."""
    convolution = nn.Conv2d(before, after, kernel, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class OracleNet(nn.Module):
    """Network that finds the things in a picture, and reads each from a crop of its square.

    In a crop the parts of a thing always have the same position and size, so small things are read as well as large
    ones. A crop also shows its own offset; it is corrected before it is read. The other attributes are answered from
    features of the whole picture on an 8 x 8 grid. Each question averages them with its own weights (softmax over the
    grid).

    Boxes (n, 2, 3) are those of main and second things, as returned by `box`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.overview = nn.Sequential(
            *(_halved(3, 24, 4), _halved(24, 48), Block(48)), *(_halved(48, 64), Block(64), Block(64))
        )
        self.looks = nn.Conv2d(64, len(SCENE_QUESTIONS), 1)
        self.scene_answers = nn.ModuleDict({name: nn.Linear(64, count) for name, count in SCENE_QUESTIONS.items()})
        self.finder = nn.Conv2d(64, 2 * 4, 1)
        self.reader = nn.Sequential(
            *(_halved(3, 32, 4), Block(32)), *(_halved(32, 64), Block(64)), *(_halved(64, 96), Block(96)), nn.Flatten()
        )
        places = 96 * (CROP // 8) ** 2
        self.thing_answers = nn.ModuleDict({name: nn.Linear(places, len(ATTRIBUTES[name])) for name in IDENTITY})
        self.corrector = nn.Linear(places, 3)
        along = torch.arange(8) / 4 - 7 / 8
        grid = torch.stack(torch.meshgrid(along, along, indexing="xy"), dim=2).reshape(64, 2)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the logits (n, words) of every attribute, for pictures (n, 3, 64, 64) with values from -1 to 1."""
        scene, weights, pointed = self.scan(pictures)
        surest = weights.argmax(dim=2)[:, :, None, None].expand(-1, -1, 1, 3)
        boxes = pointed.gather(2, surest).squeeze(2)
        for _ in range(CORRECTIONS):
            boxes = moved(boxes, self.read(pictures, boxes)[1])
        return answers(scene, self.read(pictures, boxes)[0])

    def scan(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the logits of `SCENE_QUESTIONS`, and for the 64 grid cells their weights and boxes.

        The weights (n, 2, 64) sum to 1; the boxes are (n, 2, 64, 3).
        """
        features = self.overview(pictures)
        weights = self.looks(features).flatten(2).float().softmax(dim=2).to(features.dtype)
        seen = weights @ features.flatten(2).transpose(1, 2)
        logits = {
            name: answer(seen[:, index]).float() for index, (name, answer) in enumerate(self.scene_answers.items())
        }
        maps = self.finder(features).float().reshape(len(features), 2, 4, 64).transpose(2, 3)
        centres = maps[..., 1:3] + self.get_buffer("grid")
        return logits, maps[..., 0].softmax(dim=2), torch.cat([centres, maps[..., 3:].sigmoid()], dim=3)

    def read(self, pictures: Tensor, boxes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the logits (n, 2, words) of `IDENTITY`, and the moves (n, 2, 3) that correct the boxes."""
        states = self.reader(torch.cat([crop(pictures, boxes[:, index]) for index in range(2)]))
        logits = {
            name: torch.stack(answer(states).float().chunk(2), dim=1) for name, answer in self.thing_answers.items()
        }
        return logits, torch.stack(self.corrector(states).float().chunk(2), dim=1)


def answers(scene: Mapping[str, Tensor], things: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Combine the logits of scenes and of both things to logits (n, words) of every attribute."""
    logits = {name: values for name, values in scene.items() if name in ATTRIBUTES}
    logits |= {name: values[:, 0] for name, values in things.items()}
    # First whether there is a second thing, then which.
    absent, present = scene["second"].log_softmax(dim=1).chunk(2, dim=1)
    for name in ("kind", "colour"):
        logits[f"second_{name}"] = torch.cat([absent, present + things[name][:, 1].log_softmax(dim=1)], dim=1)
    return logits


def moved(boxes: Tensor, moves: Tensor) -> Tensor:
    """Return the boxes after moves of centre and side, all in units of the side."""
    return boxes + moves * boxes[..., 2:]


def box(placed: Placed) -> tuple[float, float, float]:
    """Return the centre of a thing's square (across, down; -1 to 1), and its side as a fraction of the picture's."""
    half = placed.size / 2
    return (
        (placed.left + half) / (RESOLUTION / 2) - 1,
        (placed.top + half) / (RESOLUTION / 2) - 1,
        placed.size / RESOLUTION,
    )


def crop(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Crop boxes (n, 3) with a margin from pictures: (n, 3, 40, 40)."""
    sides = boxes[:, 2] * MARGIN
    zero = torch.zeros_like(sides)
    rows = torch.stack([sides, zero, boxes[:, 0], zero, sides, boxes[:, 1]], dim=1)
    grid = nn.functional.affine_grid(rows.reshape(-1, 2, 3), [len(pictures), 3, CROP, CROP], align_corners=False)
    return nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """Convert pictures to the network's input (n, 3, 64, 64), values from -1 to 1; other sizes are resized."""
    size = (RESOLUTION, RESOLUTION)
    resized = [image if image.size == size else image.resize(size, Image.Resampling.BICUBIC) for image in images]
    array = np.stack([np.asarray(image) for image in resized])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def build_oracle(directory: Path) -> None:
    """Write an untrained oracle, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        save_oracle(OracleNet(), directory)


def save_oracle(model: OracleNet, directory: Path) -> None:
    """Write `config.json` and `model.safetensors` (fp16)."""
    directory.mkdir(parents=True)
    write_json(directory / CONFIG_FILE, {"attributes": ATTRIBUTES})
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})


class Oracle:
    """A resident oracle. Its results for files are cached."""

    def __init__(self, spec: OracleSpec) -> None:
        self._batches = PaddedBatches(spec.batch_size, spec.device)
        self._device = resolve_device(spec.device)
        self._memo: Memo[str, Sight] = Memo(MEMORY)
        directory = locate(spec.source, None)
        with loading(spec.source):
            config: dict[str, Any] = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
            if config["attributes"] != {name: list(words) for name, words in ATTRIBUTES.items()}:
                raise WeightsError(
                    f"{spec.source}: an oracle of another version of the embedded world (its words differ); "
                    "train it again, or use the version of knowcusbench that it came with"
                )
            model = OracleNet()
            model.load_state_dict(load_file(directory / WEIGHTS_FILE))
        self._model = model.float().eval().requires_grad_(False).to(self._device)

    def look(self, images: Sequence[Image.Image]) -> list[Sight]:
        """Return the attributes of RGB images of any size."""
        with torch.inference_mode():
            return [sight for sights in self._batches.run(self._look, images) for sight in sights]

    def _look(self, batch: Sequence[Image.Image]) -> list[Sight]:
        logits = self._model(pixels(batch).to(self._device))
        best = {name: values.argmax(dim=1).tolist() for name, values in logits.items()}
        return [{name: ATTRIBUTES[name][places[index]] for name, places in best.items()} for index in range(len(batch))]

    def look_at_files(self, paths: Sequence[Path]) -> list[Sight]:
        """Return the attributes of image files. Raises ImageError for one that can't be read."""
        files = {content_digest(path): path for path in paths}
        keys = [content_digest(path) for path in paths]
        return self._memo.fetch(keys, lambda missing: self.look([read_image(files[key]) for key in missing]))
