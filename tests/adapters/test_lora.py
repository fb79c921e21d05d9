import copy
import math
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from knowcusbench.adapters.lora import attached, extract, trainable
from knowcusbench.adapters.types import Adapter, Gate
from knowcusbench.errors import WeightsError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    """Return linear layers called 0, 2.0 and 2.1: the first name is a suffix of the second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3)))
    return made.requires_grad_(False)


def one_layer(module: str, rank: int, inputs: int, outputs: int) -> Adapter:
    return Adapter.from_factors({module: (random(rank, inputs), random(outputs, rank))})


def adapted_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def test_an_adapter_adds_the_product_of_its_factors():
    """Compare with matrix products by hand, with different ranks in the two layers."""
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


def test_rank_and_alpha_of_a_module_are_not_those_of_another_whose_name_ends_alike():
    """PEFT's own patterns would give module 2.0 the rank and alpha of module 0."""
    model, x = network(), random(10, 8)
    factors = {"0": (random(2, 6), random(8, 2)), "2.0": (random(3, 8), random(4, 3))}
    adapter = Adapter.from_factors(factors)
    config = dict(adapter.config) | {"alpha_pattern": {"0": 2, "2.0": 12}}
    with attached(model, Adapter(adapter.weights, config), torch.float32):
        adapted = model[2][0](x)
    delta = 12 / 3 * factors["2.0"][1] @ factors["2.0"][0]
    torch.testing.assert_close(adapted, x @ (model[2][0].weight + delta).T + model[2][0].bias)


def test_only_the_named_modules_are_adapted():
    """PEFT reads the names in a list as suffixes: 0 would also match 2.0."""
    model = network()
    with attached(model, one_layer("0", 2, 6, 8), torch.float32):
        assert adapted_layers(model) == ["0"]
    with trainable(model, ["0"], rank=2, alpha=2, seed=0):
        assert adapted_layers(model) == ["0"]


def test_factors_in_fp32_stay_what_they_are_on_a_bf16_model():
    """PEFT rounds loaded factors to the base's dtype."""
    model, x = network().bfloat16(), random(10, 6).bfloat16()
    down, up = random(2, 6), random(8, 2)
    with attached(model, Adapter.from_factors({"0": (down, up)}), torch.float32):
        kept = extract(model).weights
        adapted = model[0](x)
    assert torch.equal(kept["0.lora_A.weight"], down)
    assert torch.equal(kept["0.lora_B.weight"], up)
    exact = model[0](x).double() + x.double() @ (up.double() @ down.double()).T
    assert torch.equal(adapted, exact.bfloat16())


def test_a_whole_transformer_with_adapters_is_the_one_with_merged_weights(backbone_fp32):
    transformer = backbone_fp32.transformer
    factors = {}
    for seed, name in enumerate(backbone_fp32.lora_targets):
        layer = transformer.get_submodule(name)
        factors[name] = (
            random(3, layer.in_features, seed=seed) / layer.in_features**0.5,
            random(layer.out_features, 3, seed=-1 - seed) / 2,
        )
    merged = copy.deepcopy(transformer)
    for name, (down, up) in factors.items():
        merged.get_submodule(name).weight.data += up @ down
    inputs = {
        "hidden_states": random(1, 16, 32),
        "encoder_hidden_states": random(1, 5, 192),
        "timestep": torch.tensor([0.4]),
        "img_shapes": [[(1, 4, 4)]],
        "return_dict": False,
    }
    with torch.no_grad(), attached(transformer, Adapter.from_factors(factors), torch.float32):
        adapted = transformer(**inputs)[0]
    with torch.no_grad():
        plain, expected = transformer(**inputs)[0], merged(**inputs)[0]
    torch.testing.assert_close(adapted, expected, atol=1e-4, rtol=1e-4)
    assert (adapted - plain).abs().max() > 0.1


