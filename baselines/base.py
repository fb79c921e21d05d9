"""Control: the unadapted backbone, the floor of every method."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench import Adaptation, AdapterCache, Backbone, Concept, Method, Role


@dataclass(frozen=True, kw_only=True)
class Base(Method):
    """The unadapted backbone, prompted with the knowledge phrase."""

    role: ClassVar[Role] = Role.FLOOR

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return Adaptation()
