"""Detecting that a device is out of memory, and freeing memory."""

import gc
import re

# In addition to torch's own exception: the CUDA runtime and driver, and libraries that allocate their own workspaces.
_SPELLINGS = re.compile(
    r"(CUDA|HIP)[^\n]*out of memory|CU[A-Z]+_STATUS_\w*ALLOC\w*_FAILED|can't allocate memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, however worded, says that a device or this machine is out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_SPELLINGS.search(str(error)))


def free_memory() -> None:
    """Release memory that is no longer referenced.

    Call it outside of `except`: an exception keeps the tensors of its stack frames alive.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
