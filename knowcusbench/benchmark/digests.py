"""Digests of a benchmark's content, independent of its location and of its JSON formatting."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple

from knowcusbench.benchmark.types import Concept
from knowcusbench.storage.digests import json_digest


def images_digest(images: Iterable[bytes]) -> str:
    """Return the SHA-256 over the SHA-256 digests of image files, in order (so that no boundary is ambiguous).

    >>> images_digest([b"one", b"two"]) == images_digest([b"onetwo"])
    False
    """
    combined = hashlib.sha256()
    for data in images:
        combined.update(hashlib.sha256(data).digest())
    return combined.hexdigest()


def concept_digests(concept: Concept) -> dict[str, str]:
    """Return 8 hex digits for each part of a concept that `benchmark_digest` covers, to tell which part differs."""
    parts = {
        "class": concept.class_noun,
        "images": concept.images_digest,
        "knowledge": [astuple(item) for item in concept.knowledge],
        "prompts": [astuple(prompt) for prompt in concept.prompts],
    }
    return {name: json_digest(part, 8) for name, part in parts.items()}


def benchmark_digest(concepts: Sequence[Concept]) -> str:
    """Return the SHA-256 over names, class nouns, image bytes, knowledge and prompts, all in order.

    Image file names count only through their order. The release's visual checkpoints do not count: a method that uses
    one must include it in its own digest.
    """
    content = [
        (
            concept.name,
            concept.class_noun,
            concept.images_digest,
            [astuple(item) for item in concept.knowledge],
            [astuple(prompt) for prompt in concept.prompts],
        )
        for concept in concepts
    ]
    return json_digest(content)
