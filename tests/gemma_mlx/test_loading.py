"""Every tensor and key is accounted for, and what is wrong is named in one line."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gemma_mlx
from gemma_mlx import CheckpointError, GemmaConfig
from tests.support.checkpoints import CONFIG, config, random_checkpoint, relative_error, save
from tests.support.checkpoints import weights as random_weights
from tests.support.hub import hub_error

IDS = [[2, 9, 30, 4, 100]]
UP = "model.layers.1.mlp.up_proj.weight"


def change_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def shard(path: Path, names: tuple[str, ...] = ("a.safetensors", "b.safetensors")) -> dict:
    """Split the weights into two files with an index; returns the index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for name, part in zip(names, parts, strict=True):
        save_file({key: tensors[key] for key in part}, path / name)
        index["weight_map"].update(dict.fromkeys(part, name))
    write_index(path, index)
    return index


def write_index(path: Path, index: Any) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def assert_refused(path: Path | str, *parts: str, **how: Any) -> None:
    """One line that holds all the parts."""
    with pytest.raises(CheckpointError) as caught:
        gemma_mlx.load(path, **how)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# Files


def test_a_sharded_checkpoint_is_the_same_model(checkpoint: Path) -> None:
    whole = gemma_mlx.logits(gemma_mlx.load(checkpoint), IDS)
    shard(checkpoint)
    sharded = gemma_mlx.load(checkpoint)
    assert np.array_equal(gemma_mlx.logits(sharded, IDS), whole)


def test_files_that_the_index_leaves_out_are_not_read(checkpoint: Path) -> None:
    shard(checkpoint)
    (checkpoint / "consolidated.safetensors").write_bytes(b"no matter what")
    gemma_mlx.load(checkpoint)


@pytest.mark.parametrize(
    ("claimed", "header"),
    [
        (1 << 60, b"{}"),
        ((1 << 64) - 1, b"{}"),
        (None, b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}'),
        (
            None,
            b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}',
        ),
        (None, b"[" * 100_000),
        (None, b"\x80\x04\x95"),
    ],
    ids=["long header", "longest header", "large tensor", "overflow", "deep", "pickle"],
)
def test_a_header_that_claims_too_much(
    checkpoint: Path, claimed: int | None, header: bytes
) -> None:
    length = len(header) if claimed is None else claimed
    (checkpoint / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"1234")
    assert_refused(checkpoint, "model.safetensors", "damaged or truncated")


@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["empty", "no header", "cut", "a byte less"])
def test_a_truncated_file(checkpoint: Path, kept: int) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert_refused(checkpoint, "model.safetensors", "damaged or truncated")


def test_a_truncated_shard(checkpoint: Path) -> None:
    shard(checkpoint)
    os.truncate(checkpoint / "b.safetensors", (checkpoint / "b.safetensors").stat().st_size - 1)
    assert_refused(checkpoint, "b.safetensors", "damaged or truncated")


def test_an_absent_shard(checkpoint: Path) -> None:
    shard(checkpoint)
    (checkpoint / "b.safetensors").unlink()
    assert_refused(checkpoint, "model.safetensors.index.json", "b.safetensors", "missing")


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/b.safetensors", "x/b.safetensors", "..", ""]
)
def test_a_shard_outside_the_folder(checkpoint: Path, name: str) -> None:
    index = shard(checkpoint)
    index["weight_map"][UP] = name
    write_index(checkpoint, index)
    assert_refused(checkpoint, "model.safetensors.index.json", repr(name), "not a file")


