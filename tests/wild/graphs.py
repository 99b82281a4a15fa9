"""Graphs, points, spectra and capsules: indices, scatters, transforms, routing, geometry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, wild

GRAPH = lambda: (floats(7, 6), torch.randint(0, 7, (2, 15)))
OTHER = [lambda: (floats(4, 6), torch.randint(0, 4, (2, 9)))]


@wild(GRAPH, fresh=OTHER)
class GCN(nn.Module):
    """`index_add_` of normalised messages, batch norm, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.norm, self.skip = (
            nn.Linear(6, 12),
            nn.Linear(12, 4),
            nn.BatchNorm1d(12),
            nn.Linear(6, 12),
        )

    def spread(self, x: Tensor, edges: Tensor) -> Tensor:
        """Sum over neighbours."""
        degree = torch.zeros(len(x)).to(x).index_add_(0, edges[1], torch.ones(edges.shape[1]).to(x)).clamp(min=1)
        weight = (degree[edges[0]] * degree[edges[1]]).rsqrt()[:, None]
        return torch.zeros_like(x).index_add_(0, edges[1], x[edges[0]] * weight)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = F.relu(self.norm(self.spread(self.w1(x), edges)) + self.skip(x))
        return self.w2(self.spread(h, edges))


@wild(GRAPH, fresh=OTHER)
class GAT(nn.Module):
    """Heads, leaky scores, a softmax over each node's edges by `scatter_reduce` and `scatter_add_`."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 3, 4
        self.w, self.a, self.b = (
            nn.Linear(6, 12, bias=False),
            nn.Parameter(torch.randn(3, 4)),
            nn.Parameter(torch.randn(3, 4)),
        )
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        h = self.w(x).view(-1, self.heads, self.size)
        score = F.leaky_relu((h * self.a).sum(-1)[source] + (h * self.b).sum(-1)[target], 0.2)
        place = target[:, None].expand_as(score)
        top = torch.full((len(x), self.heads), -1e9).to(x).scatter_reduce(0, place, score, "amax")
        weight = (score - top[target]).exp()
        total = torch.zeros(len(x), self.heads).to(x).scatter_add_(0, place, weight)
        message = h[source] * (weight / (total[target] + 1e-9))[..., None]
        gathered = torch.zeros_like(h).scatter_add_(0, target[:, None, None].expand_as(message), message)
        return self.out(F.elu(gathered.flatten(1)))


@wild(GRAPH, fresh=OTHER)
class EdgeConditioned(nn.Module):
    """A network makes a matrix for each edge (NNConv), then a GRU updates; set2set-like readout."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.edge = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 36))
        self.gru, self.gate, self.out = nn.GRUCell(6, 6), nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        matrices = self.edge((x[edges[0]] - x[edges[1]]).norm(dim=1, keepdim=True)).view(-1, self.width, self.width)
        h = x
        for _ in range(2):
            messages = torch.einsum("eij,ej->ei", matrices, h[edges[0]])
            h = self.gru(torch.zeros_like(h).index_add(0, edges[1], messages), h)
        return self.out((self.gate(h).softmax(0) * h).sum(0, keepdim=True))


@wild(GRAPH, fresh=OTHER)
class SageWithSparse(nn.Module):
    """A sparse adjacency, mean aggregation by `torch.sparse.mm`, concatenation, l2 normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(12, 10), nn.Linear(20, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[0]
        adjacency = torch.sparse_coo_tensor(edges.flip(0), torch.ones(edges.shape[1]).to(x), (n, n))
        degree = torch.sparse.sum(adjacency, 1).to_dense().clamp(min=1)[:, None]
        h = F.relu(self.w1(torch.cat([x, torch.sparse.mm(adjacency, x) / degree], 1)))
        h = F.normalize(h, dim=1)
        return self.w2(torch.cat([h, torch.sparse.mm(adjacency, h) / degree], 1))


@wild(GRAPH, fresh=OTHER)
class JumpingKnowledge(nn.Module):
    """All layers' states stacked, the maximum kept; GIN sums with a learned epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(10, 14), nn.ReLU(), nn.Linear(14, 10)) for _ in range(3))
        self.eps, self.out = nn.Parameter(torch.zeros(3)), nn.Linear(10, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h, states = self.inp(x), []
        for i, layer in enumerate(self.layers):
            near = torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])
            h = layer((1 + self.eps[i]) * h + near)
            states.append(h)
        return self.out(torch.stack(states).amax(0))


