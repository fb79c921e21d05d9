from .cost import Meter as Meter
from .types import Adaptation as Adaptation
from .types import Adapter as Adapter
