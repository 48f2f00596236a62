"""A small tokenizer in the form of Gemma's: BPE, spaces as ▁, control tokens, chat template."""

import json
from pathlib import Path

CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("▁", "the"),
    ("u", "s"),
    ("us", "e"),
    ("use", "r"),
    ("\n", "▁"),
]


def save_tokenizer(path: Path, *, template: str | None = TEMPLATE, more: int = 0) -> Path:
    """Write a tokenizer of 109 tokens, and `more` that nothing stands for."""
    words = [*CONTROL, "▁", "\n", *map(chr, range(33, 127)), *map("".join, _MERGES)]
    words += [f"<word{number}>" for number in range(more)]
    control = [
        {
            "id": number,
            "content": word,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for number, word in enumerate(CONTROL)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": control,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": [list(pair) for pair in _MERGES],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    if template is not None:
        settings["chat_template"] = template
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path
