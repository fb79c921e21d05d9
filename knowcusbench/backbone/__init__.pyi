from .base import Backbone as Backbone
from .base import BackboneSpec as BackboneSpec
from .families.qwen_image import QwenImageSpec as QwenImageSpec
from .step_lora import StepLora as StepLora
