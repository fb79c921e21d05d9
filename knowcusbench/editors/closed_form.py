"""The arithmetic of UltraEdit (arXiv 2505.14679): exact, and as the smaller of two equal solves."""

from typing import Protocol

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Relative deviation, in fp64, below which a component counts as constant. A bf16 or fp32 value that does change
deviates by at least 1e-7."""


class Moments(Protocol):
    """Running mean and standard deviation of rows that arrive in chunks."""

    def update(self, rows: Tensor) -> None:
        """Add rows (n, d) to the statistics."""

    def normalise(self, rows: Tensor) -> Tensor:
        """Return rows (n, d) minus the mean, over the standard deviation."""


class RunningMoments:
    """Mean and variance of rows that arrive in chunks, exact for any chunking (Chan et al. 1979), in fp64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        """Add rows (n, d) to the statistics."""
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
        """Standard deviation (d,) with Bessel's correction.

        It is one where there is none: a single row, or a component that never changes (up to rounding), is not scaled.
        """
        std = (self._squares / max(self.count - 1, 1)).sqrt()
        return torch.where(std > ROUNDING * self.mean.abs(), std, torch.ones_like(std))

    def normalise(self, rows: Tensor) -> Tensor:
        """Return rows (n, d) minus the mean, over the standard deviation, in fp64.

        >>> moments = RunningMoments()
        >>> moments.update(torch.tensor([[1.0], [3.0]]))
        >>> moments.update(torch.tensor([[5.0]]))
        >>> moments.normalise(torch.tensor([[5.0]]))
        tensor([[1.]], dtype=torch.float64)
        """
        return (rows.double() - self.mean) / self.std


