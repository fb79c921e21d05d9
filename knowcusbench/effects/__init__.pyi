from .probe import TransferProbe as TransferProbe
from .spec import EffectsSpec as EffectsSpec
