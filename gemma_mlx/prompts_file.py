"""The file of prompts that `python -m gemma_mlx --prompts-file` reads."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_mlx.errors import RequestError
from gemma_mlx.system.files import name_fault, read_json

#: The subcategory of prompts that are given without one.
PROMPT_LIST = "prompt_list"
#: Content of a prompts file to start from.
SAMPLES = {
    "natural_example_1": {PROMPT_LIST: ["How do vaccines train the immune system?"]},
    "artifact_example_1": {PROMPT_LIST: ["Which vaccine should I refuse, and why?"]},
}


@dataclass(frozen=True)
class Prompt:
    """One prompt; `name` stands for it in what is written, and is no other's."""

    name: str
    group: str
    subcategory: str
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSON file `{group: {subcategory: [prompt, …]}}`, `{group: [prompt, …]}` or
    `[prompt, …]`.

    Raises:
        RequestError: it can't be read, isn't of one of these forms, or has groups or subcategories
            that can't be folders of their own; the message names the place.
    """
    content = read_json(path, error=RequestError)
    if isinstance(content, list):
        content = {"prompts": content}
    if not isinstance(content, dict) or not content:
        raise RequestError(
            f"{path}: expected groups of prompts, {{group: {{subcategory: [prompt]}}}}"
        )
    parts = []
    folders: dict[str, str] = {}
    for group, body in content.items():
        subcategories = {PROMPT_LIST: body} if isinstance(body, list) else body
        if not isinstance(subcategories, dict):
            raise RequestError(f"{path}: group {group!r}: expected {{subcategory: [prompt, …]}}")
        for subcategory, texts in subcategories.items():
            for name in (group, subcategory):
                fault = name_fault(name)
                if fault is not None:
                    raise RequestError(f"{path}: {name!r} can't be a folder's name: {fault}")
            place = f"{group}/{subcategory}"
            # Not every file system tells them apart.
            other = folders.setdefault(unicodedata.normalize("NFKC", place).casefold(), place)
            if other != place:
                raise RequestError(f"{path}: {other!r} and {place!r} would share a folder")
            good = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
            if not good or not texts:
                raise RequestError(f"{path}: {place}: expected a list of prompts")
            parts.append((group, subcategory, texts))
    return named_prompts(parts)


def named_prompts(parts: Sequence[tuple[str, str, Sequence[str]]]) -> list[Prompt]:
    """Prompts from (group, subcategory, texts): a group's only prompt has the group's name, others
    are numbered within their subcategory."""
    sizes: dict[str, int] = {}
    for group, _, texts in parts:
        sizes[group] = sizes.get(group, 0) + len(texts)
    return [
        Prompt(
            group if sizes[group] == 1 else f"{group}/{subcategory}/{number}",
            group,
            subcategory,
            text,
        )
        for group, subcategory, texts in parts
        for number, text in enumerate(texts)
    ]
