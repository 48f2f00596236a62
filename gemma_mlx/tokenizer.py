"""Prompts to token ids, and generated ids to text.

Control tokens spelled out in a prompt's text are encoded as text. A prompt of Gemma's has exactly
one BOS; what another model's begins with, its tokenizer and its chat template know.
"""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from gemma_mlx.checkpoint import Template
from gemma_mlx.errors import CheckpointError, RequestError

# What a template that puts the day into the prompt is told: prompts don't depend on when they are
# encoded. It is the day that Llama 3's template names by itself.
_TODAY = datetime(2024, 7, 26)

# Stand for prompt and answer while the chat template is rendered; characters of private use.
_PLACE = "\ue000prompt\ue001"
_ANSWER = "\ue000answer\ue001"


class GemmaTokenizer:
    """The checkpoint's own tokenizer, read by `transformers`.

    Args:
        path: the checkpoint's folder or file, for messages.
        bos_token_id: the id that every prompt has to begin with; None for what the tokenizer
            itself puts before a text, which may be nothing, and for any chat template.
        vocab_size: rows of the model's embedding.
        read: what gives the tokenizer of `transformers`, as `Checkpoint.read_tokenizer`.
        template: the chat template, if there is one.

    Raises:
        CheckpointError: a tokenizer that can't be read, or has more tokens than the embedding.
    """

    def __init__(
        self,
        path: Path,
        *,
        bos_token_id: int | None,
        vocab_size: int,
        read: Callable[[], Any],
        template: Template | None,
    ):
        # transformers says on import that it has no PyTorch, which nobody here needs to know.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        try:
            self._tokenizer = read()
        except Exception as error:
            # transformers raises whatever its parsers raise.
            raise CheckpointError(
                f"{path}: the tokenizer can't be loaded ({_reason(error)})"
            ) from error
        self._template = template
        self._tokenizer.chat_template = self.chat_template
        self._path = path
        self._bos = bos_token_id
        self._embedded = vocab_size
        added = self._tokenizer.added_tokens_decoder.values()
        self._control = [str(token) for token in added if token.special]
        # Added tokens may lie beyond the embedding: Gemma 3 1B has one for images, never used.
        if self._tokenizer.vocab_size > vocab_size:
            raise CheckpointError(
                f"{path}: the tokenizer has {self._tokenizer.vocab_size} tokens, "
                f"the embedding {vocab_size}"
            )

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation; None where there is none."""
        return None if self._template is None else self._template.text

    def encode(self, prompt: str, *, chat: bool = True) -> list[int]:
        """Token ids of a prompt, beginning with one BOS.

        With `chat`, the prompt is one user turn of the checkpoint's chat template, followed by
        the opening of the model's turn. Control tokens spelled out inside the prompt are text.

        Raises:
            CheckpointError: no chat template, or one that doesn't hold the prompt exactly once
                behind exactly one BOS.
            RequestError: the prompt isn't Unicode text.
        """
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt isn't Unicode text: a lone surrogate at character {error.start}"
            ) from None
        if not chat:
            return [*self.opening, *self._ids(prompt, control=False)]
        before, after, trims = self._frame
        text = prompt.strip() if trims else prompt
        if not any(token in text for token in self._control):
            return self._ids(before + text + after, control=True)
        # Piece by piece, so that only the template's control tokens are control tokens.
        return [
            *self._ids(before, control=True),
            *self._ids(text, control=False),
            *self._ids(after, control=True),
        ]

    @cached_property
    def opening(self) -> list[int]:
        """What every text begins with."""
        if self._bos is not None:
            return [self._bos]
        encoding = self._tokenizer.backend_tokenizer.encode("a")
        special = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return [token for token, _ in takewhile(lambda pair: pair[1], special)]

    @property
    def ends(self) -> frozenset[int]:
        """The token with which texts end, where the tokenizer knows of one."""
        end = self._tokenizer.eos_token_id
        return frozenset() if end is None else frozenset({end})

    @cached_property
    def turn_end(self) -> int | None:
        """Id of the control token with which the chat template ends the model's turn; None where
        there is no template or no such token.

        Raises:
            CheckpointError: the template fails on a conversation of two turns.
        """
        if self._template is None:
            return None
        answered = self._render(_PLACE, self._template.source, answer=_ANSWER)
        ids = self._ids(answered.partition(_ANSWER)[2], control=True)
        return ids[0] if ids and self._tokenizer.decode(ids[:1]) in self._control else None

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without control tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _ids(self, text: str, *, control: bool) -> list[int]:
        backend = self._tokenizer.backend_tokenizer
        backend.encode_special_tokens = not control
        try:
            ids = backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = False
        if ids and max(ids) >= self._embedded:
            raise CheckpointError(
                f"{self._path}: token id {max(ids)} is outside the embedding of {self._embedded}"
            )
        return ids

    @cached_property
    def _frame(self) -> tuple[str, str, bool]:
        """What the chat template puts before and after the prompt, and whether it trims it."""
        if self._template is None:
            raise CheckpointError(
                f"{self._path}: no chat template; give one (chat_template=FILE), or turn it off "
                "(chat=False), as base models want"
            )
        source = self._template.source
        rendered = self._render(_PLACE, source)
        parts = rendered.split(_PLACE)
        if len(parts) != 2:
            raise CheckpointError(
                f"{source}: the chat template holds the prompt {len(parts) - 1} times, not once"
            )
        before, after = parts
        ids = self._ids(before, control=True) + self._ids(after, control=True)
        bos = self._bos
        if bos is not None and (ids[:1] != [bos] or ids.count(bos) != 1):
            raise CheckpointError(
                f"{source}: the chat template must begin with one BOS (id {bos}) "
                f"and has {ids.count(bos)}"
            )
        return before, after, self._render(f" {_PLACE} ", source) == rendered

    def _render(self, content: str, source: Path, *, answer: str = "") -> str:
        """A prompt in the template, and behind it an answer or what precedes one."""
        turns = [{"role": "user", "content": content}]
        if answer:
            turns.append({"role": "assistant", "content": answer})
        try:
            return self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=not answer,
                strftime_now=_TODAY.strftime,
            )
        except Exception as error:
            # A template is a program, which can fail in any way.
            raise CheckpointError(
                f"{source}: the chat template fails ({_reason(error)})"
            ) from error


def _reason(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters: the checkpoint may have
    written it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