def test_the_model_is_the_same_object_graph_afterwards():
    model = network()
    before = [(name, id(module)) for name, module in model.named_modules()]
    with pytest.raises(ZeroDivisionError), attached(model, one_layer("0", 2, 6, 8), torch.float32):
        1 / 0  # noqa: B018
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert not hasattr(model, "peft_config")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_second_adapter_is_refused_and_the_first_one_stays():
    model = network()
    with attached(model, one_layer("0", 2, 6, 8), torch.float32):
        with (
            pytest.raises(RuntimeError, match="already"),
            trainable(model, ["2.1"], rank=1, alpha=1, seed=0),
        ):
            pass
        assert adapted_layers(model) == ["0"]


WHOLE = one_layer("0", 2, 6, 8)


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (one_layer("5", 2, 6, 8), "no linear layer '5'"),
        (one_layer("1", 2, 6, 8), "no linear layer '1'"),
        (one_layer("0", 2, 7, 8), r"0.lora_A.weight has shape \(2, 7\), expected \(2, 6\)"),
        (one_layer("2.1", 2, 4, 9), r"2.1.lora_B.weight has shape \(9, 2\), expected \(3, 2\)"),
        (Adapter(WHOLE.weights, {"r": 3, "target_modules": ["0"]}), "rank 3"),
        (Adapter({"0.lora_A.weight": random(2, 6)}, {"r": 2, "target_modules": ["0"]}), "0.lora_B.weight is missing"),
        (Adapter(WHOLE.weights, {"r": 2, "target_modules": ["0", "2.0"]}), "2.0.lora_A.weight is missing"),
        (Adapter({**WHOLE.weights, "2.bias": random(1)}, WHOLE.config), "2.bias belongs to none"),
        (Adapter(WHOLE.weights, {**WHOLE.config, "use_dora": True}), "use_dora"),
        (Adapter({}, {"r": 2, "target_modules": []}), "no target modules"),
    ],
)
def test_an_adapter_for_another_model_is_refused_before_anything_changes(adapter, named):
    model = network()
    before = [id(module) for module in model.modules()]
    with pytest.raises(WeightsError, match=named), attached(model, adapter, torch.float32):
        pass
    assert [id(module) for module in model.modules()] == before
    assert not hasattr(model, "peft_config")


def test_training_starts_at_the_identity_with_fp32_parameters_of_the_known_distribution():
    model, x = network().bfloat16(), random(10, 6).bfloat16()
    plain = model(x)
    with trainable(model, ["0", "2.0"], rank=64, alpha=64, seed=3) as parameters:
        assert torch.equal(model(x), plain)
        assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
            f"{module}.{factor}.default.weight" for module in ("0", "2.0") for factor in ("lora_A", "lora_B")
        }
        first = parameters["0.lora_A"]
        bound = 1 / math.sqrt(6)
        assert first.abs().max() <= bound
        # A uniform variable on +-b has variance b^2 / 3; 384 draws are within 20%.
        assert abs(first.var().item() / (bound**2 / 3) - 1) < 0.2


