"""Prompts inside Qwen3's chat template."""

from typing import Any, ClassVar

from knowcusbench.backbone.family import Family
from knowcusbench.errors import WeightsError


class Qwen3Chat(Family):
    """A family whose text encoder sees a prompt as a user's message to Qwen3, whose turn it then is.

    Attributes:
        thinks: whether Qwen3 is left to think first. With thinking on, it expects `<think>` where an answer begins, so
            answers have a low probability in the pipeline's template; the form "plain" shows what is known.
    """

    thinks: ClassVar[bool]

    def template(self, pipeline: Any, question: str) -> str:
        text: str = pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinks,
        )
        return text

    def check(self, pipeline: Any, source: str) -> None:
        if not pipeline.tokenizer.chat_template or "{}" not in self.template(pipeline, "{}"):
            raise WeightsError(
                f"backbone.source: the tokenizer of {source!r} has no chat template that takes a prompt; copy the "
                "checkpoint again"
            )
