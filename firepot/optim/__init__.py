"""Optimisers and learning-rate schedules, by PyTorch's names."""

from firepot.optim import lr_scheduler as lr_scheduler
from firepot.optim.adaptive import ASGD as ASGD
from firepot.optim.adaptive import LAMB as LAMB
from firepot.optim.adaptive import Adadelta as Adadelta
from firepot.optim.adaptive import Adafactor as Adafactor
from firepot.optim.adaptive import Adagrad as Adagrad
from firepot.optim.adaptive import Adam as Adam
from firepot.optim.adaptive import Adamax as Adamax
from firepot.optim.adaptive import AdamW as AdamW
from firepot.optim.adaptive import Lion as Lion
from firepot.optim.adaptive import Muon as Muon
from firepot.optim.adaptive import NAdam as NAdam
from firepot.optim.adaptive import RAdam as RAdam
from firepot.optim.adaptive import RMSprop as RMSprop
from firepot.optim.adaptive import Rprop as Rprop
from firepot.optim.lbfgs import LBFGS as LBFGS
from firepot.optim.optimizer import Optimizer as Optimizer
from firepot.optim.sgd import SGD as SGD
from firepot.optim.sparse import SparseAdam as SparseAdam