@pytest.mark.parametrize(("init", "peft_name"), [("gaussian", "gaussian"), ("uniform", True)])
def test_training_starts_with_pefts_numbers(init, peft_name):
    """Compare with PEFT's own initialisation of the same layers, in the same order and from the same seed, in its one
    generator."""
    model, modules = network(), ["0", "2.0"]
    with trainable(model, modules, rank=4, alpha=4, seed=3, init=init) as parameters:
        found = {module: parameters[f"{module}.lora_A"].detach().clone() for module in modules}
    inject_adapter_in_model(LoraConfig(r=4, target_modules=modules), model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in modules:
            layer = model.get_submodule(module)
            layer.reset_lora_parameters("default", peft_name)
            torch.testing.assert_close(found[module], layer.lora_A["default"].weight.detach())


def test_a_gaussian_start_is_as_wide_as_the_rank_says_whatever_the_width():
    model = nn.Linear(3072, 2)
    with trainable(nn.Sequential(model), ["0"], rank=4, alpha=4, seed=3, init="gaussian") as parameters:
        values = parameters["0.lora_A"].detach()
    # Of 12,288 draws the deviation is within 3% with more than 4 sigma.
    assert abs(values.std().item() / 0.25 - 1) < 0.03
    assert values.abs().max() > 0.75


def test_gradients_are_those_of_the_factors_by_hand():
    model, x = network(), random(10, 6)
    with trainable(model, ["0"], rank=2, alpha=4, seed=3) as parameters:
        parameters["0.lora_B"].data.copy_(random(8, 2))
        (model[0](x) ** 2).sum().backward()
        down, up = (parameters[f"0.{factor}"].detach().requires_grad_() for factor in ("lora_A", "lora_B"))
        ((x @ (model[0].get_base_layer().weight + 2 * up @ down).T + model[0].bias) ** 2).sum().backward()
        torch.testing.assert_close(parameters["0.lora_A"].grad, down.grad)
        torch.testing.assert_close(parameters["0.lora_B"].grad, up.grad)


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generator():
    made = []
    with torch.random.fork_rng(devices=[]):
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


def test_what_was_put_on_can_be_read_out_with_its_ranks_and_alphas():
    model, x = network(), random(10, 6)
    factors = {"0": (random(2, 6), random(8, 2)), "2.1": (random(5, 4), random(3, 5))}
    with attached(model, Adapter.from_factors(factors), torch.float32):
        adapted = model(x)
        adapter = extract(model)
    with attached(model, adapter, torch.float32):
        assert torch.equal(model(x), adapted)


def test_a_merged_adapter_is_in_the_weights_and_scaled_by_alpha_over_rank():
    model, x = network(), random(10, 6)
    down, up = random(2, 6), random(8, 2)
    adapter = Adapter(
        {"0.lora_A.weight": down, "0.lora_B.weight": up},
        {"r": 2, "lora_alpha": 6, "target_modules": ["0"]},
        merged=True,
    )
    before = model[0].weight.clone()
    with attached(model, adapter, torch.float32):
        assert adapted_layers(model) == []
        torch.testing.assert_close(model[0].weight, before + 3 * up @ down)
        merged = model[0](x)
    torch.testing.assert_close(merged, x @ (before + 3 * up @ down).T + model[0].bias)
    assert torch.equal(model[0].weight, before)


def test_a_merged_adapter_that_does_not_fit_is_refused_before_anything_changes():
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    wrong = Adapter.from_factors({"0": (random(2, 6), random(8, 2)), "2.1": (random(2, 4), random(9, 2))})
    with pytest.raises(WeightsError, match=r"2.1"), attached(model, replace(wrong, merged=True), torch.float32):
        pass
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("merged", [False, True])
def test_a_merged_adapter_shares_a_model_with_no_other(merged):
    model = network()
    before = model[0].weight.clone()
    other = replace(one_layer("2.1", 2, 4, 3), merged=not merged)
    with (
        attached(model, replace(WHOLE, merged=merged), torch.float32),
        pytest.raises(RuntimeError, match="already"),
        attached(model, other, torch.float32),
    ):
        pass
    assert torch.equal(model[0].weight, before)


def adapters_of_every_kind() -> list[Adapter]:
    plain = Adapter.from_factors({"0": (random(2, 6), random(8, 2)), "2.1": (random(3, 4), random(3, 3))})
    gate = Gate({"0": random(3, 6), "2.1": random(2, 4)}, temperature=0.1, bias=0.3)
    large = one_layer("2.0", 1, 8, 4)
    return [plain, replace(plain, merged=True), replace(plain, gate=gate), replace(large, merged=True), large]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8), st.booleans())
