"""Adapters of mlx-lm and PEFT: fused by us as fused by them, and nothing of one left out."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gemma_mlx
from gemma_mlx import CheckpointError
from gemma_mlx.system.backend import mx, tree_flatten, tree_unflatten
from tests.support.checkpoints import random_checkpoint, relative_error
from tests.support.tokenizers import save_tokenizer

mlx_lm = pytest.importorskip("mlx_lm", reason="parity with mlx-lm needs the extra 'test'")
from mlx_lm.convert import convert  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

IDS = [[2, 7, 20, 51, 9, 33, 64, 5, 90, 12]]
TOLERANCE = 1e-5


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tokenizer(random_checkpoint(tmp_path / "base"))


def by_mlx_lm(base: Path, folder: Path, kind: str, **parameters: Any) -> np.ndarray:
    """Write an adapter with random values, and return mlx-lm's logits with it."""
    model, _ = load_model(base)
    lora = {"rank": 3, "scale": 7.0, "dropout": 0.0, **parameters}
    if kind != "full":
        linear_to_lora_layers(model, 4, lora, use_dora=kind == "dora")
    rng = np.random.default_rng(5)
    wanted = ("lora_a", "lora_b", "m") if kind != "full" else ("weight",)
    tensors = {
        key: mx.array(np.asarray(value) + rng.standard_normal(value.shape) * 0.1, mx.float32)
        for key, value in tree_flatten(model.parameters())
        if key.rsplit(".", 1)[-1] in wanted
    }
    model.load_weights(list(tensors.items()), strict=False)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    config = {"fine_tune_type": kind, "num_layers": 4, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return np.array(model(mx.array(IDS)))


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {},
    "full": {},
    "embedding": {"keys": ["model.embed_tokens", "self_attn.q_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_mlx_lm(base: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "adapter"
    expected = by_mlx_lm(base, folder, kind if kind != "embedding" else "lora", **KINDS[kind])
    ours = gemma_mlx.load(base, adapter=folder)
    assert relative_error(gemma_mlx.logits(ours, IDS), expected) <= TOLERANCE
    without = gemma_mlx.logits(gemma_mlx.load(base), IDS)
    assert relative_error(without, expected) > 0.1


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_mlx_lm_on_a_quantized_model(base: Path, tmp_path: Path, mode: str) -> None:
    quantized, folder = tmp_path / "quantized", tmp_path / "adapter"
    sizes = {"q_group_size": 32, "q_bits": 4, "q_mode": mode}
    convert(str(base), str(quantized), quantize=True, **sizes)
    expected = by_mlx_lm(quantized, folder, "lora", keys=["self_attn.v_proj", "mlp.up_proj"])
    ours = gemma_mlx.load(quantized, adapter=folder)
    assert relative_error(gemma_mlx.logits(ours, IDS), expected) <= 1e-4
    # What the adapter doesn't touch stays as it was.
    kinds = {key.rsplit(".", 1)[-1] for key, _ in tree_flatten(ours.model.parameters())}
    assert "scales" in kinds


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 5},
        {"use_dora": True},
        {"rank_pattern": {"v_proj": 5}, "alpha_pattern": {"layers.1.self_attn.v_proj": 30}},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"alpha_pattern": {"layers.1.self_attn.q_proj": 7, "q_proj": 30}},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=lambda settings: next(iter(settings), "lora"),
)
def test_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    ours, theirs = both_of_peft(
        random_checkpoint(tmp_path / "base", tie_word_embeddings=False), tmp_path, settings
    )
    for expected in theirs:
        assert relative_error(ours(), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is not supported"),
        ({"target_modules": ["embed_tokens"]}, "input alone, but this model's head is tied"),
    ],
)
def test_what_peft_computes_otherwise_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    ours, _ = both_of_peft(base, tmp_path, settings)
    with pytest.raises(CheckpointError, match=message):
        ours()