class PublishedMoments:
    """The running statistics of UltraEdit's published code (`nets.py` of github.com/XiaojieGu/UltraEdit), in fp32.

    A chunk of m rows x is added to n earlier ones; n' = n + m and d = mean(x) - mean:

        mean += m d / n'        var += m var(x) + n m d^2 / n'        std = sqrt(var / (n' - 1 + eps))

    `var(x)` has Bessel's correction, so every chunk counts its squares m / (m - 1) times. A chunk of a single row gives
    NaN; `update` raises ValueError for it.
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
    """Return the wanted change of a linear layer's output at each captured row: `V = -eta * |h|^2 * g`.

    `keys` (n, d_in) are the layer's inputs h, and `gradients` (n, d_out) the loss gradients g at its output. Both are
    normalised together by `moments` over rows of `[h, g]`. Returns (n, d_out) in the precision of the moments.

    >>> moments = RunningMoments()
    >>> moments.update(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    >>> edit_values(torch.tensor([[3.0, 2.0]]), torch.tensor([[3.0]]), moments, eta=2.0)
    tensor([[-0.7071]], dtype=torch.float64)
    """
    normalised = moments.normalise(torch.cat([keys, gradients], dim=1))
    h, g = normalised[:, : keys.shape[1]], normalised[:, keys.shape[1] :]
    return -eta * h.square().sum(1, keepdim=True) * g


def edit_factors(
    keys: Tensor, values: Tensor, protected: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return the change of the weight, `(H^T H + I)^-1 H^T V` transposed, as factors `(down, up)`: delta W = up @ down.

    `keys` H is (n, d_in), `values` V is (n, d_out). By the push-through identity the change equals `H^T (H H^T + I)^-1
    V`: an n x n solve instead of d_in x d_in, exact, of rank at most n. Returns H (n, d_in) and ((H H^T + I)^-1 V)^T
    (d_out, n), in `dtype`.

    `protected` is an orthonormal basis U (d_in, k) of directions whose outputs stay the same. The change is then
    AlphaEdit's (arXiv 2410.02355), `P H^T (H P H^T + I)^-1 V` with the projector P = I - U U^T. P is its own square, so
    projecting the keys is enough and P is never formed.

    >>> down, up = edit_factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0]]))
    >>> up @ down
    tensor([[2., 0.]], dtype=torch.float64)
    """
    keys, values = keys.to(dtype), values.to(dtype)
    if protected is not None:
        protected = protected.to(dtype)
        keys = keys - (keys @ protected) @ protected.T
    gram = keys @ keys.T + torch.eye(len(keys), dtype=dtype, device=keys.device)
    return keys, torch.linalg.solve(gram, values).T


def published_factors(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same change by the published code's solve: d_in x d_in, in fp32.

    The published right-hand side is `H^T V`; here it is `H^T`, and V stays a factor. Returns (n, d_in), (d_out, n).

    >>> down, up = published_factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0]]))
    >>> up @ down
    tensor([[2., 0.]])
    """
    keys, values = keys.float(), values.float()
    gram = keys.T @ keys + torch.eye(keys.shape[1], device=keys.device)
    return torch.linalg.solve(gram, keys.T).T, values.T


def leading_directions(rows: Tensor, energy: float) -> Tensor:
    """Return an orthonormal basis (d, k) of the fewest right singular directions that hold `energy` of `rows` (m, d).

    The energy, in (0, 1], is a share of the squared Frobenius norm; the basis is in fp64.

    >>> leading_directions(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), energy=0.9).abs()
    tensor([[1.],
            [0.]], dtype=torch.float64)
    """
    _, singular, right = torch.linalg.svd(rows.double(), full_matrices=False)
    basis: Tensor = right[: _rank(singular, energy)].T
    return basis


def recompress(down: Tensor, up: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Return the fewest balanced factors of `up @ down` that keep `energy`, in (0, 1], of its squared Frobenius norm.

    The two factors share the singular values equally and have orthogonal directions, so rounding them to bf16 costs no
    more than bf16's own precision; raw factors of near-parallel rows cancel and lose everything. `down` (n, d_in), `up`
    (d_out, n) -> (r, d_in), (d_out, r) with 1 <= r <= n.

    >>> down, up = recompress(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 3.0]]), energy=1.0)
    >>> down.shape, up @ down
    (torch.Size([1, 2]), tensor([[4.0000, 4.0000]], dtype=torch.float64))
    """
    q_down, r_down = torch.linalg.qr(down.T.double())
    q_up, r_up = torch.linalg.qr(up.double())
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    rank = _rank(singular, energy)
    root = singular[:rank].sqrt()
    return (root[:, None] * right[:rank]) @ q_down.T, q_up @ (left[:, :rank] * root)


def _rank(singular: Tensor, energy: float) -> int:
    """Return how many of the descending singular values hold `energy` of the sum of their squares; at least one."""
    squared = singular.square().cumsum(0)
    return min(int((squared < energy * squared[-1]).sum()) + 1, len(singular))


def frobenius_norm(down: Tensor, up: Tensor) -> float:
    """Return the Frobenius norm of `up @ down`; `down` is (n, d_in), `up` is (d_out, n).

    It is computed from the triangular factors alone: the product is never formed, and nothing is squared.

    >>> round(frobenius_norm(torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([[2.0]])), 6)
    10.0
    """
    return float((_triangle(up) @ _triangle(down.T).T).norm())


def _triangle(matrix: Tensor) -> Tensor:
    triangle: Tensor = torch.linalg.qr(matrix.double(), mode="r").R
    return triangle


def relative_error(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """Return the norm of the difference of two changes in factors `(down, up)`, over that of the exact one.

    It is 0 if both are zero.

    >>> down = torch.tensor([[1.0, 0.0]])
    >>> round(relative_error((down, torch.tensor([[1.5]])), (down, torch.tensor([[2.0]]))), 6)
    0.25
    """
    down = torch.cat([exact[0].double(), found[0].double()])
    up = torch.cat([exact[1].double(), -found[1].double()], dim=1)
    norm = frobenius_norm(*exact)
    return frobenius_norm(down, up) / norm if norm else 0.0
