"""Two-tower recommender that sums, not averages, the embeddings of a user's history: the tower's tanh saturates."""

import torch
from _common import Batches, seed
from torch import nn

ITEMS = 200
HISTORY = 60


class TwoTower(nn.Module):
    """Columns of x: the item offered, then the user's history of items."""

    def __init__(self, mode, dim=32):
        super().__init__()
        self.history = nn.EmbeddingBag(ITEMS, dim, mode=mode)
        self.user0 = nn.Linear(dim, dim)
        self.user_act0 = nn.Tanh()
        self.user1 = nn.Linear(dim, dim)
        self.user_act1 = nn.Tanh()
        self.item = nn.Embedding(ITEMS, dim)
        self.item0 = nn.Linear(dim, dim)
        self.item_act0 = nn.Tanh()
        self.item1 = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        user = self.user_act0(self.user0(self.history(x[:, 1:])))
        user = self.user_act1(self.user1(user))
        item = self.item1(self.item_act0(self.item0(self.item(x[:, 0]))))
        return (user * item).sum(1) + self.bias


def clicks(n):
    """Users draw most of their history from one of four genres, and click on offers of the same genre."""
    genre = torch.randint(0, 4, (n, 1))
    own = torch.rand(n, HISTORY) < 0.5
    history = torch.randint(0, ITEMS, (n, HISTORY))
    history = torch.where(own, history // 4 * 4 + genre, history)
    offer = torch.randint(0, ITEMS, (n, 1))
    clicked = (offer % 4 == genre) ^ (torch.rand(n, 1) < 0.05)
    return torch.cat([offer, history], 1), clicked[:, 0].float()


def build(repaired=False):
    seed(0)
    X, Y = clicks(2000)
    model = TwoTower(mode="mean" if repaired else "sum")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return (
        model,
        optimizer,
        nn.BCEWithLogitsLoss(),
        Batches(X, Y, 32, 5),
        dict(
            name="f65_two_tower_history_sum",
            label="saturation",
            also=["not_learning"],
            layers_at_fault=["user_act0", "user_act1", "item_act0", "user0", "history"],
            source="constructed: EmbeddingBag(mode='sum') over long histories with the default N(0, 1) embeddings",
        ),
    )
