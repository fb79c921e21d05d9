from .base import Editor as Editor
from .gated import GatedUltraEdit as GatedUltraEdit
from .gradient_descent import GradientDescent as GradientDescent
from .nullspace import NullSpaceUltraEdit as NullSpaceUltraEdit
from .ultraedit import UltraEdit as UltraEdit
