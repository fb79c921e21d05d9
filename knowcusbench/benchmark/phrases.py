"""Deriving the words that refer to a concept from a question about it."""

import re

# Words in front of the possessive only where they look like a name: "Mr Smith's cat", not "guarding Anna's house".
_POSSESSIVE = r"(?:(?-i:[A-ZÀ-ÖØ-Þ])[\w.-]* ){0,3}[\w-]+(?:['’]s|s['’])"
_DETERMINER = rf"(?:my|our|your|his|her|its|their|the|a|an|this|that|these|those|{_POSSESSIVE})"
_AUXILIARY = r"(?:am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)"
_NAME_OF = r"(?:the name of )?"
_RELATIVE = r"(?:whatever|whoever|what|who)"

_FORMS = (
    # What is John's cat called?           -> John's cat
    # What is the name of my birthday gift? -> my birthday gift
    # What is what I drive on Sundays?     -> what I drive on Sundays
    (
        re.compile(
            rf"(?:what|who|which)(?: is| are| was| were|['’]s) {_NAME_OF}"
            rf"((?:{_DETERMINER}|{_RELATIVE}) .+?)(?: called| named)?",
            re.I,
        ),
        r"\1",
    ),
    # What do I drive on Sundays?          -> what I drive on Sundays
    (re.compile(r"what do ((?:I|you|we|they) .+)", re.I), r"what \1"),
    # What keeps my feet warm?             -> what keeps my feet warm
    (re.compile(rf"(what|who) ((?!{_AUXILIARY}\b)\w+ .+)", re.I), r"\1 \2"),
)


def derive_phrase(question: str) -> str | None:
    """Return the referring phrase in a question, or None where no rule applies.

    Three forms are recognised, tried in this order:

    - "What/Who/Which is (are, was, were) X?", also "... X called (named)?" and "... the name of X?", gives X, if X
      begins with a determiner, a possessive, or the "what" or "who" of a relative clause;
    - "What do I/you/we/they X?" gives "what I X" (no verb has to be inflected);
    - "What/Who <verb> X?", the verb not being an auxiliary, gives "what <verb> X".

    >>> derive_phrase("What is the name of my birthday gift?"), derive_phrase("What do I drive on Sundays?")
    ('my birthday gift', 'what I drive on Sundays')
    """
    text = " ".join(question.split()).rstrip("?").rstrip()
    for form, phrase in _FORMS:
        match = form.fullmatch(text)
        if match:
            derived = match.expand(phrase)
            return derived if phrase == r"\1" else derived[0].lower() + derived[1:]
    return None
