"""Two-tower retrieval with cosine similarity, learned temperature and Zipf items: rare embeddings hardly ever move."""

import math

import torch
import torch.nn.functional as F
from _common import CE, Batches, seed
from torch import nn

USERS = 300
ITEMS = 120


class TwoTower(nn.Module):
    """Scores of all items for each user; row 0 of the item table is padding."""

    def __init__(self, dim=32):
        super().__init__()
        self.users = nn.Embedding(USERS, dim)
        self.items = nn.Embedding(ITEMS + 1, dim, padding_idx=0)
        self.user_tower = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.item_tower = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, x):
        history = self.items(x[:, 1:])
        seen = (x[:, 1:] > 0).sum(1, keepdim=True).clamp(min=1)
        user = torch.cat([self.users(x[:, 0]), history.sum(1) / seen], 1)
        user = F.normalize(self.user_tower(user), dim=1)
        item = F.normalize(self.item_tower(self.items.weight[1:]), dim=1)
        return self.log_scale.exp() * user @ item.T


def visits(n, longest=8):
    """Users have one of six tastes; items of a taste are visited with frequency 1 / rank."""
    taste = torch.randint(0, 6, (USERS,))
    user = torch.randint(0, USERS, (n,))
    rank = torch.multinomial(1 / torch.arange(1.0, ITEMS // 6 + 1), n * (longest + 1), replacement=True)
    item = 6 * rank.view(n, longest + 1) + taste[user][:, None]
    length = torch.randint(0, longest + 1, (n, 1))
    history = torch.where(torch.arange(longest) < length, item[:, 1:] + 1, 0)
    return torch.cat([user[:, None], history], 1), item[:, 0]


def build():
    seed(0)
    X, Y = visits(2000)
    model = TwoTower()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return (
        model,
        optimizer,
        CE(label_smoothing=0.05),
        Batches(X, Y, 64, 10),
        dict(
            name="h64_two_tower_long_tail",
            label="healthy",
            tricky="integer inputs, long-tail embedding rows, a padding row that is always zero, one weight used twice",
            layers_at_fault=[],
            source="control",
        ),
    )