@pytest.mark.parametrize("index", [[], 3, {}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_that_is_none(checkpoint: Path, index: Any) -> None:
    shard(checkpoint)
    write_index(checkpoint, index)
    assert_refused(checkpoint, "model.safetensors.index.json")


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    assert_refused(checkpoint, "no *.safetensors file")


def test_no_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert_refused(checkpoint, "config.json", "no such file")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 5000 + b"]" * 5000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["empty", "open", "not UTF-8", "deep", "huge number"],
)
def test_broken_json(checkpoint: Path, name: str, content: bytes) -> None:
    (checkpoint / name).write_bytes(content)
    assert_refused(checkpoint, name)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"'])
def test_json_that_is_no_object(checkpoint: Path, name: str, content: str) -> None:
    (checkpoint / name).write_text(content)
    assert_refused(checkpoint, name, "expected a JSON object")


# Tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(UP), f"missing tensor {UP}"),
        (lambda t: t.update({"model.extra": np.zeros(3, np.float32)}), "model.extra"),
        (
            lambda t: t.update({"lm_head.weight": np.zeros((131, 64), np.float32)}),
            "tie_word_embeddings is true, but lm_head.weight differs",
        ),
        (
            lambda t: t.update({UP: np.ascontiguousarray(t[UP].T)}),
            f"wrong shape: {UP} is (64, 96), the config asks for (96, 64)",
        ),
        (lambda t: t[UP].__setitem__((0, 0), np.nan), f"tensor {UP} holds NaN or infinity"),
        (lambda t: t[UP].__setitem__((0, 0), np.inf), f"tensor {UP} holds NaN or infinity"),
        (lambda t: t.update({UP: t[UP].astype(np.int32)}), f"wrong dtype: {UP} is mlx.core.int32"),
        (
            lambda t: t.update({f"language_model.{UP}": t[UP]}),
            f"tensor language_model.{UP} occurs twice",
        ),
        (
            lambda t: t.update({UP.replace("weight", "scales"): t["model.norm.weight"]}),
            "unexpected tensor model.layers.1.mlp.up_proj.scales",
        ),
    ],
    ids=["missing", "extra", "head", "shape", "NaN", "infinity", "integers", "twice", "scales"],
)
def test_tensors_that_do_not_fit(
    checkpoint: Path, change: Callable[[dict[str, np.ndarray]], Any], message: str
) -> None:
    def apply(tensors: dict[str, np.ndarray]) -> None:
        change(tensors)
        if f"language_model.{UP}" in tensors:
            # Both spellings of one tensor.
            tensors[f"language_model.{UP}"] = tensors[UP].copy()

    change_weights(checkpoint, apply)
    assert_refused(checkpoint, message)


@pytest.mark.slow
def test_every_parameter_is_loaded_and_used(tmp_path: Path) -> None:
    """A change of any one tensor changes the logits."""
    made = config(
        num_hidden_layers=2,
        sliding_window_pattern=2,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    tensors = random_weights(made)
    before = gemma_mlx.logits(gemma_mlx.load(save(tmp_path, made, tensors)), IDS)
    for key in tensors:
        # Turned round: its size alone may be lost in the norm that follows.
        changed = {**tensors, key: tensors[key][::-1].copy()}
        after = gemma_mlx.logits(gemma_mlx.load(save(tmp_path, made, changed)), IDS)
        assert relative_error(after, before) > 1e-4, key


def test_a_tied_head_that_is_written_out(checkpoint: Path) -> None:
    before = gemma_mlx.logits(gemma_mlx.load(checkpoint), IDS)
    change_weights(
        checkpoint, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()})
    )
    assert np.array_equal(gemma_mlx.logits(gemma_mlx.load(checkpoint), IDS), before)


def test_a_layer_too_many_or_too_few(checkpoint: Path) -> None:
    change_config(checkpoint, num_hidden_layers=3)
    assert_refused(checkpoint, "missing tensor model.layers.2.")
    change_config(checkpoint, num_hidden_layers=1)
    assert_refused(checkpoint, "unexpected tensor model.layers.1.", "more)")


