"""Recurrent layers and what reads them: every step, the last step, or the final states.

    tokens ── rnn ── out_BTH ── Linear            hidden units sit in 4 (LSTM), 3 (GRU) or 1 stacked gate blocks

B batch, T tokens, C channels, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .making import Maker, Shape, block


class Recurrent(nn.Module):
    """A recurrent layer and a linear readout at each step; time first or batch first."""

    def __init__(self, rnn: nn.RNNBase, out: int) -> None:
        super().__init__()
        self.rnn = rnn
        self.fc = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        if self.rnn.batch_first:
            return self.fc(self.rnn(x_BTC)[0])
        h, _ = self.rnn(x_BTC.transpose(0, 1).contiguous())
        return self.fc(h).transpose(0, 1)


def _rnn(
    make: Maker, at: Shape, kind: type[nn.LSTM | nn.GRU | nn.RNN], both: bool = False, batch_first: bool = True
) -> nn.RNNBase:
    layers = make.choose.integer(1, 2)
    return kind(at.channels, make.width(at, high=12), layers, batch_first=batch_first, bidirectional=both)


@block("tokens", weight=4)
def lstm(make: Maker, at: Shape) -> nn.Module:
    return Recurrent(_rnn(make, at, nn.LSTM, batch_first=not make.choose.chance(30)), make.width(at))


@block("tokens", weight=3)
def lstm_bidirectional(make: Maker, at: Shape) -> nn.Module:
    return Recurrent(_rnn(make, at, nn.LSTM, both=True), make.width(at))


@block("tokens", weight=4)
def gru(make: Maker, at: Shape) -> nn.Module:
    return Recurrent(_rnn(make, at, nn.GRU, batch_first=not make.choose.chance(30)), make.width(at))


@block("tokens", weight=3)
def gru_bidirectional(make: Maker, at: Shape) -> nn.Module:
    return Recurrent(_rnn(make, at, nn.GRU, both=True), make.width(at))


@block("tokens", weight=3)
def elman_rnn(make: Maker, at: Shape) -> nn.Module:
    return Recurrent(_rnn(make, at, nn.RNN), make.width(at))


class LastState(nn.Module):
    """Reads the final hidden state: both directions side by side, or the last layer's."""

    def __init__(self, rnn: nn.RNNBase, out: int) -> None:
        super().__init__()
        self.rnn = rnn
        self.fc = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        _, state = self.rnn(x_BTC)
        h = state[0] if isinstance(state, tuple) else state
        return self.fc(torch.cat([h[-2], h[-1]], dim=-1) if self.rnn.bidirectional else h[-1])


@block("tokens", to="vector", weight=5)
def rnn_last_state(make: Maker, at: Shape) -> nn.Module:
    kind = make.choose.pick((nn.LSTM, nn.GRU))
    return LastState(_rnn(make, at, kind, both=make.choose.chance(50)), make.width(at))


class CellLoop(nn.Module):
    """A cell called once a step, from states that forward makes with a size kept as an attribute."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell, hidden: int) -> None:
        super().__init__()
        self.cell = cell
        self.hidden = hidden

    def forward(self, x_BTC: Tensor) -> Tensor:
        h = torch.zeros(x_BTC.shape[0], self.hidden, device=x_BTC.device, dtype=x_BTC.dtype)
        c = h.clone()
        outs = []
        for t in range(x_BTC.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x_BTC[:, t], (h, c))
            else:
                h = self.cell(x_BTC[:, t], h)
            outs.append(h)
        return torch.stack(outs, dim=1)


@block("tokens", when=lambda at: at.sizes[0] <= 8, weight=3)
def rnn_cell_loop(make: Maker, at: Shape) -> nn.Module:
    hidden = make.width(at, high=12)
    cell = make.choose.pick((nn.LSTMCell, nn.GRUCell))
    return CellLoop(cell(at.channels, hidden), hidden)


class GatedScan(nn.Module):
    """A linear recurrence by hand: state_t = a * state + b * x_t, with a state axis N beside the channels."""

    def __init__(self, dim: int, state: int) -> None:
        super().__init__()
        self.d_state = state
        self.x_proj = nn.Linear(dim, 2 * state)
        self.log_decay = nn.Parameter(torch.empty(dim, state))
        self.skip = nn.Parameter(torch.empty(dim))

    def forward(self, x_BTC: Tensor) -> Tensor:
        b_BTN, c_BTN = torch.split(self.x_proj(x_BTC), [self.d_state, self.d_state], dim=-1)
        decay_CN = torch.sigmoid(self.log_decay)
        state = x_BTC.new_zeros(x_BTC.shape[0], x_BTC.shape[2], self.d_state)
        outs = []
        for t in range(x_BTC.shape[1]):
            state = state * decay_CN + x_BTC[:, t, :, None] * b_BTN[:, t, None, :]
            outs.append((state * c_BTN[:, t, None, :]).sum(-1))
        return torch.stack(outs, 1) + self.skip * x_BTC


@block("tokens", when=lambda at: at.sizes[0] <= 8, weight=3)
def state_space_scan(make: Maker, at: Shape) -> nn.Module:
    return GatedScan(at.channels, make.choose.integer(2, 6))
