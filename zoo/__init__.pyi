from . import callbacks as callbacks
from .convnet import ConvNet as ConvNet
from .convnet import LeNet5 as LeNet5
from .datasets import DatasetUnavailableError as DatasetUnavailableError
from .datasets import dataset_info as dataset_info
from .datasets import list_datasets as list_datasets
from .datasets import load_dataset as load_dataset
from .datasets import prepare_dataset as prepare_dataset
from .export import export as export
from .export import load_exported as load_exported
from .inspection import count_flops as count_flops
from .inspection import decode_predictions as decode_predictions
from .inspection import features as features
from .mlp import DeepMLP as DeepMLP
from .mlp import ShallowMLP as ShallowMLP
from .publishing import publish as publish
from .recipes import Recipe as Recipe
from .recipes import load_recipe as load_recipe
from .registry import create as create
from .registry import get_weights as get_weights
from .registry import list_models as list_models
from .registry import list_weights as list_weights
from .training import Report as Report
from .training import evaluate as evaluate
from .training import train as train
from .weights import Weights as Weights

__version__: str
