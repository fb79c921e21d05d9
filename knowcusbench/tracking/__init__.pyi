from .base import Tracker as Tracker
from .hook import tracked as tracked
from .mlflow import MLflow as MLflow
from .tensorboard import TensorBoard as TensorBoard
from .wandb import WandB as WandB