def test_any_sequence_of_adapters_leaves_every_bit(sequence, in_bf16):
    """Plain, merged and gated adapters are attached and removed in any order, some by an exception."""
    model = network().to(torch.bfloat16 if in_bf16 else torch.float32)
    x = random(3, 6).to(model[0].weight.dtype)
    adapters = adapters_of_every_kind()
    modules, plain = [id(module) for module in model.modules()], model(x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, fails in sequence:
        with suppress(KeyError), attached(model, adapters[number], torch.float32):
            assert not torch.equal(model(x), plain)
            if fails:
                raise KeyError
        assert [id(module) for module in model.modules()] == modules
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize(("shape", "alpha"), [((10, 6), 2.0), ((2, 5, 6), 6.0)])
def test_outputs_and_gradients_are_those_of_pefts_own_layer(shape, alpha):
    """Compare with PEFT's layer with the same factors, in fp32, for inputs with and without a gradient."""
    ours, theirs, x = network(), network(), random(*shape)
    factors = {"lora_A": random(2, 6), "lora_B": random(8, 2, seed=1)}
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=int(alpha), target_modules="0"), theirs)
    expected = {name: getattr(theirs[0], name)["default"].weight for name in factors}
    with trainable(ours, ["0"], rank=2, alpha=alpha, seed=0) as parameters:
        found = {name: parameters[f"0.{name}"] for name in factors}
        for model, given, needs_grad in ((ours, found, True), (theirs, expected, True), (ours, found, False)):
            for name, value in factors.items():
                given[name].data.copy_(value)
                given[name].grad = None
            inputs = x.clone().requires_grad_(needs_grad)
            (model(inputs) ** 2).sum().backward()
            if needs_grad:
                gradient, inputs_gradient = {name: factor.grad for name, factor in given.items()}, inputs.grad
                if model is ours:
                    kept = gradient, inputs_gradient
                else:
                    torch.testing.assert_close(kept, (gradient, inputs_gradient))
            else:
                torch.testing.assert_close({name: factor.grad for name, factor in given.items()}, kept[0])
        torch.testing.assert_close(ours(x), theirs(x))


def test_on_a_bf16_model_products_are_in_bf16_and_gradients_reach_fp32_factors():
    """Compare with fp64: only the factors, `x A^T` and the sum are rounded."""
    model, x = network().bfloat16(), random(10, 6).bfloat16()
    with trainable(model, ["0"], rank=2, alpha=4, seed=3) as parameters:
        parameters["0.lora_B"].data.copy_(random(8, 2))
        down, up = (parameters[f"0.{factor}"] for factor in ("lora_A", "lora_B"))
        output = model[0](x)
        low = (x.double() @ down.bfloat16().double().T).bfloat16().double()
        base = model[0].get_base_layer()
        exact = base(x).double() + low @ (2 * up.bfloat16().double()).T
        assert output.dtype == torch.bfloat16
        # One unit in the last place of a sum of two terms, either of which may be the larger.
        torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=1e-6)
        output.float().square().sum().backward()
        gradient = 2 * output.double().T @ low * 2
        assert up.grad.dtype == torch.float32
        torch.testing.assert_close(up.grad.double(), gradient, rtol=2**-6, atol=2**-6)


def test_with_gradients_nothing_is_cast_but_the_factors():
    """No fp32 tensor of the inputs' size is made for a bf16 layer; this makes the layer lean."""
    width, rows = 64, 128
    model = nn.Sequential(nn.Linear(width, width)).bfloat16().requires_grad_(False)
    made: list[torch.Tensor] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append(result)
            return result

    with trainable(model, ["0"], rank=2, alpha=2, seed=0):
        x = random(rows, width).bfloat16().requires_grad_()
        with Watch():
            model(x).sum().backward()
    assert not [tensor.shape for tensor in made if tensor.dtype == torch.float32 and tensor.numel() >= rows * width]


def test_factors_in_fp32_train_in_fp32_products_where_they_will_be_put_on_so():
    model, x = network().bfloat16(), random(10, 6).bfloat16()
    with trainable(model, ["0"], rank=2, alpha=2, seed=3, dtype=torch.float32) as parameters:
        parameters["0.lora_B"].data.copy_(random(8, 2))
        trained, adapter = model(x).detach(), extract(model)
    with attached(model, adapter, torch.float32):
        assert torch.equal(model(x), trained)