# Config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "unsupported model_type 'gemma'; supported are gemma2, gemma3"),
        ({"model_type": ["gemma3_text"]}, "unsupported model_type ['gemma3_text']"),
        ({"model_type": "gemma3"}, "needs a text_config"),
        (
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention is supported as false",
        ),
        ({"is_causal": False}, "is_causal is supported as true only"),
        ({"quantize_activations": True}, "quantize_activations is supported as false only"),
        ({"per_layer_config": {"1": {"head_dim": 8}}}, "per_layer_config is supported as null"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is supported as 1.0"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor must be a positive"),
        ({"rope_scaling": {"low_freq_factor": 1}}, "low_freq_factor is not supported"),
        ({"rope_scaling": [8]}, "rope_scaling must be an object"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters has 'rope_theta'"),
        ({"rope_parameters": {"full_attention": 3}}, "full_attention must be an object"),
        ({"layer_types": ["full_attention"]}, "layer_types must list 2 layers"),
        ({"layer_types": ["full_attention", "chunked"]}, "unsupported layer type 'chunked'"),
        ({"sliding_window": None}, "sliding_window must be a positive integer, not None"),
        ({"sliding_window_size": 8}, "sliding_window_size is not sliding_window"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive integer"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"head_dim": 1.5}, "head_dim must be a positive integer, not 1.5"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive"),
        ({"bos_token_id": [2, 3]}, "bos_token_id must be one token id"),
        ({"eos_token_id": ["<eos>"]}, "eos_token_id must be a token id"),
        (
            {"quantization": {"group_size": 64, "bits": 7}},
            "bits of mode affine must be one of 1, 2, 3, 4, 5, 6, 8",
        ),
        (
            {"quantization": {"bits": 4}},
            "group_size of mode affine must be one of 32, 64, 128, not None",
        ),
        (
            {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp5"}},
            "quantization: mode must be one of affine, mxfp4, mxfp8, nvfp4, not 'mxfp5'",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq'"),
        (
            {"quantization": {"group_size": 32, "bits": 4, "lm_head": {"bits": 7}}},
            "quantization of lm_head: bits of mode affine must be",
        ),
    ],
)
def test_configs_that_are_not_served(checkpoint: Path, changes: dict, message: str) -> None:
    change_config(checkpoint, **changes)
    assert_refused(checkpoint, "config.json", message)


def test_keys_that_transformers_does_not_read_either_are_noted_and_warned_of_once(
    checkpoint: Path,
) -> None:
    before = gemma_mlx.logits(gemma_mlx.load(checkpoint), IDS)
    change_config(
        checkpoint, altup_num_inputs=4, mystery=[1], nothing=None, unk_token_id=3, is_causal=True
    )
    with pytest.warns(UserWarning, match=r"config\.json: unknown key altup_num_inputs, mystery, w"):
        loaded = gemma_mlx.load(checkpoint)
    assert loaded.config.unknown_keys == ("altup_num_inputs", "mystery")
    np.testing.assert_array_equal(gemma_mlx.logits(loaded, IDS), before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gemma_mlx.load(checkpoint)


def test_unknown_keys_of_a_multimodal_config_are_noted_wherever_they_stand() -> None:
    both = {"model_type": "gemma3", "mystery": 1, "text_config": config(riddle=2, mystery=3)}
    with pytest.warns(UserWarning, match="unknown key mystery, riddle"):
        assert GemmaConfig.from_dict(both).unknown_keys == ("mystery", "riddle")


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    10**30,
    float("nan"),
    "x",
    [],
    [None],
    [[1]],
    {},
    {"a": 1},
]
KEYS = [
    *CONFIG,
    "attention_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_act",
    "hidden_activation",
    "layer_types",
    "quantization",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "sliding_window_size",
    "text_config",
    "tie_word_embeddings",
    "use_bidirectional_attention",
]


def odd_configs() -> Iterator[dict[str, Any]]:
    nested = {
        "rope_parameters": ("full_attention", "sliding_attention"),
        "rope_scaling": ("rope_type", "type", "factor", "rope_theta"),
        "quantization": ("group_size", "bits", "mode", "model.embed_tokens"),
    }
    for value in ODD:
        for key in KEYS:
            yield config(**{key: value})
            yield {"model_type": "gemma3", "text_config": config(**{key: value})}
            yield {"model_type": "gemma3", "text_config": config(), key: value}
            yield config(model_type="gemma2", **({} if key == "model_type" else {key: value}))
        for key, inner in nested.items():
            for name in inner:
                block = {"group_size": 32, "bits": 4} if key == "quantization" else {}
                yield config(**{key: {**block, name: value}})


def read_config(content: dict[str, Any]) -> GemmaConfig | str:
    try:
        return GemmaConfig.from_dict(content, source="there/config.json")
    except CheckpointError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.* unknown key")
def test_every_odd_value_of_every_key_ends_in_a_config_or_in_an_error_that_names_the_file() -> None:
    outcomes = []
    for odd in odd_configs():
        before = repr(odd)
        outcomes.append(read_config(odd))
        assert repr(odd) == before
    refused = [o for o in outcomes if isinstance(o, str)]
    assert all(o.startswith("there/config.json") and "\n" not in o for o in refused)
    served = [o for o in outcomes if isinstance(o, GemmaConfig)]
    assert all(len(o.layer_types) == o.num_hidden_layers for o in served)
    assert len(refused) > len(served) > 0


@pytest.mark.parametrize("value", ["x", -1, 1.5, [None], {"a": 1}, True])
def test_a_generation_config_with_an_odd_end_token(checkpoint: Path, value: Any) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert_refused(checkpoint, "generation_config.json", "eos_token_id must be a token id")


def test_end_tokens_come_from_both_configs(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 9]}))
    assert gemma_mlx.load(checkpoint).eos_token_ids == {1, 9}
    change_config(checkpoint, eos_token_id=None)
    assert gemma_mlx.load(checkpoint).eos_token_ids == {1, 9}
    (checkpoint / "generation_config.json").write_text("{}")
    assert gemma_mlx.load(checkpoint).eos_token_ids == set()


