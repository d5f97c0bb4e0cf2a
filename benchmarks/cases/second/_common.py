"""Data and the loader that the programs share. Real data that ship inside scikit-learn only."""

import collections
import glob
import itertools
import os

import numpy as np
import sklearn.datasets
import torch
from torch import nn

CE = nn.CrossEntropyLoss


def seed(s=0):
    """Seed all random numbers; CASE_SEED in the environment is added."""
    s += int(os.environ.get("CASE_SEED", "0"))
    torch.set_num_threads(1)
    torch.manual_seed(s)
    np.random.seed(s)


def _tensor(values, dtype=torch.float32):
    return torch.as_tensor(np.ascontiguousarray(values)).to(dtype)


def _standard(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-8)


def digits(scale="unit", img=False):
    """1797 images of 64 pixels, and their classes."""
    data = sklearn.datasets.load_digits()
    pixels = data.data.astype("float64")
    x = {"unit": pixels / 16, "raw": pixels, "raw255": pixels * 255 / 16, "std": _standard(pixels)}[scale]
    x = _tensor(x)
    return (x.view(-1, 1, 8, 8) if img else x), _tensor(data.target, torch.long)


def cancer(scale="std"):
    """569 rows of 30 features, and a column of 0 and 1."""
    data = sklearn.datasets.load_breast_cancer()
    x = _standard(data.data) if scale == "std" else data.data
    return _tensor(x), _tensor(data.target).view(-1, 1)


def wine(scale="std"):
    """178 rows of 13 features, and their classes of 3."""
    data = sklearn.datasets.load_wine()
    x = _standard(data.data) if scale == "std" else data.data
    return _tensor(x), _tensor(data.target, torch.long)


def iris(scale="std"):
    """150 rows of 4 features, and their classes of 3."""
    data = sklearn.datasets.load_iris()
    x = _standard(data.data) if scale == "std" else data.data
    return _tensor(x), _tensor(data.target, torch.long)


def diabetes(scale="std", y="std"):
    """442 rows of 10 features, and a column of a measure (25 to 346 as it is)."""
    data = sklearn.datasets.load_diabetes(scaled=False)
    x, t = data.data, data.target
    x = _standard(x) if scale == "std" else x
    t = {"std": (t - t.mean()) / t.std(), "raw": t, "neg": (t - t.max()) / t.max()}[y]
    return _tensor(x), _tensor(t).view(-1, 1)


def text_docs():
    """Real English text: scikit-learn's descriptions of its datasets."""
    folder = os.path.join(os.path.dirname(sklearn.datasets.__file__), "descr")
    texts = []
    for path in sorted(glob.glob(folder + "/*.rst")):
        with open(path, encoding="utf8", errors="ignore") as file:
            texts.append(file.read())
    return texts


def charlm(ctx=64, n=4096):
    """Characters of that text, the characters one further on, and the size of the alphabet."""
    text = "\n".join(text_docs())
    alphabet = sorted(set(text))
    index = {c: i for i, c in enumerate(alphabet)}
    codes = torch.tensor([index[c] for c in text])
    g = torch.Generator().manual_seed(0)
    starts = torch.randint(0, len(codes) - ctx - 1, (n,), generator=g)
    x = torch.stack([codes[i : i + ctx] for i in starts])
    y = torch.stack([codes[i + 1 : i + ctx + 1] for i in starts])
    return x, y, len(alphabet)


class Batches:
    """Iterable over the whole training; .X and .Y are the whole training set, for exact measurement."""

    def __init__(self, X, Y, bs, epochs, seed=0):
        self.X, self.Y, self.bs, self.epochs, self.seed = X, Y, bs, epochs, seed

    def __len__(self):
        return self.epochs * ((len(self.X) + self.bs - 1) // self.bs)

    def __iter__(self):
        g = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            order = torch.randperm(len(self.X), generator=g)
            for i in range(0, len(order), self.bs):
                rows = order[i : i + self.bs]
                yield self.X[rows], self.Y[rows]


def mlp(sizes, act, out_act=None, init=None, bias=True):
    """fc0, act0, fc1, act1, ..., fc{L-1} [, out]: the names used in meta."""
    parts = collections.OrderedDict()
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        parts[f"fc{i}"] = nn.Linear(a, b, bias=bias)
        if i < len(sizes) - 2:
            parts[f"act{i}"] = act()
    if out_act is not None:
        parts["out"] = out_act
    net = nn.Sequential(parts)
    if init is not None:
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                init(layer)
    return net


def normal_(std, bstd=0.0):
    """An initialization for `mlp`."""

    def fill(layer):
        nn.init.normal_(layer.weight, 0, std)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, 0, bstd)

    return fill


def xavier_(gain=1.0):
    """An initialization for `mlp`."""

    def fill(layer):
        nn.init.xavier_uniform_(layer.weight, gain)
        nn.init.zeros_(layer.bias)

    return fill


def he_(gain=1.0):
    """An initialization for `mlp`."""

    def fill(layer):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layer.weight.data.mul_(gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    return fill


def onehot_mse(o, y):
    """Squared error against classes."""
    return ((o - nn.functional.one_hot(y, o.shape[1]).float()) ** 2).mean()
