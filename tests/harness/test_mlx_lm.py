"""Models of mlx-lm: the same numbers as Gemma's own backend, exact batches, sites, the store."""

import json
import math
import shutil
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import CheckpointError, Request, RequestError, Sampling
from gemma_mlx.intervention import ablate, add
from gemma_mlx.system.backend import mx, tree_flatten, tree_unflatten
from harness import Experiment
from harness.backends.choice import find_checkpoint, load_model
from harness.backends.mlx_lm_checkpoint import MlxLmCheckpoint, normalised
from harness.data.pairs import CONDITIONS
from tests.support.builders import document
from tests.support.checkpoints import random_checkpoint, relative_error
from tests.support.collecting import PAIRS, SETTINGS, gather
from tests.support.llama import CONFIG, llama_checkpoint
from tests.support.tokenizers import save_tokenizer

mlx_lm = pytest.importorskip("mlx_lm", reason="needs the extra 'models'")

SITES = ("resid_pre", "attn_out", "mlp_post", "mlp_out", "resid_post")
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(6, 100, n).tolist() for n in (5, 12, 5, 1, 12, 5)]
REQUEST = Request(PROMPTS, layers=(0, 1, 2), max_tokens=4, sites=SITES)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load_model(find_checkpoint(llama_checkpoint(tmp_path_factory.mktemp("llama"))))


def own_model(folder):
    """mlx-lm's own, without hooks."""
    model, _ = mlx_lm.utils.load_model(folder, model_config=normalised(CONFIG))
    return model


def own_checkpoint(model, like, folder, config=CONFIG):
    """The weights of mlx-lm's own model, with the tokenizer of the folder `like`."""
    folder.mkdir(exist_ok=True)
    for file in like.glob("*token*"):
        if folder != like:
            shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder


def run(model, request, batch_size=None):
    found = {}
    model.check(request)
    for batch in model.plan(request, batch_size):
        found.update(zip(batch, model.run(request, batch), strict=True))
    return [found[number] for number in range(len(request.prompts))]


def check_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.token_ids == other.token_ids
        assert one.finish_reason == other.finish_reason
        for site in one.activations:
            error = relative_error(one.activations[site], other.activations[site])
            assert error <= 2e-5, site


def test_a_run_of_both_conditions_is_collected_and_kept(tmp_path):
    checkpoint = find_checkpoint(llama_checkpoint(tmp_path / "llama"))
    settings = replace(SETTINGS, layers=(0, 2), positions="forced", sites=("mlp_out", "mlp_post"))
    run = gather(checkpoint, tmp_path / "store", settings)
    answers = run.responses()
    for pair in PAIRS:
        natural, artifact = (answers[pair.group(arm)] for arm in ("natural", "artifact"))
        assert natural.token_ids == artifact.token_ids
        shape = len(natural.token_ids), 96
        assert run.tokens("mlp_post", 2)[pair.group("artifact")].shape == shape
    assert gather(checkpoint, tmp_path / "store", settings).reused == 1
    other = gather(checkpoint, tmp_path / "store", replace(settings, batch_size=1))
    for group, tokens in run.tokens("mlp_out", 2).items():
        np.testing.assert_allclose(other.tokens("mlp_out", 2)[group], tokens, atol=1e-4)


def test_an_architecture_that_nobody_verified_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.backends.mlx_lm_loading.VERIFIED", frozenset())
    with pytest.warns(UserWarning, match=r"nobody has verified.*harness verify --model"):
        load_model(find_checkpoint(llama_checkpoint(tmp_path)))


def run_twice(folder, entries):
    pairs = folder / "pairs.json"
    pairs.write_text(json.dumps(document({"one": entries})))
    return Experiment(
        llama_checkpoint(folder / "llama"),
        pairs,
        store=folder / "store",
        layers=(0,),
        max_tokens=1,
        noise=True,
    )


def test_a_second_run_for_the_noise_has_nearly_all_prompts_in_other_batches(tmp_path):
    """Lengths that 2, 8 and 30 prompts have: half of the largest batch would change that alone."""
    entries = [
        {"id": letter, **{arm: f"{arm[0]} {letter} {'x' * words}" for arm in CONDITIONS}}
        for letters, words in (("a", 1), ("bcde", 3), ("fghijklmnopqrst", 6))
        for letter in letters
    ]
    experiment = run_twice(tmp_path, entries)
    plan, again = (run.plan() for run in (experiment.activations, experiment.noise_activations))
    assert sorted(map(len, plan)) == [2, 8, 30]
    assert [batch for batch in again if batch in plan] == [
        batch for batch in plan if len(batch) == 2
    ]


