"""Which device computes."""

import torch

from knowcusbench.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is a GPU if there is one. Raises ConfigError for a name that torch does
    not know or a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch finds no GPU here; use device=auto")
    return device
