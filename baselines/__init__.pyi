from .anchor import Anchor as Anchor
from .base import Base as Base
from .enc_ft import EncFT as EncFT
from .leak import Leak as Leak
from .naive_db import NaiveDB as NaiveDB
