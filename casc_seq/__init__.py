"""Recurrent text classifiers for `casc_core`: a CQReLU RNN, its adapter, text in, and training.

>>> import torch, casc_core, casc_seq
>>> config = casc_seq.ClassifierConfig(vocabulary_size=100, classes=4)
>>> snn = casc_core.convert(casc_seq.TextClassifier(config), adapter="rnn")
>>> casc_core.verify(snn, torch.randint(1, 100, (8, 12))).exact
True
"""

from casc_seq.classifier import ClassifierConfig, TextClassifier
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM
from casc_seq.layers.rnn import RNN
from casc_seq.text.batches import Batch, bucketed_batches
from casc_seq.text.data import Corpus, Examples, load_corpus
from casc_seq.text.tokenizer import WordTokenizer
from casc_seq.training import TrainingConfig, evaluate, train

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Batch",
    "ClassifierConfig",
    "Corpus",
    "Examples",
    "TextClassifier",
    "TrainingConfig",
    "WordTokenizer",
    "bucketed_batches",
    "evaluate",
    "load_corpus",
    "train",
]
