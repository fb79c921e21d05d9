from .mokus import MoKus as MoKus
