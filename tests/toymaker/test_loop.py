"""The training loop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from knowcusbench.errors import ConfigError
from knowcusbench.toymaker import loop
from knowcusbench.toymaker.loop import Schedule, in_processes, train

SCHEDULE = Schedule(steps=200, batch_size=8, learning_rate=0.05, warmup=10, average=0.9, weight_decay=0.0)


def regression(folder: Path, stop: int | None = None) -> nn.Linear:
    """Fit y = 3 x - 1, optionally interrupted before a step."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 1, generator=generator)
        return {"square": (model(x) - (3 * x - 1)).square().mean()}

    train(model, losses, SCHEDULE, folder, label="line")
    return model


def test_it_learns(tmp_path: Path) -> None:
    model = regression(tmp_path)
    assert model.weight.item() == pytest.approx(3, abs=0.01)
    assert model.bias.item() == pytest.approx(-1, abs=0.01)
    record = json.loads((tmp_path / "losses.json").read_text())
    assert [entry["step"] for entry in record["losses"]] == [50, 100, 150, 200]
    assert record["losses"][-1]["square"] < record["losses"][0]["square"]
    assert record["schedule"]["steps"] == 200


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = regression(tmp_path / "whole")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path / "parts", stop=130)
    assert torch.load(tmp_path / "parts" / "state.pt", weights_only=True)["step"] == 100
    resumed = regression(tmp_path / "parts")
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    losses = [json.loads((tmp_path / name / "losses.json").read_text())["losses"] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_state_of_another_schedule_or_world_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regression(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "world_digest", lambda: "0" * 64)
        with pytest.raises(ConfigError, match=r"state\.pt: was begun with another world; remove"):
            regression(tmp_path)
    with pytest.raises(ConfigError, match=r"state\.pt: was begun with another schedule; remove"):
        train(nn.Linear(1, 1), lambda *_: {}, replace(SCHEDULE, steps=300), tmp_path, label="line")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = regression(tmp_path)
    again = regression(tmp_path, stop=0)
    assert torch.equal(first.weight, again.weight)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=1000, batch_size=1, learning_rate=2.0, warmup=100, decay_from=0.5)
    assert schedule.rate(0) == pytest.approx(0.02)
    assert schedule.rate(99) == schedule.rate(500) == 2.0
    assert schedule.rate(750) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert schedule.rate(1000) == pytest.approx(0.02)


def halves(rank: int, processes: int, folder: Path) -> None:
    """Fit y = 3 x - 1 to a fixed set of points, with a share for each process."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 8)[rank::processes, None]

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"square": (model(x) - (3 * x - 1)).square().mean()}

    train(model, losses, replace(SCHEDULE, steps=20), folder, label="line")
    torch.save(model.state_dict(), folder / f"{rank}.pt")


def test_two_processes_learn_together_what_one_learns(tmp_path: Path) -> None:
    in_processes(1, halves, tmp_path / "one")
    in_processes(2, halves, tmp_path / "two")
    expected, *others = (torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt"))
    for weights in others:
        assert all(torch.allclose(weights[key], expected[key], atol=1e-5) for key in expected)
    assert not list(tmp_path.rglob("rendezvous*"))


def test_muon_steps_are_those_of_the_optimizer_that_takes_matrices_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 6), (6, 6), (4, 9), (9, 4), (9, 4), (3, 3)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    rate = torch.tensor(0.02)
    together = loop.Muon(ours, rate, weight_decay=0.1)
    one_by_one = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for matrix, other in zip(ours[:-1], theirs[:-1], strict=True):  # The last one has no gradient.
            matrix.grad = torch.randn(matrix.shape, generator=generator)
            other.grad = matrix.grad.clone()
        together.step()
        one_by_one.step()
    for matrix, other, value in zip(ours, theirs, values, strict=True):
        assert torch.allclose(matrix, other, atol=2e-3 * 0.06)
        assert torch.equal(matrix, value) == (matrix is ours[-1])


def test_what_is_drawn_is_what_losses_are_of(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(8, 1, generator=generator)
        return x, 3 * x - 1

    def losses(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"square": (model(x) - y).square().mean()}

    train(model, losses, SCHEDULE, tmp_path / "drawn", label="line", draw=draw)
    assert torch.equal(model.weight, regression(tmp_path / "whole").weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_step_is_the_step(tmp_path: Path) -> None:
    weights = []
    for replayed in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(1, 1).cuda()

        def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x = torch.randn(8 + step % 2, 1, generator=generator).cuda()
            return x, 3 * x - 1

        def losses(x: Tensor, y: Tensor, model: nn.Linear = model) -> dict[str, Tensor]:
            return {"square": (model(x) - y).square().mean()}

        with pytest.MonkeyPatch.context() as patch:
            if not replayed:
                patch.setattr(loop, "Replayed", lambda function: function)
            train(model, losses, SCHEDULE, tmp_path / str(replayed), label="line", draw=draw)
        weights.append(model.weight.detach().cpu())
    assert torch.allclose(*weights, atol=1e-5)


def doubled(number: int) -> int:
    return 2 * number


def test_workers_answer_in_order() -> None:
    for device in ("cpu", "cuda"):  # No worker needs the device itself.
        assert list(loop.in_workers(doubled, range(20), torch.device(device))) == [*range(0, 40, 2)]
