"""Memory of computed values."""

import hashlib

from knowcusbench.storage.digests import Memo, json_digest, text_digest


def test_each_missing_key_is_computed_once_and_order_is_kept() -> None:
    memo: Memo[str, str] = Memo(capacity=10)
    computed: list[list[str]] = []

    def upper(keys: list[str]) -> list[str]:
        computed.append(keys)
        return [key.upper() for key in keys]

    assert memo.fetch(["b", "a", "b"], upper) == ["B", "A", "B"]
    assert memo.fetch(["a", "c", "b"], upper) == ["A", "C", "B"]
    assert memo.fetch(["c"], upper) == ["C"]
    assert computed == [["b", "a"], ["c"]]


def test_the_least_recently_used_are_dropped() -> None:
    memo: Memo[int, int] = Memo(capacity=2)
    computed: list[int] = []

    def square(keys: list[int]) -> list[int]:
        computed.extend(keys)
        return [key * key for key in keys]

    memo.fetch([1, 2], square)
    memo.fetch([1], square)
    memo.fetch([3], square)  # 2 is the oldest now, and is dropped
    computed.clear()

    assert memo.fetch([1, 3], square) == [1, 9]
    assert computed == []
    assert memo.fetch([2], square) == [4]
    assert computed == [2]


def test_more_keys_than_it_holds_are_all_answered() -> None:
    memo: Memo[int, int] = Memo(capacity=2)
    assert memo.fetch(range(5), lambda keys: [key + 1 for key in keys]) == [1, 2, 3, 4, 5]


def test_results_are_kept_under_the_digest_of_plain_json() -> None:
    data = {"b": 1.0, "a": [2, "é"]}
    said = b'{"b": 1.0, "a": [2, "\\u00e9"]}'
    assert json_digest(data) == hashlib.sha256(said).hexdigest()
    assert json_digest(data, 12, sort_keys=True) == hashlib.sha256(b'{"a": [2, "\\u00e9"], "b": 1.0}').hexdigest()[:12]
    assert text_digest("é", 8) == hashlib.sha256("é".encode()).hexdigest()[:8]
