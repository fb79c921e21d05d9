"""Settling `backbone.dtype=auto`: once a run, by the command that makes its first results, before anything is built."""

from omegaconf import DictConfig, OmegaConf

from knowcusbench.run.layout import RunStore
from knowcusbench.storage.tables import read_json

AUTO = "auto"
"""As `backbone.dtype`: what the machine is fast in. In `run.json`: nothing was made yet but the plan."""


def settle_dtype(composed: DictConfig, *, measure: bool) -> tuple[DictConfig, str | None]:
    """The configuration with a dtype in place of `backbone.dtype=auto`, and a line that says why it is this one.

    An existing run goes on in its own dtype. A new one takes what this machine is fast in, if `measure` says that it
    may be asked: that imports torch and takes a moment. Otherwise the configuration stays as it is, and so it does if
    the backbone has another dtype or none.
    """
    if OmegaConf.select(composed, "backbone.dtype") != AUTO:
        return composed, None
    recorded = _recorded(RunStore.of(composed.run))
    if not measure and recorded is None:
        return composed, None
    settled = composed.copy()
    line = None
    if measure:
        # Not for commands that only read.
        from knowcusbench.machine.device import fast_dtype, measured, resolve_device

        device = resolve_device(OmegaConf.select(composed, "backbone.device", default="auto"))
        fast = fast_dtype(device)
        line = f"backbone.dtype: {recorded or fast}" + (", as the run was begun" if recorded else "")
        if fast == (recorded or fast):
            line += f" ({measured(device)})"
        else:
            line += f", though {fast} is faster here ({measured(device)}); another run.name= takes that"
    settled.backbone.dtype = recorded or fast
    return settled, line


def _recorded(store: RunStore) -> str | None:
    """The dtype that a run was begun in; None if there is no run or nothing but a plan."""
    if not store.identity.exists():
        return None
    dtype = read_json(store.identity).get("backbone", {}).get("dtype")
    return None if dtype == AUTO else dtype