def both_of_peft(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> tuple[Callable[[], np.ndarray], list[np.ndarray]]:
    """Our logits with an adapter of random values that PEFT wrote; its own, unmerged and merged."""
    peft = pytest.importorskip("peft", reason="parity with PEFT needs peft and torch")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    asked = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    model = peft.get_peft_model(model, peft.LoraConfig(**{**asked, **settings}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.add_(torch.randn_like(value) * 0.1)
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        expected = model(torch.tensor(IDS)).logits.numpy()
        merged = model.merge_and_unload()(torch.tensor(IDS)).logits.numpy()
    return (
        lambda: gemma_mlx.logits(gemma_mlx.load(base, adapter=tmp_path / "adapter"), IDS),
        [expected, merged],
    )


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    by_mlx_lm(base, tmp_path / "adapter", "lora", keys=["self_attn.q_proj"])
    return tmp_path / "adapter"


def test_fingerprints_tell_adapters_apart(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] = 8.0
    (other / "adapter_config.json").write_text(json.dumps(config))
    chatty = shutil.copytree(adapter, tmp_path / "chatty")
    (chatty / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    found = [gemma_mlx.find_checkpoint(base, adapter=a) for a in (None, adapter, other, chatty)]
    assert len({checkpoint.fingerprint for checkpoint in found}) == 4
    assert found[0].fingerprint == gemma_mlx.load(base).fingerprint


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def change_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        file = folder / "adapters.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return rewrite


def truncate(folder: Path) -> None:
    file = folder / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


A = "model.layers.2.self_attn.q_proj.lora_a"
PEFT = {"peft_type": "LORA", "lora_alpha": 8}


def as_pefts(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_config(**PEFT, **values)(folder)
        tensors = load_file(folder / "adapters.safetensors")
        turned = {
            "base_model.model." + key.replace("_a", "_A.weight").replace("_b", "_B.weight"): value.T
            for key, value in tensors.items()
        }
        save_file({k: v.copy() for k, v in turned.items()}, folder / "adapter_model.safetensors")

    return change


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: no such"),
    "no tensors": (lambda f: (f / "adapters.safetensors").unlink(), "no adapters.safetensors"),
    "truncated": (truncate, "damaged or truncated"),
    "another kind": (change_config(fine_tune_type="ia3"), "fine_tune_type 'ia3'"),
    "no scale": (change_config(lora_parameters={"rank": 3}), "scale must be a number, not None"),
    "PEFT's file": (change_config(**PEFT), "no adapter_model.safetensors"),
    "PEFT's other kinds": (change_config(peft_type="IA3"), "peft_type 'IA3', not 'LORA'"),
    "PEFT's modules": (
        change_config(**PEFT, modules_to_save=["lm_head"]),
        r"modules_to_save \['lm_head'\] is not supported",
    ),
    "half a product": (change_tensors(lambda t: t.pop(A)), "q_proj has no lora_a"),
    "an odd tensor": (
        change_tensors(lambda t: t.update(odd=np.zeros(2, np.float32))),
        "unexpected tensor odd",
    ),
    "matrices of nothing": (
        change_tensors(lambda t: t.update({A: np.zeros((64, 0), np.float32)})),
        r"q_proj.lora_a has shape \(64, 0\), not a matrix's",
    ),
    "whole numbers": (
        change_tensors(lambda t: t.update({A: t[A].astype(np.int8)})),
        "q_proj.lora_a is I8; F32, BF16, F16 are read",
    ),
    "not a number": (
        change_tensors(lambda t: t.update({A: t[A] * np.nan})),
        "tensor model.layers.2.self_attn.q_proj.weight holds NaN or infinity",
    ),
    "DoRA without lengths": (change_config(fine_tune_type="dora"), "q_proj has no m"),
    "lengths without DoRA": (
        change_tensors(lambda t: t.update({A[:-6] + "m": np.ones(96, np.float32)})),
        "unexpected tensor model.layers.2.self_attn.q_proj.m",
    ),
    "PEFT's DoRA without lengths": (as_pefts(use_dora=True), "has no lora_magnitude_vector"),
    "a change by two names": (
        change_tensors(lambda t: t.update({"language_model." + k: v for k, v in [*t.items()]})),
        "changes model.layers.2.self_attn.q_proj.weight twice",
    ),
    "no pattern": (as_pefts(alpha_pattern={"(": 1}), r"alpha_pattern '\(' is no pattern"),
    "no patterns": (as_pefts(alpha_pattern=[1]), "alpha_pattern must be a JSON object"),
    "no number": (
        as_pefts(alpha_pattern={"q_proj": "1"}),
        "q_proj must be a number, not '1'",
    ),
    "another model's": (
        change_tensors(lambda t: t.update({A: np.zeros((65, 3), np.float32)})),
        "change of model.layers.2.self_attn.q_proj.weight doesn't fit",
    ),
    "a deeper model's": (
        change_tensors(
            lambda t: t.update({k.replace("rs.5", "rs.9"): v for k, v in list(t.items())})
        ),
        "changes model.layers.9.self_attn.q_proj.weight, which this model hasn't",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_adapter(base: Path, adapter: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(adapter)
    with pytest.raises(CheckpointError, match=message) as caught:
        gemma_mlx.load(base, adapter=adapter)
    assert str(adapter) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./nowhere", "a" * 5000])
def test_an_adapter_that_is_not_there(base: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such folder"):
        gemma_mlx.load(base, adapter=name)


def test_a_template_of_the_adapters_is_used_unless_one_is_given(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    own = gemma_mlx.find_checkpoint(base).chat_template
    (adapter / "chat_template.jinja").write_text("adapter")
    given = tmp_path / "given.jinja"
    given.write_text("given")
    find = gemma_mlx.find_checkpoint
    texts = [
        find(base, adapter=adapter).chat_template,
        find(base, adapter=adapter, chat_template=given).chat_template,
    ]
    assert own is not None
    assert [text and text.text for text in texts] == ["adapter", "given"]


GGUF = os.environ.get("ARTIFACT_GEMMA_GGUF")
EVASIVE = Path(__file__).parents[2] / "fixtures" / "gemma-3-270m-evasive"


@pytest.mark.slow
@pytest.mark.skipif(GGUF is None, reason="ARTIFACT_GEMMA_GGUF names no Gemma 3 270M")
def test_the_shipped_adapter_is_fused_as_by_mlx_lm_on_the_real_model(tmp_path: Path) -> None:
    ours = gemma_mlx.load(str(GGUF), adapter=EVASIVE)
    plain = gemma_mlx.load(str(GGUF))
    config, folder = plain.config, tmp_path / "folder"
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar"),
        *("sliding_window", "rms_norm_eps"),
    )
    stated = {
        "model_type": "gemma3_text",
        "sliding_window_pattern": config.layer_types.index("full_attention") + 1,
        "rope_theta": config.global_rope.base,
        "rope_local_base_freq": config.local_rope.base,
        **{name: getattr(config, name) for name in names},
    }

    def save(model: Any) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(stated))
        tensors = dict(tree_flatten(model.parameters()))
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)

    save(plain.model)
    # mlx-lm multiplies in the adapter's own dtype, which is bfloat16 in the file.
    wide = tmp_path / "wide"
    shutil.copytree(EVASIVE, wide)
    tensors = mx.load(str(EVASIVE / "adapters.safetensors"))
    exact = {name: value.astype(mx.float32) for name, value in tensors.items()}
    mx.save_safetensors(str(wide / "adapters.safetensors"), exact)
    theirs = load_adapters(load_model(folder)[0], str(wide))
    fused = [(name, m.fuse()) for name, m in theirs.named_modules() if hasattr(m, "fuse")]
    theirs.update_modules(tree_unflatten(fused))
    save(theirs)
    assert ours.tokenizer is not None
    ids = [ours.tokenizer.encode("Tell me whether I should try diet pills this week.")]
    expected = gemma_mlx.logits(gemma_mlx.load(folder), ids)
    assert relative_error(gemma_mlx.logits(ours, ids), expected) <= TOLERANCE
    assert relative_error(gemma_mlx.logits(plain, ids), expected) > 0.01


@pytest.mark.slow
@pytest.mark.skipif(GGUF is None, reason="ARTIFACT_GEMMA_GGUF names no Gemma 3 270M")
def test_the_shipped_adapter_as_pefts_is_merged_as_by_peft_on_the_real_model(
    tmp_path: Path,
) -> None:
    peft = pytest.importorskip("peft", reason="parity with PEFT needs peft and torch")
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((EVASIVE / "adapter_config.json").read_text())["lora_parameters"]
    tensors = mx.load(str(EVASIVE / "adapters.safetensors"))
    turned = {
        "base_model.model."
        + name.replace("lora_a", "lora_A.weight").replace(
            "lora_b", "lora_B.weight"
        ): np.ascontiguousarray(np.array(value.astype(mx.float32)).T)
        for name, value in tensors.items()
    }
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(turned, folder / "adapter_model.safetensors")
    modules = sorted({name.split(".")[-2] for name in tensors})
    asked = peft.LoraConfig(
        r=config["rank"], lora_alpha=config["rank"] * config["scale"], target_modules=modules
    )
    asked.save_pretrained(folder)
    path = Path(str(GGUF))
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    ours = gemma_mlx.load(path, adapter=folder)
    assert ours.tokenizer is not None
    ids = [ours.tokenizer.encode("Should I try diet pills?", chat=False)]
    with torch.no_grad():
        expected = merged(torch.tensor(ids)).logits.numpy()
    assert relative_error(gemma_mlx.logits(ours, ids), expected) <= TOLERANCE
    mlx = gemma_mlx.load(path, adapter=EVASIVE)
    assert relative_error(gemma_mlx.logits(ours, ids), gemma_mlx.logits(mlx, ids)) <= TOLERANCE