def test_prompts_that_are_alone_of_their_length_are_told_of_where_noise_is_asked_for(tmp_path):
    entries = [
        {"id": f"q{n}", "natural": "x" * (2 * n + 1), "artifact": "x" * (2 * n + 2)}
        for n in range(8)
    ]
    experiment = run_twice(tmp_path, entries)
    with pytest.warns(UserWarning, match="16 of 16 prompts are alone in their batch"):
        _ = experiment.noise_activations


def test_architectures_choose_the_backend(tmp_path):
    assert type(find_checkpoint(llama_checkpoint(tmp_path / "llama"))) is MlxLmCheckpoint
    gemma = random_checkpoint(tmp_path / "gemma", num_hidden_layers=2)
    assert type(find_checkpoint(gemma)) is gemma_mlx.Checkpoint
    assert type(find_checkpoint(gemma, backend="mlx_lm")) is MlxLmCheckpoint
    with pytest.raises(CheckpointError, match="unsupported model_type 'llama'"):
        _ = find_checkpoint(tmp_path / "llama", backend="gemma").config


def test_rope_is_put_where_mlx_lm_looks_for_it():
    assert normalised(CONFIG)["rope_theta"] == 700.0
    scaled = {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}
    found = normalised({**CONFIG, "rope_parameters": scaled})
    assert found["rope_theta"] == 5.0
    assert found["rope_scaling"]["type"] == "linear"
    assert found["rope_scaling"]["factor"] == 2.0


