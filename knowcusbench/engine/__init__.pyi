from .base import Engine as Engine
from .local import LocalEngine as LocalEngine
from .ray import RayEngine as RayEngine
