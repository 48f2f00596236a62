"""A Llama's GGUF file is the model that the same weights are as a folder."""

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import CheckpointError
from gemma_mlx.system.backend import mx
from harness.backends.choice import find_checkpoint, load_model
from tests.support.checkpoints import relative_error
from tests.support.gguf_llama import llama_gguf, words

pytest.importorskip("gguf", reason="GGUF files need the extra 'gguf'")
pytest.importorskip("mlx_lm", reason="needs the extra 'models'")

IDS = [[2, 9, 30, 4, 100, 7, 8, 21, 64, 3, 5, 77]]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return llama_gguf(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama(written):
    return load_model(find_checkpoint(written[0]))


def logits(model):
    return np.asarray(model.model(mx.array(IDS)))


def test_the_model_is_that_of_a_folder(written, llama):
    folder = load_model(find_checkpoint(written[1]))
    np.testing.assert_array_equal(logits(llama), logits(folder))
    assert llama.eos_token_ids == {2}


def test_the_model_is_that_of_transformers(written, llama):
    torch = pytest.importorskip("torch", reason="transformers reads GGUF files with PyTorch")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")
    from transformers import AutoModelForCausalLM

    file = written[0]
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    assert relative_error(logits(llama), expected) < 1e-5


def test_the_tokenizer_comes_from_the_metadata(llama):
    found, names = llama.tokenizer, words()
    ids = found.encode("the the 12é<|endoftext|>", chat=False)
    # Digits stand alone, whatever was merged; control tokens that are spelled out are text.
    assert [names[i] for i in ids[:7]] == ["the", "Ġthe", "Ġ", "1", "2", "Ã", "©"]
    assert len(ids) == 7 + len("<|endoftext|>")
    assert found.decode(ids) == "the the 12é<|endoftext|>"
    assert [names[i] for i in found.encode("the")[:2]] == ["<start_of_turn>", "u"]


def setting(key, value):
    return lambda metadata: metadata.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("llama.expert_count", 8), "unsupported key llama.expert_count"),
        (setting("llama.rope.scaling.type", "yarn"), "rope.scaling.type 'yarn' is not supported"),
        (setting("llama.rope.dimension_count", 8), "rope.dimension_count must be 16, not 8"),
        (setting("llama.block_count", 2), r"layers\.2\."),
        (setting("tokenizer.ggml.pre", "llama-bpe"), "its kind is 'gpt2', 'llama-bpe'"),
    ],
)
def test_metadata_that_are_not_served(tmp_path, change, message):
    file, _ = llama_gguf(tmp_path, change=change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(find_checkpoint(file))
    assert str(file) in str(caught.value)


def test_architectures_choose_the_backend(written):
    assert type(find_checkpoint(written[0], backend="gemma")) is gemma_mlx.gguf.GgufCheckpoint
    with pytest.raises(CheckpointError, match="supported are models of gemma2 and gemma3"):
        _ = find_checkpoint(written[0], backend="gemma").config