def test_what_the_published_multimodal_configs_leave_out() -> None:
    """google/gemma-3-4b-it states this much of its text model."""
    read = GemmaConfig.from_dict(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "eos_token_id": [1, 106],
            "image_token_index": 262144,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 256,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {"model_type": "siglip_vision_model"},
        }
    )
    assert (read.vocab_size, read.head_dim, read.num_key_value_heads) == (262_208, 256, 4)
    assert (read.eos_token_ids, read.bos_token_id) == ((1, 106), 2)
    assert read.layer_types.count("full_attention") == 5
    assert (read.global_rope.base, read.global_rope.factor) == (1e6, 8.0)
    assert (read.local_rope.base, read.local_rope.factor) == (1e4, 1.0)
    assert read.tie_word_embeddings
    assert read.quantization is None


# Dtypes


@pytest.mark.parametrize("dtype", ["float16", "int8", "float64"])
def test_dtypes_that_are_not_computed_in(checkpoint: Path, dtype: str) -> None:
    assert_refused(
        checkpoint, f"dtype {dtype!r} is not supported", "float32 or bfloat16", dtype=dtype
    )


def test_a_float16_checkpoint_computes_in_float32(checkpoint: Path) -> None:
    change_weights(checkpoint, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    half = gemma_mlx.load(checkpoint)
    assert half.dtype == "float32"
    found = gemma_mlx.logits(half, IDS)
    change_weights(checkpoint, lambda t: t.update({k: v.astype(np.float32) for k, v in t.items()}))
    assert np.array_equal(found, gemma_mlx.logits(gemma_mlx.load(checkpoint), IDS))


def test_activations_beyond_float16_are_finite(tmp_path: Path) -> None:
    """Gemma's residual stream passes 65,504 at its largest; ours may."""
    made = config()
    tensors = random_weights(made)
    tensors["model.embed_tokens.weight"] *= 3e4
    path = save(tmp_path, made, tensors)
    for dtype in ("float32", "bfloat16"):
        gemma = gemma_mlx.load(path, dtype=dtype)
        (found,) = gemma_mlx.generate(gemma, IDS, sites=("resid_post",), max_tokens=4)
        assert np.isfinite(found.activations["resid_post"]).all()
        assert found.activations["resid_post"].max() > 65_504


# Names


def test_a_path_may_be_text_or_have_a_tilde(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gemma_mlx.load(checkpoint).fingerprint
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert gemma_mlx.load("~/checkpoint").fingerprint == expected
    monkeypatch.chdir(checkpoint.parent)
    assert gemma_mlx.load("checkpoint").fingerprint == expected


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub cache of one's own and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, checkpoint: Path, *names: str) -> None:
    """Put files of a checkpoint into a hub cache, as owner/model at its main branch."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = hub / "models--owner--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    for name in names:
        shutil.copy(checkpoint / name, repo / "snapshots" / commit / name)


def test_a_repository_in_the_hub_cache(offline: Path, checkpoint: Path) -> None:
    cache(offline, checkpoint, "config.json", "model.safetensors")
    assert gemma_mlx.load("owner/model").fingerprint == gemma_mlx.load(checkpoint).fingerprint
    assert_refused("owner/model", "owner/model at revision v9", "HF_HUB_OFFLINE", revision="v9")


def test_a_repository_that_is_half_in_the_hub_cache(offline: Path, checkpoint: Path) -> None:
    cache(offline, checkpoint, "config.json")
    assert gemma_mlx.find_checkpoint("owner/model", config_only=True).config.hidden_size == 64
    assert_refused("owner/model", "no *.safetensors file")


@pytest.mark.usefixtures("offline")
def test_a_repository_that_cannot_be_reached() -> None:
    for config_only in (True, False):
        with pytest.raises(CheckpointError, match="owner/modle: not a local folder, not in the"):
            gemma_mlx.find_checkpoint("owner/modle", config_only=config_only)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name",
    ["nowhere", "/nowhere/at all", "./nowhere", "../a/b", "~/nowhere", "a/b/c", "a//b", "a\0b"],
)
def test_a_name_that_is_neither_folder_nor_repository(name: str) -> None:
    assert_refused(name, name, "no such folder, and not a Hugging Face repository")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name", ["owner/.model", "ow ner/model", "owner/mo--del", "o/" + "m" * 200, "o/m\0", "o/\ud800"]
)
def test_a_name_that_no_repository_can_have(name: str) -> None:
    assert_refused(name, name, "Hugging Face hub")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "a gated repository; accept its licence"),
        ("RepositoryNotFoundError", "neither a local folder nor a repository"),
        ("RevisionNotFoundError", "has no revision 'v2'"),
        ("HfHubHTTPError", "can't be reached"),
        ("ConnectError", "can't be reached"),
        ("ProxyError", "can't be reached"),
    ],
)
def test_what_the_hub_answers_is_explained(
    monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> None:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert_refused("owner/model", "owner/model", message, revision="v2")


def test_no_code_is_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    import huggingface_hub

    asked: list[str] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    gemma_mlx.find_checkpoint("owner/model")
    assert {"*.json", "*.safetensors"} <= {*asked}
    for name in ("tokenization.py", "pytorch_model.bin", "model.pkl", "a/setup.cfg", "run.sh"):
        assert not any(fnmatch(name, pattern) for pattern in asked)


def test_a_file_is_no_checkpoint(checkpoint: Path) -> None:
    assert_refused(
        checkpoint / "config.json", "a checkpoint is a folder with config.json, or a GGUF file"
    )


# Fingerprint


def test_the_fingerprint_is_that_of_what_is_read(checkpoint: Path) -> None:
    first = gemma_mlx.load(checkpoint).fingerprint
    (checkpoint / "README.md").write_text("no part of it")
    assert gemma_mlx.load(checkpoint).fingerprint == first
    moved = shutil.copytree(checkpoint, checkpoint.parent / "moved")
    assert gemma_mlx.load(moved).fingerprint == first
    seen = {first}
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        (moved / name).write_text("{}")
        seen.add(gemma_mlx.find_checkpoint(moved).fingerprint)
    change_weights(moved, lambda t: t[UP].__setitem__((0, 0), 0.25))
    seen.add(gemma_mlx.find_checkpoint(moved).fingerprint)
    change_config(moved, eos_token_id=7)
    seen.add(gemma_mlx.find_checkpoint(moved).fingerprint)
    assert len(seen) == 6


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    one, two = (gemma_mlx.load(random_checkpoint(tmp_path / str(s), seed=s)) for s in (0, 1))
    assert one.fingerprint != two.fingerprint
    assert not np.array_equal(gemma_mlx.logits(one, IDS), gemma_mlx.logits(two, IDS))
