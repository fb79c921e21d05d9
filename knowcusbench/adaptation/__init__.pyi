from .cache import AdapterCache as AdapterCache
from .dreambooth import DreamBooth as DreamBooth
from .encoder_tuning import EncoderTuning as EncoderTuning
from .method import Method as Method
