"""States carried through time: cells in loops, packed sequences, stacks, memories, labels in chains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .entry import floats, ids, wild

SERIES = lambda: (floats(2, 7, 6),)
SHORTER = [lambda: (floats(3, 4, 6),)]


@wild(lambda: (ids(15, 2, 6), ids(11, 2, 4)), fresh=[lambda: (ids(15, 3, 5), ids(11, 3, 3))])
class Seq2SeqAttention(nn.Module):
    """A bidirectional LSTM, additive attention, a decoder cell fed with its context."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(15, 8), nn.Embedding(11, 6)
        self.encoder, self.bridge = nn.LSTM(8, 10, bidirectional=True, batch_first=True), nn.Linear(20, 12)
        self.cell = nn.LSTMCell(6 + 20, 12)
        self.wk, self.wq, self.v = nn.Linear(20, 9, bias=False), nn.Linear(12, 9), nn.Linear(9, 1, bias=False)
        self.out = nn.Linear(12 + 20 + 6, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, (h, _) = self.encoder(self.source(source))
        h = torch.tanh(self.bridge(torch.cat([h[0], h[1]], 1)))
        c, keys, outs = torch.zeros_like(h), self.wk(memory), []
        for t in range(target.shape[1]):
            scores = self.v(torch.tanh(keys + self.wq(h)[:, None])).squeeze(-1).softmax(-1)
            context = torch.bmm(scores[:, None], memory).squeeze(1)
            word = self.target(target[:, t])
            h, c = self.cell(torch.cat([word, context], 1), (h, c))
            outs.append(self.out(torch.cat([h, context, word], 1)))
        return torch.stack(outs, 1)


@wild(SERIES, fresh=SHORTER)
class CellsInALoop(nn.Module):
    """A GRU cell and an RNN cell, states made by `new_zeros` from attributes of the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 10
        self.gru, self.rnn, self.out = nn.GRUCell(6, self.hidden), nn.RNNCell(self.hidden, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.new_zeros(len(x), self.hidden), x.new_zeros(len(x), self.rnn.hidden_size)
        for t in range(x.shape[1]):
            a = self.gru(x[:, t], a)
            b = self.rnn(a, b)
        return self.out(b)


@wild(SERIES, fresh=SHORTER)
class LSTMByHand(nn.Module):
    """Four gates in one linear, `chunk(4)`, with peepholes and layer norms on the gates."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 10
        self.x, self.h, self.peep = nn.Linear(6, 40), nn.Linear(10, 40, bias=False), nn.Parameter(torch.randn(3, 10))
        self.norm, self.out = nn.LayerNorm(10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(0), self.size).to(x)
        for step in x.unbind(1):
            i, f, g, o = (self.x(step) + self.h(h)).chunk(4, 1)
            i, f = torch.sigmoid(i + self.peep[0] * c), torch.sigmoid(f + self.peep[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(self.norm(c))
        return self.out(h)


@wild(lambda: (floats(3, 5, 6), torch.tensor([5, 3, 2])))
class PackedLSTM(nn.Module):
    """Packed sequences, two layers, last states of both directions concatenated; the packed output too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True, dropout=0.2), nn.Linear(16, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed, (h, _) = self.lstm(pack_padded_sequence(x, lengths, batch_first=True))
        states, _ = pad_packed_sequence(packed, batch_first=True)
        return self.out(torch.cat([h[-2], h[-1]], 1)), self.out(states).sum(1)


@wild(SERIES)
class ProjectedLSTM(nn.Module):
    """`proj_size`, initial states as parameters, and a stack of GRU over it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.out = (
            nn.LSTM(6, 10, proj_size=5, batch_first=True),
            nn.GRU(5, 7, batch_first=True),
            nn.Linear(7, 3),
        )
        self.h0, self.c0 = nn.Parameter(torch.randn(1, 1, 5)), nn.Parameter(torch.randn(1, 1, 10))

    def forward(self, x: Tensor) -> Tensor:
        state = (self.h0.expand(-1, len(x), -1).contiguous(), self.c0.repeat(1, len(x), 1))
        return self.out(self.gru(self.lstm(x, state)[0])[0][:, -1])


@wild(lambda: (floats(2, 3, 4, 6, 6),))
class ConvLSTM(nn.Module):
    """Convolutional gates split by an attribute, states by `torch.zeros(b, self.hidden, h, w)`."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.conv, self.out = nn.Conv2d(4 + 6, 4 * self.hidden, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _, height, width = x.shape
        h, c = (torch.zeros(b, self.hidden, height, width).to(x) for _ in range(2))
        for i in range(t):
            gates = self.conv(torch.cat([x[:, i], h], 1))
            a, f, o, g = torch.split(gates, self.hidden, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(a) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


@wild(lambda: (ids(20, 2, 6), ids(4, 2, 6)), uses=[lambda m: m.decode(torch.arange(6).view(1, 6))])
class CRF(nn.Module):
    """A tagger with transitions: forward algorithm in a loop, and Viterbi in another method."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.emit = (
            nn.Embedding(20, 8),
            nn.LSTM(8, 10, bidirectional=True, batch_first=True),
            nn.Linear(20, 4),
        )
        self.transitions, self.start = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def emissions(self, tokens: Tensor) -> Tensor:
        """Scores of tags."""
        return self.emit(self.lstm(self.embed(tokens))[0])

    def forward(self, tokens: Tensor, tags: Tensor) -> Tensor:
        e = self.emissions(tokens)
        score, alpha = self.start[tags[:, 0]] + e[:, 0].gather(1, tags[:, :1]).squeeze(1), self.start + e[:, 0]
        for t in range(1, tokens.shape[1]):
            score = (
                score + self.transitions[tags[:, t - 1], tags[:, t]] + e[:, t].gather(1, tags[:, t : t + 1]).squeeze(1)
            )
            alpha = torch.logsumexp(alpha[:, :, None] + self.transitions, 1) + e[:, t]
        return (alpha.logsumexp(1) - score).mean()

    def decode(self, tokens: Tensor) -> list[list[int]]:
        """The best tags."""
        e = self.emissions(tokens)
        score, back = self.start + e[:, 0], []
        for t in range(1, tokens.shape[1]):
            best = (score[:, :, None] + self.transitions).max(1)
            score = best.values + e[:, t]
            back.append(best.indices)
        path = [score.argmax(1)]
        for pointers in reversed(back):
            path.append(pointers.gather(1, path[-1][:, None]).squeeze(1))
        return torch.stack(path[::-1], 1).tolist()


@wild(lambda: (ids(20, 2, 8), floats(2)))
class TreeOfStates(nn.Module):
    """A binary tree of composed vectors, a stack in Python, a bilinear scorer (nn.Bilinear)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.score, self.out = nn.Bilinear(8, 8, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        stack = list(self.embed(tokens).unbind(1))
        while len(stack) > 2:
            a, b = stack.pop(), stack.pop()
            stack.insert(0, torch.tanh(self.left(a) + self.right(b)))
        return self.out(torch.relu(self.score(*stack))) * scale[:, None]


@wild(SERIES, fresh=SHORTER)
class EchoState(nn.Module):
    """A fixed random reservoir in buffers, sparse, with its spectral radius set."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inside", torch.randn(16, 16) / 6)
        self.register_buffer("inward", torch.randn(16, 6))
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), len(self.inside))
        for t in range(x.shape[1]):
            h = 0.7 * h + 0.3 * torch.tanh(x[:, t] @ self.inward.T + h @ self.inside.T)
        return self.out(h)


