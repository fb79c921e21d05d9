"""Settling `backbone.dtype=auto`, once a run, by the command that makes its first results, before anything is built."""

from omegaconf import DictConfig, OmegaConf

from knowcusbench.run.layout import RunStore
from knowcusbench.storage.tables import read_json

AUTO = "auto"
"""The value of `backbone.dtype` that stands for this machine's fast dtype. In `run.json`, only a plan was made so
far."""


def settle_dtype(composed: DictConfig, *, measure: bool) -> tuple[DictConfig, str | None]:
    """Return the configuration with `backbone.dtype=auto` replaced by a dtype, and a line that explains the choice.

    An existing run keeps its dtype. A new run takes this machine's fast dtype, if `measure` allows measuring it: that
    imports torch and takes a moment. In every other case the configuration is unchanged, also if the backbone has
    another dtype or none.
    """
    if OmegaConf.select(composed, "backbone.dtype") != AUTO:
        return composed, None
    recorded = _recorded(RunStore.of(composed.run))
    if not measure and recorded is None:
        return composed, None
    settled = composed.copy()
    line = None
    if measure:
        # Imported here because commands that only read need no torch.
        from knowcusbench.machine.device import fast_dtype, measured, resolve_device

        device = resolve_device(OmegaConf.select(composed, "backbone.device", default="auto"))
        fast = fast_dtype(device)
        line = f"backbone.dtype: {recorded or fast}" + (", as the run was begun" if recorded else "")
        if fast == (recorded or fast):
            line += f" ({measured(device)})"
        else:
            line += f", though {fast} is faster here ({measured(device)}); choose another run.name= for that"
    settled.backbone.dtype = recorded or fast
    return settled, line


def _recorded(store: RunStore) -> str | None:
    """Return the dtype that a run was begun in; None if there is no run, or only a plan."""
    if not store.identity.exists():
        return None
    dtype = read_json(store.identity).get("backbone", {}).get("dtype")
    return None if dtype == AUTO else dtype
