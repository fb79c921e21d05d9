"""The arithmetic of UltraEdit (arXiv 2505.14679), exact and in its small form."""

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Relative deviation, in fp64, below which a component counts as constant. A bf16 or fp32 value that does change
deviates by at least 1e-7."""


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


def edit_values(keys: Tensor, gradients: Tensor, moments: RunningMoments, eta: float) -> Tensor:
    """The wanted change of a linear layer's output at each captured row: `V = -eta * |h|^2 * g`.

    `keys` (n, d_in) are the layer's inputs h and `gradients` (n, d_out) the loss gradients g at its output; both enter
    normalised, together, by `moments` over rows of `[h, g]`. Returns (n, d_out) in fp64.
    """
    normalised = moments.normalise(torch.cat([keys, gradients], dim=1))
    h, g = normalised[:, : keys.shape[1]], normalised[:, keys.shape[1] :]
    return -eta * h.square().sum(1, keepdim=True) * g


def edit_factors(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The change of the weight, `(H^T H + I)^-1 H^T V` transposed, as factors `(down, up)`: delta W = up @ down.

    `keys` H (n, d_in), `values` V (n, d_out). By the push-through identity it equals `H^T (H H^T + I)^-1 V`: an n x n
    solve instead of d_in x d_in, exact, of rank at most n. Returns H (n, d_in) and ((H H^T + I)^-1 V)^T (d_out, n), in
    fp64.
    """
    keys, values = keys.double(), values.double()
    gram = keys @ keys.T + torch.eye(len(keys), dtype=torch.float64, device=keys.device)
    return keys, torch.linalg.solve(gram, values).T


def recompress(down: Tensor, up: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The fewest balanced factors of `up @ down` that keep `energy` (0..1] of its squared Frobenius norm.

    The singular values are shared equally between two factors with orthogonal directions, so that rounding them to bf16
    costs no more than bf16's own precision; raw factors of near-parallel rows cancel and lose everything. `down` (n,
    d_in), `up` (d_out, n) -> (r, d_in), (d_out, r) with 1 <= r <= n.
    """
    q_down, r_down = torch.linalg.qr(down.T.double())
    q_up, r_up = torch.linalg.qr(up.double())
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    squared = singular.square().cumsum(0)
    wanted = energy * squared[-1]
    rank = min(int((squared < wanted).sum()) + 1, len(singular))
    root = singular[:rank].sqrt()
    return (root[:, None] * right[:rank]) @ q_down.T, q_up @ (left[:, :rank] * root)
