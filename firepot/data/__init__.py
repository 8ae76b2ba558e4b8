"""Data sets, samplers and the loader that makes batches of them."""

from firepot.data.collate import default_collate as default_collate
from firepot.data.collate import default_convert as default_convert
from firepot.data.dataset import ChainDataset as ChainDataset
from firepot.data.dataset import ConcatDataset as ConcatDataset
from firepot.data.dataset import Dataset as Dataset
from firepot.data.dataset import IterableDataset as IterableDataset
from firepot.data.dataset import Subset as Subset
from firepot.data.dataset import TensorDataset as TensorDataset
from firepot.data.dataset import random_split as random_split
from firepot.data.loader import DataLoader as DataLoader
from firepot.data.randomness import sample_random as sample_random
from firepot.data.sampler import BatchSampler as BatchSampler
from firepot.data.sampler import RandomSampler as RandomSampler
from firepot.data.sampler import Sampler as Sampler
from firepot.data.sampler import SequentialSampler as SequentialSampler
from firepot.data.sampler import SubsetRandomSampler as SubsetRandomSampler
from firepot.data.sampler import WeightedRandomSampler as WeightedRandomSampler
from firepot.data.worker import WorkerInfo as WorkerInfo
from firepot.data.worker import get_worker_info as get_worker_info
