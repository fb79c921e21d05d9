from .base import Backbone as Backbone
from .base import BackboneSpec as BackboneSpec
from .families.flux2_klein import Flux2KleinSpec as Flux2KleinSpec
from .families.lumina2 import Lumina2Spec as Lumina2Spec
from .families.qwen_image import QwenImageSpec as QwenImageSpec
from .families.qwen_image_21 import QwenImage21Spec as QwenImage21Spec
from .families.z_image import ZImageSpec as ZImageSpec
from .step_lora import StepLora as StepLora
