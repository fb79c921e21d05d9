import math

import pytest
import torch
from torch import nn

from knowcusbench.adaptation.types import Adapter
from knowcusbench.backbone.lora import attached, extract, trainable
from knowcusbench.errors import WeightsError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3)))
    torch.random.set_rng_state(torch_state)
    return made.requires_grad_(False)


def test_an_adapter_adds_the_product_of_its_factors():
    """Against matrix products by hand, with different ranks in the two layers."""
    model, x = network(), random(10, 6)
    factors = {"0": (random(2, 6), random(8, 2)), "2.1": (random(5, 4), random(3, 5))}
    with attached(model, Adapter.from_factors(factors), torch.float32):
        adapted = model(x)
    first = model[0].weight + factors["0"][1] @ factors["0"][0]
    last = model[2][1].weight + factors["2.1"][1] @ factors["2.1"][0]
    hidden = torch.relu(x @ first.T + model[0].bias) @ model[2][0].weight.T + model[2][0].bias
    torch.testing.assert_close(adapted, hidden @ last.T + model[2][1].bias)


def test_alpha_over_rank_scales_the_product():
    model, x = network(), random(10, 6)
    down, up = random(2, 6), random(8, 2)
    adapter = Adapter(
        {"0.lora_A.weight": down, "0.lora_B.weight": up},
        {"r": 2, "lora_alpha": 6, "target_modules": ["0"]},
    )
    with attached(model, adapter, torch.float32):
        adapted = model[0](x)
    torch.testing.assert_close(adapted, x @ (model[0].weight + 3 * up @ down).T + model[0].bias)


def test_the_model_is_the_same_object_graph_afterwards():
    model = network()
    before = [(name, id(module)) for name, module in model.named_modules()]
    with pytest.raises(ZeroDivisionError), attached(model, one_layer("0", 2, 6, 8), torch.float32):
        1 / 0  # noqa: B018
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert not hasattr(model, "peft_config")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def one_layer(module: str, rank: int, inputs: int, outputs: int) -> Adapter:
    return Adapter.from_factors({module: (random(rank, inputs), random(outputs, rank))})


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (one_layer("5", 2, 6, 8), "no linear layer '5'"),
        (one_layer("1", 2, 6, 8), "no linear layer '1'"),
        (one_layer("0", 2, 7, 8), "8 x 6"),
        (one_layer("2.1", 2, 4, 9), "3 x 4"),
        (Adapter({"0.lora_A.weight": random(2, 6)}, {"r": 2, "target_modules": ["0"]}), "lacks"),
        (Adapter(one_layer("0", 2, 6, 8).weights, {"r": 2, "target_modules": ["0", "2.0"]}), "2.0"),
    ],
)
def test_an_adapter_for_another_model_is_refused_before_anything_changes(adapter, named):
    model = network()
    before = [id(module) for module in model.modules()]
    with pytest.raises(WeightsError, match=named), attached(model, adapter, torch.float32):
        pass
    assert [id(module) for module in model.modules()] == before


def test_training_starts_at_the_identity_with_fp32_parameters_of_the_known_distribution():
    model, x = network().bfloat16(), random(10, 6).bfloat16()
    plain = model(x)
    with trainable(model, ["0", "2.0"], rank=64, alpha=64, seed=3) as parameters:
        assert torch.equal(model(x), plain)
        assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
        first = next(value for name, value in parameters.items() if name.startswith("0.lora_A"))
        bound = 1 / math.sqrt(6)
        assert first.abs().max() <= bound
        # A uniform variable on +-b has variance b^2 / 3; 384 draws are within 20%.
        assert abs(first.var().item() / (bound**2 / 3) - 1) < 0.2


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generator():
    made = []
    for global_seed, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(global_seed)
        state = torch.random.get_rng_state()
        with trainable(model := network(), ["0"], rank=2, alpha=2, seed=seed):
            assert torch.equal(torch.random.get_rng_state(), state)
            made.append(extract(model).weights["0.lora_A.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_an_extracted_adapter_is_a_copy_that_reproduces_the_model():
    model, x = network(), random(10, 6)
    with trainable(model, ["0", "2.1"], rank=2, alpha=4, seed=0) as parameters:
        for number, parameter in enumerate(parameters.values()):
            parameter.data += random(*parameter.shape, seed=number)
        trained = model(x).detach()
        adapter = extract(model)
        for parameter in parameters.values():
            parameter.data.zero_()
    with attached(model, adapter, torch.float32):
        torch.testing.assert_close(model(x), trained)
