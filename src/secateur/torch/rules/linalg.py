"""Functions of whole matrices, of their diagonals, and of pairs of points.

inv(A), solve(A, B), svd(A), …   every number of a matrix goes into every one of the result: its dimensions are frozen,
                                 those of the batch go through
diag(v), trace(A)                one dimension twice
cdist(a, b), dist(a, b)          a sum over the coordinates
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.space import ONE, Space, concat, constant, freeze, mark_inexact
from secateur.torch.rules.protocol import Outputs, Trace, tensors_of
from secateur.torch.rules.registry import Sample, rule, sample


@rule(
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "_cholesky_solve_helper",
    "geqrf",
    "linalg_cholesky_ex",
    "_linalg_det",
    "linalg_eig",
    "_linalg_eigh",
    "_linalg_eigvals",
    "linalg_eigvals",
    "linalg_householder_product",
    "linalg_inv_ex",
    "linalg_ldl_factor_ex",
    "linalg_ldl_solve",
    "linalg_lstsq",
    "linalg_lu",
    "linalg_lu_factor_ex",
    "linalg_lu_solve",
    "linalg_matrix_exp",
    "linalg_pinv",
    "linalg_qr",
    "_linalg_slogdet",
    "_linalg_svd",
    "lu_unpack",
    "ormqr",
    "triangular_solve",
)
def of_a_whole_matrix(trace: Trace, out: Outputs, *args: object, **kwargs: object) -> None:
    """What narrows one of its rows changes all of what it gives: no weights make it the same function.

    Each matrix of a batch is a function of its own.
    """
    reason = f"{trace.where} is a function of the whole matrix"
    given = [a for a in args if isinstance(a, Tensor) and a.dim()]
    shape = given[0].shape[:-2]
    batch = list(trace.spaces(given[0])[: len(shape)])
    for tensor in given:
        own = tensor.shape[: len(shape)] == shape
        for place, space in enumerate(trace.spaces(tensor)):
            if own and place < len(shape):
                batch[place] = trace.same(batch[place], space)
            else:
                freeze(space, reason)
    if any(tensor.shape[: len(shape)] != shape for tensor in given):
        for space in batch:
            freeze(space, reason)
    for place, space in enumerate(batch):
        if any(trace.zero(tensor)[place] for tensor in given):
            mark_inexact(space, f"{trace.where} may not be defined at zero")
    for result in tensors_of(out):
        ahead = len(shape) if result.shape[: len(shape)] == shape else 0
        rest = [constant(n, reason if n != 1 else ONE) for n in result.shape[ahead:]]
        trace.put(result, [*batch[:ahead], *rest])


@rule("_linalg_solve_ex", "linalg_solve_triangular")
def solve(trace: Trace, out: Outputs, a: Tensor, b: Tensor, *, left: bool = True, **kwargs: object) -> None:
    """Each column of the right side is solved for by itself; a column of zeros gives zeros."""
    column, zero = trace.spaces(b)[-1], trace.zero(b)[-1]
    matrices = b.dim() == a.dim() and b.shape[:-2] == a.shape[:-2]
    if not (left and matrices):
        of_a_whole_matrix(trace, out, a, b)
        return
    reason = f"{trace.where} is a function of the whole matrix"
    for space in (*trace.spaces(a)[-2:], trace.spaces(b)[-2]):
        freeze(space, reason)
    batch = [trace.same(x, y) for x, y in zip(trace.spaces(a)[:-2], trace.spaces(b)[:-2], strict=True)]
    for place, space in enumerate(batch):
        if trace.zero(a)[place]:
            mark_inexact(space, f"{trace.where} may not be defined at zero")
    result, *others = tensors_of(out)
    rows = constant(result.shape[-2], reason if result.shape[-2] != 1 else ONE)
    trace.put(result, [*batch, rows, column], [*[False] * (len(batch) + 1), zero])
    for other in others:
        trace.put(other, [*batch, *(constant(n, reason if n != 1 else ONE) for n in other.shape[len(batch) :])])


@rule("_linalg_check_errors")
def only_checks(trace: Trace, out: None, *args: object, **kwargs: object) -> None:
    """Whether all matrices could be treated: nothing comes of it but an error."""


@rule("linalg_cross")
def cross(trace: Trace, out: Tensor, a: Tensor, b: Tensor, *, dim: int = -1) -> None:
    """Three coordinates, each of which is told by its place."""
    spaces = []
    for place in range(out.dim()):
        there = [trace.spaces(t)[place] for t in (a, b) if t.shape[place] == out.shape[place] != 1]
        spaces.append(there[0] if there else constant(1, ONE))
        for other in there[1:]:
            spaces[-1] = trace.same(spaces[-1], other)
    freeze(spaces[dim], f"coordinates in {trace.where}")
    zero = [
        any(t.shape[place] == out.shape[place] and trace.zero(t)[place] for t in (a, b)) for place in range(out.dim())
    ]
    trace.put(out, spaces, zero)


@rule("diag_embed")
def diag_embed(trace: Trace, out: Tensor, x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    """A vector on the diagonal of a matrix of zeros: its dimension twice."""
    if offset:
        raise NotImplementedError("an off-centre diagonal")
    places = {dim1 % out.dim(), dim2 % out.dim()}
    rest = iter(zip(trace.spaces(x)[:-1], trace.zero(x)[:-1], strict=True))
    both = trace.spaces(x)[-1], trace.zero(x)[-1]
    found = [both if place in places else next(rest) for place in range(out.dim())]
    trace.put(out, [space for space, _ in found], [zero for _, zero in found])


@rule("block_diag")
def block_diag(trace: Trace, out: Tensor, blocks: list[Tensor]) -> None:
    """Matrices one after another along both dimensions, zeros around them."""
    pairs: list[tuple[Space, Space]] = []
    zero = [True, True]
    for block in blocks:
        spaces = [*(constant(1, "a single row") for _ in range(2 - block.dim())), *trace.spaces(block)]
        flags = [*(False for _ in range(2 - block.dim())), *trace.zero(block)]
        pairs.append((spaces[0], spaces[1]))
        zero = [kept and flag for kept, flag in zip(zero, flags, strict=True)]
    sides = [[s if s.root().size != 1 else constant(1, "a single part") for s in side] for side in zip(*pairs)]
    trace.put(out, [concat(side) for side in sides], zero)


@rule("trace")
def trace_(trace: Trace, out: Tensor, x: Tensor) -> None:
    if x.shape[0] != x.shape[1]:
        raise NotImplementedError("a diagonal that ends before the matrix does")
    trace.contract(trace.same(*trace.spaces(x)), zero=any(trace.zero(x)))
    trace.put(out, [])


@rule("dist")
def dist(trace: Trace, out: Tensor, a: Tensor, b: Tensor, p: float = 2) -> None:
    """The norm of a difference."""
    for back in range(1, max(a.dim(), b.dim()) + 1):
        there = [t for t in (a, b) if t.dim() >= back and t.shape[-back] != 1]
        if there:
            space = trace.spaces(there[0])[-back]
            for other in there[1:]:
                space = trace.same(space, trace.spaces(other)[-back])
            trace.contract(space, zero=p > 0 and len(there) == 2 and all(trace.zero(t)[-back] for t in there))
    trace.put(out, [])


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def cdist(trace: Trace, out: Tensor, a: Tensor, b: Tensor, *args: object) -> None:
    shared = trace.same(trace.spaces(a)[-1], trace.spaces(b)[-1])
    trace.contract(shared, zero=trace.zero(a)[-1] and trace.zero(b)[-1])
    batch = [constant(n, "batch") for n in out.shape[:-2]]
    if a.dim() == b.dim() and a.shape[:-2] == b.shape[:-2]:
        batch = [trace.same(x, y) for x, y in zip(trace.spaces(a)[:-2], trace.spaces(b)[:-2], strict=True)]
    trace.put(out, [*batch, trace.spaces(a)[-2], trace.spaces(b)[-2]])


@rule("_pdist_forward")
def pdist(trace: Trace, out: Tensor, x: Tensor, p: float = 2) -> None:
    """The distances of all pairs of rows, one after another."""
    freeze(trace.spaces(x)[0], f"its pairs are numbered in {trace.where}")
    trace.contract(trace.spaces(x)[1], zero=trace.zero(x)[1] and p > 0)
    trace.put(out, [constant(n, "pairs" if n != 1 else ONE) for n in out.shape])


@sample("linalg_matrix_exp", "linalg_qr")
def _of_a_whole_matrix() -> Sample:
    return Sample(
        lambda x, w: (x @ w) @ torch.linalg.matrix_exp(w.T @ w) + torch.linalg.qr(w.T @ w)[0][0], (3, 4), (4, 5)
    )


@sample("linalg_inv_ex", "_linalg_solve_ex", "linalg_cholesky_ex")
def _of_many_matrices() -> Sample:
    def function(x: Tensor, w: Tensor) -> Tensor:
        square = x @ x.transpose(1, 2) + torch.eye(3)
        found = torch.linalg.solve(square, x) + torch.linalg.inv(square) @ x + torch.linalg.cholesky(square) @ x
        return (found * w[:, None, None]).sum((1, 2))

    return Sample(function, (4, 3, 3), (4,))


@sample("_linalg_solve_ex", "linalg_solve_triangular")
def _solved() -> Sample:
    def function(a: Tensor, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        square = a @ a.transpose(1, 2) + torch.eye(3)
        found = torch.linalg.solve(square, x @ y)
        return torch.linalg.solve_triangular(square.tril(), found, upper=False) @ w

    return Sample(function, (2, 3, 3), (2, 3, 6), (6, 4), (4, 5))


@sample("linalg_cross")
def _cross() -> Sample:
    return Sample(lambda a, b: torch.linalg.cross(a, b) + torch.linalg.cross(a, b[:1]), (4, 3), (4, 3))


@sample("diag_embed", "trace", "block_diag")
def _diagonals() -> Sample:
    def function(v: Tensor, x: Tensor, w: Tensor) -> Tensor:
        both = torch.block_diag(x, w) @ torch.cat([v, v])
        return torch.trace(x @ torch.diag_embed(v) @ w.t()) + both

    return Sample(function, (4,), (4, 4), (4, 4))


@sample("dist", "_pdist_forward")
def _distances() -> Sample:
    return Sample(lambda a, b: (torch.dist(a, b), torch.pdist(a @ b.t() @ b)), (3, 4), (3, 4))
