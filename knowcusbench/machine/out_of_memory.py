"""A device that has no memory left: how its libraries say so, and how room is made."""

import gc
import re

# Beside torch's own exception: the CUDA runtime and driver, and libraries that ask them for workspaces themselves.
_SPELLINGS = re.compile(
    r"(CUDA|HIP)[^\n]*out of memory|CU[A-Z]+_STATUS_\w*ALLOC\w*_FAILED|can't allocate memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that a device or this machine had no memory left, in whatever words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_SPELLINGS.search(str(error)))


def free_memory() -> None:
    """Give back what nothing refers to any more. Call it outside of `except`: an exception holds on to the tensors of
    the calls that it came through."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
