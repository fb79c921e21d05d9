"""Deriving the words that refer to a concept from a question about it."""

import re

_DETERMINER = r"(?:my|our|your|his|her|its|their|the|a|an|this|that|these|those|[\w-]+['’]s?)"
_AUXILIARY = r"(?:am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)"

_FORMS = (
    # What is my birthday gift?            -> my birthday gift
    (re.compile(rf"(?:what|who|which)(?: is| are| was| were|['’]s) ({_DETERMINER} .+)", re.I), r"\1"),
    # What do I drive on Sundays?          -> what I drive on Sundays
    (re.compile(r"what do ((?:I|you|we|they) .+)", re.I), r"what \1"),
    # What keeps my feet warm?             -> what keeps my feet warm
    (re.compile(rf"(what|who) ((?!{_AUXILIARY}\b)\w+ .+)", re.I), r"\1 \2"),
)


def derive_phrase(question: str) -> str | None:
    """The referring phrase in a question, or None where no rule applies.

    Three forms are understood, tried in this order:

    - "What/Who/Which is (are, was, were) X?" gives X, if X begins with a determiner or a possessive;
    - "What do I/you/we/they X?" gives "what I X" (no verb has to be inflected);
    - "What/Who <verb> X?", the verb not being an auxiliary, gives "what <verb> X".
    """
    text = question.strip().rstrip("?").rstrip()
    for form, phrase in _FORMS:
        match = form.fullmatch(text)
        if match:
            derived = match.expand(phrase)
            return derived if phrase == r"\1" else derived[0].lower() + derived[1:]
    return None
