"""Recurrent layers and attention, padded and packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from tests.observing import assert_told, last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recurrent(nn.Module):
    """Packed LSTM, GRU and a cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.cell, self.head = nn.LSTM(4, 5), nn.GRU(5, 6), nn.LSTMCell(6, 3), nn.Linear(3, 1)
        self.lengths, self.kept = torch.tensor([7, 5, 2]), {}

    def keep(self, name: str, x: Tensor) -> Tensor:
        self.kept.setdefault(name, []).append(x)
        if x.requires_grad:
            x.retain_grad()
        return x

    def forward(self, x: Tensor) -> Tensor:
        packed, _ = self.lstm(nn.utils.rnn.pack_padded_sequence(x, self.lengths))
        self.kept.clear()
        self.keep("lstm", packed.data)
        padded, _ = nn.utils.rnn.pad_packed_sequence(packed)
        out = self.keep("gru", self.gru(padded)[0])
        state = None
        for row in out[:3]:
            state = self.cell(row, state)
            self.keep("cell", state[0])
        return self.head(state[0])


@regime(
    "outputs and odd tensors",
    "LSTM with a PackedSequence, GRU, LSTMCell in a loop",
    exact="the output sequence (no padding in a packed one) and its gradient; each time step of a cell a site",
    not_observed="gates, hidden and cell states inside",
    proves=("R33", "C14"),
)
def test_R33_recurrent_layers_are_told_exactly() -> None:
    sites = last(run(Recurrent, on(data(7, 3, 4)))).sites
    torch.manual_seed(0)
    model = Recurrent()
    model(data(7, 3, 4)).square().mean().backward()
    kept: dict[str, list[Tensor]] = model.kept
    assert sites["lstm"].n == (7 + 5 + 2) * 5
    for name, out in [("lstm", kept["lstm"][0]), ("gru", kept["gru"][0])]:
        assert_told(sites[name], out, grad=out.grad)
    for index, out in enumerate(kept["cell"]):
        assert_told(sites[f"cell#{index}"], out, grad=out.grad)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x, src_key_padding_mask=self.mask)
        out, weights = self.attend(x, x, x, key_padding_mask=self.mask, need_weights=False)
        assert weights is None
        return out[~self.mask]


@regime(
    "outputs and odd tensors",
    "TransformerEncoderLayer and MultiheadAttention with a padding mask",
    exact="their linear, norm and functional activation sites; the attention's output",
    approximate="padded tokens are counted as all others (no `mask=` option)",
    not_observed="attention weights and scores; MHA's own projection, which it uses without calling it",
    proves=("R33", "R56", "R62", "C5", "C25"),
)
def test_R33_R56_attention_with_a_padding_mask() -> None:
    monitor = run(Attending, on(data(2, 5, 8)), steps=3)
    sites = last(monitor).sites
    assert {"encoder.self_attn", "encoder.linear1", "encoder/relu", "encoder.norm2", "attend"} <= set(sites)
    assert not [name for name in sites if "out_proj" in name]
    assert sites["attend"].n == 2 * 5 * 8, "padding is counted: it is part of the tensor"
    assert all(site.grad_rms for site in sites.values() if site.role != "input")
    assert sites["attend"].grad_zero_fraction == pytest.approx(0.2), "no loss reaches the padding"


@regime(
    "outputs and odd tensors",
    "the fast path of TransformerEncoderLayer in evaluation",
    exact="taken as before after close and on steps that are not observed",
    proves=("R65", "C25"),
)
def test_R65_hooks_do_not_stay_where_the_fast_path_would_not_be_taken() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken = []
    original = torch._transformer_encoder_layer_fwd

    def spy(*args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        return original(*args, **kwargs)

    torch._transformer_encoder_layer_fwd = spy
    try:
        with Monitor(model, optimizer, log_every_n_steps=10, watch_every_n_steps=10, max_overhead=None):
            on(data(2, 5, 8))(model, optimizer)
            with torch.no_grad():
                model.eval()(data(2, 5, 8))
            assert taken == [1], "between two steps that are not observed"
        with torch.no_grad():
            model.eval()(data(2, 5, 8))
        assert taken == [1, 1]
    finally:
        torch._transformer_encoder_layer_fwd = original
