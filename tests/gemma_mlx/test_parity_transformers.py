"""The same numbers as `transformers`' PyTorch models: logits, tokens and every site.

The reference reads prompt and generated tokens of one row in one unpadded pass, with forward
hooks; ours reads them in left-padded batches through the caches.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gemma_mlx
from gemma_mlx import SITES, VECTOR_SITES, Gemma, Generation
from gemma_mlx.config import KNOWN_KEYS
from tests.support.checkpoints import relative_error

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity'")
transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-4

BASE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "sliding_window_pattern": 2,
    "max_position_embeddings": 1024,
    "attn_implementation": "eager",
}
ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 50_000.0, "factor": 4.0},
}
GEMMA3: dict[str, dict[str, Any]] = {
    "one query per key": {"num_key_value_heads": 4},
    "four queries per key": {"num_key_value_heads": 1},
    "head_dim is hidden over heads": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "window 4": {"sliding_window": 4},
    "window 512": {"sliding_window": 512, "num_hidden_layers": 2},
    "pattern 1": {"sliding_window_pattern": 1, "num_hidden_layers": 2},
    "pattern 3": {"sliding_window_pattern": 3},
    "pattern 6": {"sliding_window_pattern": 6, "num_hidden_layers": 7},
    "explicit layer types": {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
    },
    "two ropes, one scaled": {"rope_parameters": ROPES},
    "attention cap": {"attn_logit_softcapping": 2.0},
    "final cap": {"final_logit_softcapping": 3.0},
    "both caps, bias, untied": {
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "untied": {"tie_word_embeddings": False},
    "attention bias": {"attention_bias": True},
    "hidden without an exact root": {"hidden_size": 96, "vocab_size": 130},
}


def randomise(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if "norm" in name else 0.15)
    return model.eval()


def prompts(long: int, vocab: int = 130) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab, n).tolist() for n in (long, 3, 9)]


@dataclass
class Reference:
    """A torch model, its block list, and what it gave for one row of token ids."""

    model: Any
    blocks: Any
    softcap: float | None = None

    def __call__(self, ids: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (tokens, vocab) and per site (layers, tokens, width)."""
        seen: dict[str, list[Any]] = {name: [] for name in SITES}
        handles = []

        def before(module: Any, site: str) -> None:
            def hook(_: Any, args: Any, kwargs: Any) -> None:
                seen[site].append(args[0] if args else kwargs["hidden_states"])

            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

        def after(module: Any, *sites: str) -> None:
            def hook(_: Any, __: Any, output: Any) -> None:
                outputs = output if isinstance(output, tuple) else (output,)
                for site, value in zip(sites, outputs, strict=True):
                    seen[site].append(value)

            handles.append(module.register_forward_hook(hook))

        for block in self.blocks:
            before(block, "resid_pre")
            after(block.self_attn, "attn_out", "attn_pattern")
            before(block.pre_feedforward_layernorm, "resid_mid")
            before(block.mlp.down_proj, "mlp_post")
            after(block.mlp, "mlp_out")
            after(block.post_feedforward_layernorm, "mlp_out_normed")
            after(block, "resid_post")
        # Gemma3Attention keeps attn_logit_softcapping to itself; its attention function takes it
        # as an argument, which is what Gemma2Attention does. We honour the config for both.
        extra = {} if self.softcap is None else {"softcap": self.softcap}
        try:
            with torch.no_grad():
                logits = self.model(input_ids=torch.tensor([ids]), use_cache=False, **extra).logits
        finally:
            for handle in handles:
                handle.remove()
        sites = {site: np.stack([v[0].numpy() for v in values]) for site, values in seen.items()}
        return logits[0].numpy(), sites


@dataclass
class Case:
    reference: Reference
    gemma: Gemma
    prompts: list[list[int]]


def gemma3_case(path: Path, changes: dict[str, Any]) -> Case:
    settings = {**BASE, **changes}
    model = randomise(
        transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**settings)).float()
    )
    model.save_pretrained(path)
    long = settings["sliding_window"] + 12
    return Case(
        Reference(model, model.model.layers, settings.get("attn_logit_softcapping")),
        gemma_mlx.load(path),
        prompts(long, settings["vocab_size"]),
    )


def gemma2_case(path: Path) -> Case:
    settings = {**BASE, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
    del settings["sliding_window_pattern"]
    model = randomise(transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**settings)).float())
    model.save_pretrained(path)
    return Case(Reference(model, model.model.layers), gemma_mlx.load(path), prompts(19))