@wild(lambda: (floats(7, 6), torch.tensor([0, 0, 0, 1, 1, 1, 1])))
class GraphPooling(nn.Module):
    """Scores choose the best half of the nodes (`topk`), means of each graph by `bincount`."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.score, self.out = nn.Linear(6, 12), nn.Parameter(torch.randn(12)), nn.Linear(12, 3)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        score = h @ self.score / self.score.norm()
        best = score.topk(4).indices
        h, graph = h[best] * torch.tanh(score[best])[:, None], graph[best]
        count = torch.bincount(graph, minlength=2).clamp(min=1).to(h)
        return self.out(h.new_zeros(2, h.shape[1]).index_add(0, graph, h) / count[:, None])


@wild(lambda: (floats(5, 6), floats(5, 3)))
class EGNN(nn.Module):
    """Equivariant: features and coordinates updated from distances between all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(13, 16), nn.SiLU(), nn.Linear(16, 10), nn.SiLU())
        self.node, self.coordinate = (
            nn.Sequential(nn.Linear(16, 12), nn.SiLU(), nn.Linear(12, 6)),
            nn.Linear(10, 1, bias=False),
        )

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(h)
        gap = x[:, None] - x[None]
        pairs = torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1), gap.pow(2).sum(-1, keepdim=True)], -1)
        m = self.edge(pairs)
        return h + self.node(torch.cat([h, m.sum(1)], -1)), x + (gap * self.coordinate(m)).mean(1)


@wild(lambda: (floats(2, 16, 3),), fresh=[lambda: (floats(1, 20, 3),)])
class PointNet(nn.Module):
    """A spatial transformer of the input, shared MLPs, a maximum, and segmentation from the joined vector."""

    def __init__(self) -> None:
        super().__init__()
        self.tnet = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU())
        self.tfc = nn.Linear(8, 9)
        self.mlp1, self.mlp2 = nn.Sequential(nn.Conv1d(3, 10, 1), nn.BatchNorm1d(10), nn.ReLU()), nn.Conv1d(10, 16, 1)
        self.segment = nn.Sequential(nn.Conv1d(26, 12, 1), nn.ReLU(), nn.Conv1d(12, 4, 1))

    def forward(self, points: Tensor) -> Tensor:
        x = points.mT
        turn = self.tfc(self.tnet(x).amax(2)).view(-1, 3, 3) + torch.eye(3).to(x)
        h = self.mlp1((points @ turn).mT)
        whole = self.mlp2(h).amax(2, keepdim=True).repeat(1, 1, x.shape[2])
        return self.segment(torch.cat([h, whole], 1))


@wild(lambda: (floats(2, 10, 3),))
class EdgeConv(nn.Module):
    """DGCNN: nearest neighbours by distance in feature space, gathered, differences concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.out = nn.Conv2d(6, 8, 1), nn.Conv2d(16, 12, 1), nn.Linear(20, 5)

    def edges(self, x: Tensor, k: int = 3) -> Tensor:
        """Neighbours minus centre, and centre."""
        b, c, n = x.shape
        near = torch.cdist(x.mT, x.mT).topk(k, largest=False).indices
        flat = (near + torch.arange(b)[:, None, None] * n).view(-1)
        neighbours = x.mT.reshape(b * n, c)[flat].view(b, n, k, c)
        centre = x.mT[:, :, None].expand(-1, -1, k, -1)
        return torch.cat([neighbours - centre, centre], -1).permute(0, 3, 1, 2)

    def forward(self, points: Tensor) -> Tensor:
        a = F.leaky_relu(self.conv1(self.edges(points.mT))).amax(-1)
        b = F.leaky_relu(self.conv2(self.edges(a))).amax(-1)
        return self.out(torch.cat([a, b], 1).mean(-1))


@wild(lambda: (floats(3, 5, 4),), fresh=[lambda: (floats(2, 8, 4),)])
class DeepSets(nn.Module):
    """A sum over elements, a set transformer's pooling by a learned seed, sorted pooling of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = (
            nn.Sequential(nn.Linear(4, 10), nn.ELU(), nn.Linear(10, 8)),
            nn.Sequential(nn.Linear(8 + 8, 6), nn.ELU(), nn.Linear(6, 2)),
        )
        self.seed = nn.Parameter(torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.phi(x)
        weights = (self.seed @ h.mT / 3).softmax(-1)
        return self.rho(torch.cat([h.sum(1), (weights @ h).squeeze(1)], 1))
