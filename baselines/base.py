"""Control: the unadapted backbone, the floor of every method."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method, Role
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept


@dataclass(frozen=True, kw_only=True)
class Base(Method):
    """The unadapted backbone, prompted with the knowledge phrase."""

    role: ClassVar[Role] = Role.FLOOR

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return Adaptation()