@pytest.fixture(scope="module", params=[*GEMMA3, "gemma 2"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tmp_path_factory.mktemp("parity")
    if request.param == "gemma 2":
        return gemma2_case(path)
    return gemma3_case(path, GEMMA3[request.param])


def test_logits_of_whole_rows(case: Case) -> None:
    for ids in case.prompts:
        expected, _ = case.reference(ids)
        found = gemma_mlx.logits(case.gemma, [ids, ids[::-1]])[0]
        assert relative_error(found, expected) <= TOLERANCE


def check_sites(found: Generation, expected: dict[str, np.ndarray], first: int) -> None:
    """`first` is the position of the first captured token."""
    steps = found.activations["mlp_out"].shape[1]
    assert steps
    for site in VECTOR_SITES:
        error = relative_error(found.activations[site], expected[site][:, first : first + steps])
        assert error <= TOLERANCE, site
    for step, pattern in enumerate(found.activations["attn_pattern"]):
        query = first + step
        error = relative_error(pattern, expected["attn_pattern"][:, :, query, : query + 1])
        assert error <= TOLERANCE, ("attn_pattern", step)


def test_generated_tokens_and_every_site_at_each(case: Case) -> None:
    generations = gemma_mlx.generate(case.gemma, case.prompts, max_tokens=12, sites=tuple(SITES))
    for prompt, generation in zip(case.prompts, generations, strict=True):
        logits, sites = case.reference([*prompt, *generation.token_ids])
        expected = logits[len(prompt) - 1 :].argmax(-1).tolist()
        assert generation.token_ids == expected[: len(generation.token_ids)]
        if generation.finish_reason == "stop":
            assert expected[len(generation.token_ids)] in case.gemma.eos_token_ids
        check_sites(generation, sites, len(prompt))


def test_every_site_at_the_last_prompt_token(case: Case) -> None:
    generations = gemma_mlx.generate(
        case.gemma, case.prompts, max_tokens=0, sites=tuple(SITES), positions="prompt_last"
    )
    for prompt, generation in zip(case.prompts, generations, strict=True):
        _, sites = case.reference(prompt)
        check_sites(generation, sites, len(prompt) - 1)


def test_every_site_at_a_given_continuation(case: Case) -> None:
    continuation = [[7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17, 18], [19]]
    generations = gemma_mlx.generate(
        case.gemma,
        case.prompts,
        sites=tuple(SITES),
        positions="forced",
        continuation=continuation,
    )
    for prompt, more, generation in zip(case.prompts, continuation, generations, strict=True):
        _, sites = case.reference([*prompt, *more])
        check_sites(generation, sites, len(prompt))


# transformers 5 writes the first; 4.52 and later, and its modules in memory, have the second.
PREFIXES: dict[str, dict[str, str]] = {
    "as saved": {},
    "as in memory": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
}


@pytest.mark.parametrize("prefixes", PREFIXES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_text_tower_of_a_multimodal_checkpoint(tmp_path: Path, tied: bool, prefixes: str) -> None:
    model = randomise(
        transformers.Gemma3ForConditionalGeneration(
            transformers.Gemma3Config(
                text_config=transformers.Gemma3TextConfig(**BASE),
                vision_config=transformers.SiglipVisionConfig(
                    hidden_size=8,
                    intermediate_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    image_size=28,
                    patch_size=14,
                ),
                mm_tokens_per_image=4,
                image_token_index=130,
                tie_word_embeddings=tied,
                eos_token_id=[1, 7],
                attn_implementation="eager",
            )
        ).float()
    )
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for old, new in PREFIXES[prefixes].items():
        tensors = {
            new + key.removeprefix(old) if key.startswith(old) else key: value
            for key, value in tensors.items()
        }
    save_file(tensors, file)
    gemma = gemma_mlx.load(tmp_path)
    assert gemma.eos_token_ids == {1, 7}
    reference = Reference(model, model.model.language_model.layers)
    for prompt, generation in zip(
        prompts(19),
        gemma_mlx.generate(gemma, prompts(19), max_tokens=8, sites=tuple(SITES)),
        strict=True,
    ):
        ids = [*prompt, *generation.token_ids]
        logits, sites = reference(ids)
        assert relative_error(gemma_mlx.logits(gemma, [ids])[0], logits) <= TOLERANCE
        check_sites(generation, sites, len(prompt))


def test_the_old_form_of_a_config_says_the_same(tmp_path: Path) -> None:
    """Published configs are transformers 4's: rope_theta, rope_scaling, a window pattern."""
    changes = {**BASE, "sliding_window_pattern": 3, "rope_parameters": ROPES}
    case = gemma3_case(tmp_path, changes)
    new = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
        del new[key]
    old = {
        **new,
        "rope_theta": 50_000.0,
        "rope_local_base_freq": 300.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "sliding_window_pattern": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    again = gemma_mlx.load(tmp_path)
    assert again.config == case.gemma.config
    (tmp_path / "config.json").write_text(
        json.dumps({**old, "rope_scaling": {"type": "linear", "factor": 4}})
    )
    assert gemma_mlx.load(tmp_path).config == case.gemma.config


def test_bfloat16_is_the_same_model(tmp_path: Path) -> None:
    """Rounding differs between any two implementations; the model must not. Both are compared
    with float32: ours may be as far from it as theirs, and half as much again."""
    case = gemma3_case(tmp_path, {"hidden_size": 96, "vocab_size": 130})
    ours = gemma_mlx.load(tmp_path, dtype="bfloat16")
    (ids, *_) = case.prompts
    exact, _ = case.reference(ids)
    case.reference.model.to(torch.bfloat16)
    with torch.no_grad():
        theirs = case.reference.model(input_ids=torch.tensor([ids])).logits.float()[0].numpy()
    found = gemma_mlx.logits(ours, [ids])[0]
    assert relative_error(found, exact) <= 1.5 * relative_error(theirs, exact)


@pytest.mark.parametrize("kind", ["Gemma3Text", "Gemma2"])
def test_every_config_key_that_their_forward_pass_reads_is_known(kind: str) -> None:
    their_config = getattr(transformers, f"{kind}Config")
    read: set[str] = set()

    class Recording(their_config):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    config = their_config(**BASE)
    config.__class__ = Recording
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    model(torch.tensor([[2, 5, 9]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    assert "sliding_window" in read
    # Methods, and attributes that no config.json can set.
    read = {n for n in read if n[0] != "_" and not callable(getattr(config, n, None))}
    harmless = {
        "base_model_ep_plan",
        "base_model_fsdp_plan",
        "base_model_pp_plan",
        "base_model_tp_plan",
        "gradient_checkpointing",
        "is_heterogeneous",
        "name_or_path",
        "vision_aspect_ratio",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    }
    assert read - KNOWN_KEYS - harmless == set()
