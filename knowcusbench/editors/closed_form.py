"""The arithmetic of UltraEdit (arXiv 2505.14679), exact and in its small form."""

from typing import Protocol

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Relative deviation, in fp64, below which a component counts as constant. A bf16 or fp32 value that does change
deviates by at least 1e-7."""


class Moments(Protocol):
    """Statistics of rows that come in chunks."""

    def update(self, rows: Tensor) -> None:
        """Take in rows (n, d)."""

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (n, d) minus the mean, over the standard deviation."""


class RunningMoments:
    """Mean and variance of rows that come in chunks, exact for any chunking (Chan et al. 1979), in fp64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        """Take in rows (n, d)."""
        rows = rows.double()
        count, mean = len(rows), rows.mean(0)
        squares = (rows - mean).square().sum(0)
        if not self.count:
            self.count, self.mean, self._squares = count, mean, squares
            return
        total = self.count + count
        difference = mean - self.mean
        self._squares = self._squares + squares + difference.square() * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        """Standard deviation (d,) with Bessel's correction. One where there is none: a single row, or a component
        that never changes (up to rounding), is not scaled."""
        std = (self._squares / max(self.count - 1, 1)).sqrt()
        return torch.where(std > ROUNDING * self.mean.abs(), std, torch.ones_like(std))

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (n, d) minus the mean, over the standard deviation, in fp64."""
        return (rows.double() - self.mean) / self.std


class PublishedMoments:
    """The running statistics of UltraEdit's published code (`nets.py` of github.com/XiaojieGu/UltraEdit), in fp32.

    A chunk of m rows x, added to n earlier ones, n' = n + m, with d = mean(x) - mean:

        mean += m d / n'        var += m var(x) + n m d^2 / n'        std = sqrt(var / (n' - 1 + eps))

    `var(x)` has Bessel's correction, so that every chunk counts its squares m / (m - 1) times, and a chunk of a single
    row gives NaN: `update` refuses it with ValueError.
    """

    EPSILON = torch.finfo(torch.float32).eps

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.var = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        if len(rows) < 2:
            raise ValueError("the variance of a single row is NaN")
        rows = rows.float()
        count, total = len(rows), self.count + len(rows)
        difference = rows.mean(0) - self.mean
        between = self.count * count * difference.square() / total
        self.mean = self.mean + count * difference / total
        self.var = self.var + (count * rows.var(0) + between)
        self.count = total

    @property
    def std(self) -> Tensor:
        return (self.var / (self.count - 1 + self.EPSILON)).sqrt()

    def normalise(self, rows: Tensor) -> Tensor:
        return (rows.float() - self.mean) / (self.std + self.EPSILON)


def edit_values(keys: Tensor, gradients: Tensor, moments: Moments, eta: float) -> Tensor:
    """The wanted change of a linear layer's output at each captured row: `V = -eta * |h|^2 * g`.

    `keys` (n, d_in) are the layer's inputs h and `gradients` (n, d_out) the loss gradients g at its output; both enter
    normalised, together, by `moments` over rows of `[h, g]`. Returns (n, d_out) in the precision of the moments.
    """
    normalised = moments.normalise(torch.cat([keys, gradients], dim=1))
    h, g = normalised[:, : keys.shape[1]], normalised[:, keys.shape[1] :]
    return -eta * h.square().sum(1, keepdim=True) * g


def edit_factors(
    keys: Tensor, values: Tensor, protected: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """The change of the weight, `(H^T H + I)^-1 H^T V` transposed, as factors `(down, up)`: delta W = up @ down.

    `keys` H (n, d_in), `values` V (n, d_out). By the push-through identity it equals `H^T (H H^T + I)^-1 V`: an n x n
    solve instead of d_in x d_in, exact, of rank at most n. Returns H (n, d_in) and ((H H^T + I)^-1 V)^T (d_out, n), in
    `dtype`.

    With an orthonormal basis U (d_in, k) of `protected` directions the change is AlphaEdit's (arXiv 2410.02355),
    `P H^T (H P H^T + I)^-1 V` with the projector P = I - U U^T, which is never formed: P is its own square, so that
    projecting the keys is all. Inputs in the span of U then give the same outputs as before.
    """
    keys, values = keys.to(dtype), values.to(dtype)
    if protected is not None:
        protected = protected.to(dtype)
        keys = keys - (keys @ protected) @ protected.T
    gram = keys @ keys.T + torch.eye(len(keys), dtype=dtype, device=keys.device)
    return keys, torch.linalg.solve(gram, values).T


def published_factors(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same change by the published code's solve: d_in x d_in, in fp32.

    Its right-hand side there is `H^T V`; here it is `H^T`, and V stays a factor. Returns (n, d_in), (d_out, n).
    """
    keys, values = keys.float(), values.float()
    gram = keys.T @ keys + torch.eye(keys.shape[1], device=keys.device)
    return torch.linalg.solve(gram, keys.T).T, values.T


def leading_directions(rows: Tensor, energy: float) -> Tensor:
    """An orthonormal basis (d, k) of the fewest right singular directions of `rows` (m, d) that hold `energy` (0..1] of
    their squared Frobenius norm, in fp64."""
    _, singular, right = torch.linalg.svd(rows.double(), full_matrices=False)
    basis: Tensor = right[: _rank(singular, energy)].T
    return basis


def recompress(down: Tensor, up: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The fewest balanced factors of `up @ down` that keep `energy` (0..1] of its squared Frobenius norm.

    The singular values are shared equally between two factors with orthogonal directions, so that rounding them to bf16
    costs no more than bf16's own precision; raw factors of near-parallel rows cancel and lose everything. `down` (n,
    d_in), `up` (d_out, n) -> (r, d_in), (d_out, r) with 1 <= r <= n.
    """
    q_down, r_down = torch.linalg.qr(down.T.double())
    q_up, r_up = torch.linalg.qr(up.double())
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    rank = _rank(singular, energy)
    root = singular[:rank].sqrt()
    return (root[:, None] * right[:rank]) @ q_down.T, q_up @ (left[:, :rank] * root)


def _rank(singular: Tensor, energy: float) -> int:
    """How many of the descending singular values hold `energy` of the sum of their squares; at least one."""
    squared = singular.square().cumsum(0)
    return min(int((squared < energy * squared[-1]).sum()) + 1, len(singular))


def frobenius_norm(down: Tensor, up: Tensor) -> float:
    """The Frobenius norm of `up @ down`, from the triangular factors alone: nothing of its size is formed, and nothing
    is squared. `down` (n, d_in), `up` (d_out, n)."""
    return float((_triangle(up) @ _triangle(down.T).T).norm())


def _triangle(matrix: Tensor) -> Tensor:
    triangle: Tensor = torch.linalg.qr(matrix.double(), mode="r").R
    return triangle


def relative_error(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """The norm of the difference of two changes in factors `(down, up)`, over that of the exact one; 0 if both are
    zero."""
    down = torch.cat([exact[0].double(), found[0].double()])
    up = torch.cat([exact[1].double(), -found[1].double()], dim=1)
    norm = frobenius_norm(*exact)
    return frobenius_norm(down, up) / norm if norm else 0.0
