import json
import threading
import time
from pathlib import Path

import pytest
import torch

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adapters.types import Adaptation, Adapter, Cost


def adaptation(value: float) -> Adaptation:
    factors = {"layer": (torch.full((1, 3), value), torch.ones(2, 1))}
    return Adaptation(transformer=Adapter.from_factors(factors), cost=Cost({"visual": value}))


def value_of(found: Adaptation) -> float:
    assert found.transformer is not None
    return float(found.transformer.weights["layer.lora_A.weight"][0, 0])


def must_not_be_called() -> Adaptation:
    raise AssertionError("made again")


def test_the_second_caller_gets_the_first_ones_tensors_and_cost(cache: AdapterCache) -> None:
    cache.get({"seed": 1, "prompt": "sks toy"}, lambda: adaptation(2.5))
    # Neither the order of the key's entries nor the requesting process matters.
    found = AdapterCache(cache.directory).get({"prompt": "sks toy", "seed": 1}, must_not_be_called)
    assert value_of(found) == 2.5
    assert found.cost == Cost({"visual": 2.5})


def test_other_keys_have_other_entries(cache: AdapterCache) -> None:
    for index, key in enumerate([{"seed": 1}, {"seed": 2}, {"seed": "1"}, {"seed": [1]}, {"seed": None}]):
        assert value_of(cache.get(key, lambda index=index: adaptation(float(index)))) == index


def test_the_first_return_is_what_later_ones_get(cache: AdapterCache) -> None:
    made = cache.get({"seed": 1}, lambda: adaptation(1.0))
    found = cache.get({"seed": 1}, must_not_be_called)
    assert made.details == found.details
    assert made.cost == found.cost
    assert value_of(made) == value_of(found)


def test_the_key_can_be_read_in_the_entry(cache: AdapterCache) -> None:
    cache.get({"seed": 1, "prompt": "sks toy"}, lambda: adaptation(1.0))
    (record,) = cache.directory.glob("*/adaptation.json")
    assert json.loads(record.read_text())["details"]["key"] == {"seed": 1, "prompt": "sks toy"}


def test_a_failure_leaves_no_entry(cache: AdapterCache) -> None:
    def fail() -> Adaptation:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get({"seed": 1}, fail)
    assert value_of(cache.get({"seed": 1}, lambda: adaptation(3.0))) == 3.0


def test_of_several_that_want_it_at_once_one_makes_it_and_the_others_wait(cache: AdapterCache) -> None:
    made: list[float] = []
    results: list[float] = []

    def worker(value: float) -> None:
        def make() -> Adaptation:
            made.append(value)
            time.sleep(0.3)
            return adaptation(value)

        results.append(value_of(AdapterCache(cache.directory).get({"seed": 1}, make)))

    threads = [threading.Thread(target=worker, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == made * 3
    assert [path.name[0] for path in cache.directory.iterdir()].count(".") == 0
    assert value_of(cache.get({"seed": 1}, must_not_be_called)) == results[0]


def test_the_directory_appears_with_the_first_entry(tmp_path: Path) -> None:
    cache = AdapterCache(tmp_path / "deep" / "cache")
    assert not cache.directory.exists()
    cache.get({"seed": 1}, lambda: adaptation(1.0))
    assert len(list(cache.directory.iterdir())) == 1