@wild(lambda: (floats(2, 4, 6), floats(2, 5, 6)))
class MemoryNetwork(nn.Module):
    """A neural Turing machine in small: content addressing, erase and add, read heads."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.width = 5, 7
        self.controller, self.keys = nn.GRUCell(6 + 7, 10), nn.Linear(10, 7 + 1)
        self.erase, self.add, self.out = nn.Linear(10, 7), nn.Linear(10, 7), nn.Linear(10 + 7, 3)
        self.load = nn.Linear(6, 7)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        memory = self.load(memory)
        h, read = x.new_zeros(len(x), 10), memory.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            h = self.controller(torch.cat([x[:, t], read], 1), h)
            key, beta = self.keys(h).split([self.width, 1], 1)
            where = (F.softplus(beta) * F.cosine_similarity(memory, key[:, None], dim=-1)).softmax(-1)
            memory = (
                memory * (1 - where[..., None] * torch.sigmoid(self.erase(h))[:, None])
                + where[..., None] * self.add(h)[:, None]
            )
            read = (where[..., None] * memory).sum(1)
        return self.out(torch.cat([h, read], 1))


@wild(lambda: (floats(2, 6),))
class CellWithAFixedStart(nn.Module):
    """A cell that always starts from the same state: only the kernel says that it has the size of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(6, 20), nn.Linear(20, 2)
        self.register_buffer("start", torch.randn(2, 20))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x, self.start))
