"""Names and texts of users: which are the same, what a pattern matches, and what can be a file name."""

import unicodedata

import pytest

from knowcusbench.errors import ConfigError
from knowcusbench.storage.names import MAX_BYTES, by_name, check_name, file_name, is_plain_name, matching, same_text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("my café", unicodedata.normalize("NFD", "my café")),
        ("Việt", unicodedata.normalize("NFD", "Việt")),
        ("my  gift", " my\tgift\n"),
        ("my\N{NO-BREAK SPACE}gift", "my gift"),
        ("my\N{ZERO WIDTH SPACE} gift", "my gift"),
        ("\N{ZERO WIDTH NO-BREAK SPACE}gift", "gi\N{SOFT HYPHEN}ft"),
        ("ＧＩＦＴ", "gift"),
        ("Straße", "STRASSE"),
    ],
)
def test_texts_that_look_the_same_are_the_same(first: str, second: str) -> None:
    assert first != second
    assert same_text(first, second)


@pytest.mark.parametrize(("first", "second"), [("my gift", "mygift"), ("cafe", "café"), ("1.1", "1.10"), ("狗", "犬")])
def test_texts_that_differ_to_the_eye_differ(first: str, second: str) -> None:
    assert not same_text(first, second)


NAMES = ["dog1", "dog[1]", "dog", "dog?", "cat*", "catfish", unicodedata.normalize("NFD", "café"), "1.1", "1.10"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("dog[1]", ["dog[1]"]),
        ("dog?", ["dog?"]),
        ("cat*", ["cat*"]),
        ("c?t*", ["cat*", "catfish"]),
        ("dog[0-9]", ["dog1"]),
        ("café", [NAMES[6]]),
        ("1.10", ["1.10"]),
    ],
)
def test_a_name_is_meant_before_a_pattern(pattern: str, found: list[str]) -> None:
    assert matching([pattern], NAMES, "grid.concepts") == found


def test_names_of_folders_are_spelled_as_in_the_records() -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    assert by_name({decomposed: 1, "dog ": 2, "stray": 3}, ["café", "dog"]) == {"café": 1, "dog": 2, "stray": 3}
    assert by_name({decomposed: 1, "café": 2}, ["café"]) == {"café": 2, decomposed: 1}


@pytest.mark.parametrize(
    "name", ["v1/base", "../../esc", "", " ", ".", "..", ".hidden", "a\\b", "a\nb", "x" * 161, "é" * 81]
)
def test_a_name_that_leads_elsewhere_or_nowhere_is_refused(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(ConfigError, match=r"^run\.label: .* can't be a file name: it (is|has|begins)"):
        check_name(name, "run.label")


@pytest.mark.parametrize("name", ["1.10", "2024_10_05", "mokus,recipe.ultraedit.eta=0.001", "café", "犬", "x" * 160])
def test_an_ordinary_name_is_a_files_name_as_it_is(name: str) -> None:
    check_name(name, "run.label")
    assert file_name(name) == name


def test_long_texts_and_texts_with_slashes_get_names_of_their_own() -> None:
    texts = ["a/b", "a\\b", "犬" * 100, "犬" * 101, ".a", "a\n", *(f"mokus,x={'y' * 300}{n}" for n in range(3))]
    names = [*map(file_name, texts), "a_b"]
    assert len(set(names)) == len(names)
    assert all(is_plain_name(name) and len(name.encode()) <= MAX_BYTES for name in names)