@pytest.mark.parametrize("positions", ["generated", "prompt_last", "forced"])
def test_batches_change_nothing(llama, positions):
    given = [RNG.integers(6, 100, n).tolist() for n in (3, 1, 7, 2, 4, 5)]
    request = replace(
        REQUEST, positions=positions, continuation=given if positions == "forced" else None
    )
    batches = llama.plan(request, None)
    assert all(len({len(PROMPTS[i]) for i in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 3
    check_same(run(llama, request), run(llama, request, batch_size=1))


def test_a_row_that_ended_is_left_out_of_what_follows(llama):
    written = run(llama, REQUEST)
    end = written[0].token_ids[1]
    ending = replace(llama, eos_token_ids=frozenset({end}))
    for whole, cut in zip(written, run(ending, REQUEST), strict=True):
        ids = whole.token_ids
        steps = ids.index(end) if end in ids else len(ids)
        assert cut.token_ids == ids[:steps]
        assert cut.finish_reason == ("stop" if end in ids else "length")
        assert cut.activations["mlp_out"].shape == (3, steps, 64)


def test_sampling_depends_on_the_prompts_seed_alone(llama):
    seeds = list(range(len(PROMPTS)))
    request = replace(REQUEST, sampling=Sampling(temperature=1.0), seeds=seeds)
    check_same(run(llama, request), run(llama, request, batch_size=2))
    other = replace(request, seeds=[seed + 1 for seed in seeds])
    assert [g.token_ids for g in run(llama, request)] != [g.token_ids for g in run(llama, other)]


def test_a_site_that_an_architecture_lacks_is_an_error_that_names_those_it_has(llama):
    there = "attn_out, mlp_out, mlp_post, resid_post, resid_pre"
    with pytest.raises(RequestError, match=f"'per_layer_out' wasn't found.*there are {there}"):
        llama.check(replace(REQUEST, sites=("per_layer_out",)))
    with pytest.raises(RequestError, match="layer 3 is outside"):
        llama.check(replace(REQUEST, layers=(3,)))


def test_gemma_is_the_same_model_by_both_backends(tmp_path):
    """Windows of 7 tokens, so that mlx-lm's caches turn over."""
    folder = save_tokenizer(random_checkpoint(tmp_path, num_hidden_layers=3))
    request = replace(REQUEST, max_tokens=9, sites=(*SITES, "mlp_out_normed"))
    ours, theirs = (
        run(load_model(find_checkpoint(folder, backend=backend)), request)
        for backend in ("gemma", "mlx_lm")
    )
    check_same(ours, theirs)


def test_interventions_are_the_same_by_both_backends(tmp_path):
    folder = save_tokenizer(random_checkpoint(tmp_path, num_hidden_layers=3))
    ours, theirs = (
        load_model(find_checkpoint(folder, backend=backend)) for backend in ("gemma", "mlx_lm")
    )
    vectors = RNG.standard_normal((3, 64)).astype(np.float32)
    texts = [[7, 8, 9], [10]]
    for change, site in ((add, "attn_out"), (ablate, "mlp_out"), (add, "resid_post")):
        found = []
        for model in (ours, theirs):
            choice = model.read_choice(PROMPTS[1], texts, layer=1)
            reading = model.read_continuations(PROMPTS[:2], texts, layer=1)
            before = choice.token_log_probs()
            with change(model, site, 1, vectors, each=True):
                changed = choice.token_log_probs()
            with change(model, site, 1, vectors[0]):
                one, whole = choice.token_log_probs(), reading.log_probs()
            assert [each.shape for each in changed] == [(3, 3), (3, 1)]
            assert not np.allclose(changed[0], before[0], atol=1e-3)
            np.testing.assert_allclose(changed[0][:1], one[0], atol=1e-4)
            for some, others in zip(before, choice.token_log_probs(), strict=True):
                np.testing.assert_array_equal(some, others)
            found.append([*before, *changed, *whole])
        for some, others in zip(*found, strict=True):
            np.testing.assert_allclose(some, others, atol=2e-4)


def test_a_wrapped_model_is_mlx_lms_own_bit_for_bit(llama, tmp_path):
    own = own_model(llama_checkpoint(tmp_path))
    expected = np.array(own(mx.array([PROMPTS[1]])))[0]
    np.testing.assert_array_equal(llama.logits(PROMPTS[1]), expected)
    with add(llama, "mlp_out", 1, np.ones(64, np.float32)):
        assert not np.array_equal(llama.logits(PROMPTS[1]), expected)
    np.testing.assert_array_equal(llama.logits(PROMPTS[1]), expected)


def adapted(model, adapter):
    """Give mlx-lm's own model a random LoRA, which is saved in the folder `adapter`."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    lora = {"rank": 3, "scale": 7.0, "dropout": 0.0}
    linear_to_lora_layers(model, 3, lora)
    tensors = {
        name: mx.array(RNG.standard_normal(value.shape) * 0.1, mx.float32)
        for name, value in tree_flatten(model.parameters())
        if "lora_" in name
    }
    model.load_weights(list(tensors.items()), strict=False)
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), tensors)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 3, "lora_parameters": lora})
    )


def test_an_adapter_of_mlx_lm_is_the_fused_model(llama, tmp_path):
    folder, adapter = llama_checkpoint(tmp_path / "llama"), tmp_path / "adapter"
    tuned = own_model(folder)
    adapted(tuned, adapter)
    fused = [(name, each.fuse()) for name, each in tuned.named_modules() if hasattr(each, "fuse")]
    tuned.update_modules(tree_unflatten(fused))
    expected = own_checkpoint(tuned, folder, tmp_path / "fused")
    found = run(load_model(find_checkpoint(folder, adapter=adapter)), REQUEST)
    check_same(found, run(load_model(find_checkpoint(expected)), REQUEST))
    before = run(llama, REQUEST)
    assert not np.allclose(found[0].activations["mlp_out"], before[0].activations["mlp_out"])


def test_a_quantized_checkpoint_is_what_mlx_lm_computes_with_an_adapter_too(tmp_path):
    from mlx_lm.utils import quantize_model

    plain = llama_checkpoint(tmp_path / "llama")
    own, config = quantize_model(own_model(plain), dict(CONFIG), 32, 4)
    folder, adapter = own_checkpoint(own, plain, tmp_path / "4bit", config), tmp_path / "adapter"
    model = load_model(find_checkpoint(folder))

    def expected():
        return np.array(own(mx.array([PROMPTS[1]])))[0]

    np.testing.assert_array_equal(model.logits(PROMPTS[1]), expected())
    check_same(run(model, REQUEST), run(model, REQUEST, batch_size=1))
    adapted(own, adapter)
    tuned = load_model(find_checkpoint(folder, adapter=adapter)).logits(PROMPTS[1])
    assert relative_error(tuned, expected()) <= 1e-5
    assert relative_error(tuned, model.logits(PROMPTS[1])) > 0.1


class TestStates:
    """Layers that keep one state for all tokens before: Mamba's, alone and beside attention."""

    SIZES: ClassVar[dict[str, Any]] = {
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }

    @pytest.fixture
    def load(self, tmp_path):
        def load(**config):
            from mlx_lm.utils import _get_classes

            folder = tmp_path / "model"
            save_tokenizer(folder)
            config = {**self.SIZES, **config}
            kind, arguments = _get_classes(config)
            mx.random.seed(0)
            own = kind(arguments.from_dict(normalised(config)))
            return load_model(find_checkpoint(own_checkpoint(own, folder, folder, config)))

        return load

    @pytest.mark.filterwarnings("ignore:.*nobody has verified")
    def test_a_base_of_rope_that_mlx_lm_does_not_ask_for_is_refused(self, load):
        griffin = {
            "model_type": "recurrent_gemma",
            "attention_bias": False,
            "conv1d_width": 4,
            "logits_soft_cap": 30.0,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
            "lru_width": 64,
        }
        with pytest.raises(CheckpointError, match="RoPE with base 10000, and the config says 700"):
            load(**griffin, rope_theta=700.0)
        load(**griffin, rope_theta=10_000.0)

    @pytest.mark.parametrize("positions", ["generated", "prompt_last", "forced"])
    def test_batches_change_nothing(self, load, positions):
        model = load(
            model_type="jamba",
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_period=3,
            attn_layer_offset=1,
            num_experts=2,
            num_experts_per_tok=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
        )
        sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
        given = [RNG.integers(6, 100, n).tolist() for n in (3, 2, 3, 3, 2, 1)]
        request = replace(
            REQUEST,
            positions=positions,
            sites=sites,
            continuation=given if positions == "forced" else None,
        )
        batches = [set(batch) for batch in model.plan(request, None)]
        # Of given texts, too, one length alone.
        ends = [{0, 2}, {5}] if positions == "forced" else [{0, 2, 5}]
        assert sorted(batches, key=min) == sorted([*ends, {1, 4}, {3}], key=min)
        check_same(run(model, request), run(model, request, batch_size=1))

    @pytest.mark.filterwarnings("ignore:.*nobody has verified")
    def test_what_was_written_gives_the_same_when_it_is_given(self, load):
        """Step by step from the state, or in one pass."""
        model = load(
            model_type="mamba",
            state_size=8,
            conv_kernel=4,
            use_bias=False,
            use_conv_bias=True,
            time_step_rank=4,
        )
        request = replace(REQUEST, sites=("resid_pre", "resid_post"))
        written = run(model, request)
        given = [each.token_ids for each in written]
        again = run(model, replace(request, positions="forced", continuation=given))
        for one, other in zip(written, again, strict=True):
            for site, values in one.activations.items():
                assert relative_error(other.activations[site], values) <= 2e-5
        with pytest.raises(
            RequestError, match=r"'mlp_out' wasn't found.*are resid_post, resid_pre"
        ):
            model.check(Request(PROMPTS, layers=(0,)))


def test_numbers_that_json_has_not_are_read_as_transformers_writes_them(tmp_path):
    folder = llama_checkpoint(tmp_path, time_step_limit=[0.0, {"__float__": "Infinity"}])
    found = find_checkpoint(folder).normalised_config()
    assert found["time_step_limit"] == [0.0, math.inf]


def test_texts_fit_into_a_window_that_mlx_lms_model_hasnt(tmp_path):
    folder = llama_checkpoint(tmp_path, model_type="mistral", sliding_window=9)
    with pytest.raises(RequestError, match="the model's context is 9"):
        load_model(find_checkpoint(folder)).check(REQUEST)


def test_what_the_model_leaves_out_of_a_file_is_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = llama_checkpoint(tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.norm.weight"]}, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load_model(find_checkpoint(folder))
    save_file({**tensors, "model.layers.0.more.weight": tensors["model.norm.weight"]}, file)
    with pytest.raises(CheckpointError, match=r"more\.weight"):
        load_model(find_checkpoint(folder))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load_model(find_checkpoint(folder))
