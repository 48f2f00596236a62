"""Collected once, resumed where it stopped, and each prompt's own activations."""

import dataclasses
import fcntl
import shutil
from dataclasses import fields, replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

import gemma_mlx
import harness.collect
from gemma_mlx import Checkpoint, CheckpointError, RequestError, Sampling
from harness.analysis.estimating import AnalysisError, analyze
from harness.collect import collect
from harness.data.store import RunStore, StoreError
from harness.progress import SILENT
from harness.results.provenance import origin
from harness.settings import CollectSettings
from tests.support import forked
from tests.support.builders import checkpoint, document, entry, parsed
from tests.support.collecting import PAIRS, SETTINGS, gather, shards


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint, tmp_path_factory):
    return gather(small_checkpoint, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def store(undisturbed, tmp_path):
    """A copy of the store that `undisturbed` lies in."""
    return Path(shutil.copytree(undisturbed.root, tmp_path / "store"))


@pytest.fixture
def no_model(monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(gemma_mlx, "load_checkpoint", load)


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that are run; append an exception to `fail` to raise it in turn."""
    run_batch = gemma_mlx.run_batch
    sizes = []

    def counted(gemma, request, batch):
        if counted.fail:
            error = counted.fail.pop(0)
            if error is not None:
                raise error
        sizes.append(len(batch))
        return run_batch(gemma, request, batch)

    counted.fail = []
    monkeypatch.setattr(gemma_mlx, "run_batch", counted)
    counted.sizes = sizes
    return counted


class TestWhatIsCollected:
    def test_every_prompt_has_its_own(self, small_checkpoint, undisturbed):
        """What a group holds is what the model gives for that prompt alone."""
        gemma = gemma_mlx.load_checkpoint(small_checkpoint)
        prompts = PAIRS.prompts()
        responses, tokens = undisturbed.responses(), undisturbed.tokens("mlp_out", 3)
        assert set(responses) == set(tokens) == set(prompts)
        for group, prompt in prompts.items():
            (alone,) = gemma_mlx.generate(gemma, [prompt], max_tokens=3, layers=(3,))
            assert responses[group].token_ids == tuple(alone.token_ids)
            assert responses[group].text == alone.text
            np.testing.assert_allclose(tokens[group], alone.activations["mlp_out"][0], atol=1e-5)

    def test_layers_are_those_asked_for(self, small_checkpoint, undisturbed, tmp_path):
        every = gather(small_checkpoint, tmp_path, replace(SETTINGS, layers=()))
        for layer in SETTINGS.layers:
            one, other = undisturbed.tokens("mlp_out", layer), every.tokens("mlp_out", layer)
            for group in PAIRS.prompts():
                np.testing.assert_array_equal(one[group], other[group])

    @pytest.mark.parametrize("layers", [SETTINGS.layers, ()])
    def test_a_layer_that_is_not_there_is_named(self, small_checkpoint, tmp_path, layers):
        run = gather(small_checkpoint, tmp_path, replace(SETTINGS, layers=layers))
        there = ", ".join(map(str, layers or range(6)))
        for layer in (6, -1):
            with pytest.raises(StoreError, match=f"layer {layer} .* there are layers {there}$"):
                run.tokens("mlp_out", layer)

    def test_batch_size_does_not_matter(self, small_checkpoint, undisturbed, tmp_path):
        for size in (1, None):
            other = gather(small_checkpoint, tmp_path, replace(SETTINGS, batch_size=size))
            assert other.responses() == undisturbed.responses()
            for layer in SETTINGS.layers:
                one, two = undisturbed.tokens("mlp_out", layer), other.tokens("mlp_out", layer)
                for group in PAIRS.prompts():
                    np.testing.assert_allclose(one[group], two[group], atol=1e-5)

    def test_order_of_pairs_does_not_matter(self, small_checkpoint, undisturbed, store, no_model):
        backwards = replace(PAIRS, pairs=PAIRS.pairs[::-1])
        assert gather(small_checkpoint, store, pairs=backwards).key == undisturbed.key

    def test_prompt_last_is_one_step(self, small_checkpoint, tmp_path):
        run = gather(small_checkpoint, tmp_path, replace(SETTINGS, positions="prompt_last"))
        assert {array.shape for array in run.tokens("mlp_out", 0).values()} == {(1, 64)}

    def test_forced_gives_both_arms_the_natural_answer(
        self, small_checkpoint, undisturbed, tmp_path
    ):
        run = gather(small_checkpoint, tmp_path, replace(SETTINGS, positions="forced"))
        answers, free = run.responses(), undisturbed.responses()
        forced, generated = run.tokens("mlp_out", 3), undisturbed.tokens("mlp_out", 3)
        differ = False
        for pair in PAIRS:
            natural, artifact = pair.group("natural"), pair.group("artifact")
            assert answers[natural].token_ids == free[natural].token_ids
            assert answers[artifact].token_ids == free[natural].token_ids
            np.testing.assert_allclose(forced[natural], generated[natural], atol=1e-5)
            differ |= not np.allclose(forced[artifact], forced[natural], atol=1e-3)
        assert differ, "the prompt before the answer makes no difference"

    def test_forced_again_loads_no_model(self, small_checkpoint, tmp_path, monkeypatch):
        forced = replace(SETTINGS, positions="forced")
        first = gather(small_checkpoint, tmp_path, forced)
        monkeypatch.setattr(gemma_mlx, "load_checkpoint", None)
        assert gather(small_checkpoint, tmp_path, forced).key == first.key

    @pytest.mark.parametrize("positions", ["generated", "forced"])
    def test_model_that_answers_nothing(self, tmp_path, positions):
        """Every token ends the turn, so that every response is empty."""
        mute = checkpoint(tmp_path / "mute", eos_token_id=list(range(131)))
        settings = replace(SETTINGS, positions=positions)
        run = gather(mute, tmp_path / "store", settings)
        assert {response.token_ids for response in run.responses().values()} == {()}
        assert {array.shape for array in run.tokens("mlp_out", 0).values()} == {(0, 64)}
        with pytest.raises(AnalysisError, match="no pair has a response with tokens"):
            analyze(run, PAIRS, layers=SETTINGS.layers, sites=["mlp_out"])


class TestReuse:
    def test_second_call_loads_no_model(self, small_checkpoint, undisturbed, store, no_model):
        run = gather(small_checkpoint, store)
        assert shards(run) == shards(undisturbed)
        assert run.reused == 1
        assert undisturbed.reused == 0

    def test_collected_again_on_request(self, small_checkpoint, undisturbed, store, batches):
        run = gather(small_checkpoint, store, again=True)
        assert run.reused == 0
        assert sorted(batches.sizes) == [2, 3, 3]
        assert shards(run) == shards(undisturbed)

    def test_what_cannot_be_collected_again_is_kept(
        self, small_checkpoint, undisturbed, store, monkeypatch
    ):
        def fail(*_args, **_kwargs):
            raise CheckpointError("no longer there")

        monkeypatch.setattr(gemma_mlx, "load_checkpoint", fail)
        with pytest.raises(CheckpointError, match="no longer there"):
            gather(small_checkpoint, store, again=True)
        assert shards(RunStore(store, undisturbed.settings)) == shards(undisturbed)

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
    def test_interrupted_collection_goes_on(
        self, small_checkpoint, undisturbed, tmp_path, batches, error
    ):
        batches.fail = [None, error]
        with pytest.raises(type(error)):
            gather(small_checkpoint, tmp_path)
        assert len(batches.sizes) == 1
        run = gather(small_checkpoint, tmp_path)
        assert sorted(batches.sizes) == [2, 3, 3], "a finished batch was run again"
        assert shards(run) == shards(undisturbed)

    def test_interrupted_before_the_first_batch(
        self, small_checkpoint, undisturbed, tmp_path, batches
    ):
        batches.fail = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            gather(small_checkpoint, tmp_path)
        assert shards(gather(small_checkpoint, tmp_path)) == shards(undisturbed)

    def test_plan_is_kept_by_a_resumed_collection(
        self, small_checkpoint, undisturbed, store, batches, monkeypatch
    ):
        """The batches of the first process hold, even if this one would plan others."""
        RunStore(store, undisturbed.settings).shards()[1].unlink()
        monkeypatch.setattr(gemma_mlx, "plan_batches", None)
        run = gather(small_checkpoint, store)
        assert shards(run) == shards(undisturbed)
        assert run.reused == 5 / 8
        assert origin(run)["origin"] == (
            "62% of the prompts taken from the store, the others collected by this run"
        )
        assert batches.sizes == [3]

    def test_damaged_shard_is_collected_again(self, small_checkpoint, undisturbed, store, batches):
        damaged = RunStore(store, undisturbed.settings).shards()[2]
        damaged.write_bytes(damaged.read_bytes()[:-1])
        with pytest.warns(UserWarning, match=f"{damaged.name}: damaged"):
            run = gather(small_checkpoint, store)
        assert len(batches.sizes) == 1
        assert shards(run) == shards(undisturbed)

    def test_whoever_waits_is_told_meanwhile(
        self, small_checkpoint, undisturbed, store, monkeypatch
    ):
        monkeypatch.setattr("harness.data.store._PATIENCE", 0.0)
        shown = []

        def bars(*arguments, **how):
            shown.append(how.get("bar_format"))
            return SILENT(*arguments, **how)

        other = (RunStore(store, undisturbed.settings).path / "lock").open("a")
        fcntl.flock(other, fcntl.LOCK_EX)
        Timer(0.3, other.close).start()
        with pytest.warns(UserWarning, match="waiting for it"):
            collect(small_checkpoint, PAIRS, SETTINGS, store, bars=bars)
        assert shown == ["another process is collecting this run; waiting for it"]

    @pytest.mark.slow
    def test_two_processes_at_once(self, small_checkpoint, undisturbed, tmp_path):
        alone = ["-m", "tests.support.together_collect", str(small_checkpoint.path)]
        outputs = [tmp_path / f"output_{number}" for number in range(2)]
        processes = [
            forked.start(
                forked.program,
                [*alone, str(tmp_path / "store"), "[{}]"],
                output=output,
                errors=output.with_suffix(".errors"),
            )
            for output in outputs
        ]
        for process in processes:
            process.join(120)
        counts = [int(output.read_text()) for output in outputs]
        assert sum(counts) == 3
        assert shards(RunStore(tmp_path / "store", undisturbed.settings)) == shards(undisturbed)


# A value for each setting that differs from SETTINGS.
OTHER_SETTINGS = {
    "sites": ("resid_post",),
    "layers": (0, 1),  # (0, 3) would be served by the run that has both
    "positions": "prompt_last",
    "max_tokens": 4,
    "sampling": Sampling(temperature=0.5),
    "seed": 1,
    "batch_size": 2,
    "chat": False,
    "dtype": "bfloat16",
    "tensor_parallel": 2,
}
OTHER_SAMPLING = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
}


def copied(model: Checkpoint, folder: Path) -> Checkpoint:
    return Checkpoint(Path(shutil.copytree(model.path, folder / "copy")))


class TestKeys:
    """A stored run is used only if everything that matters is the same."""

    def test_every_field_is_covered_here(self):
        assert set(OTHER_SETTINGS) == {field.name for field in fields(CollectSettings)}
        assert set(OTHER_SAMPLING) == {field.name for field in fields(Sampling)}

    def loads(self, monkeypatch, model, store, settings=SETTINGS, pairs=PAIRS):
        """Whether the model is loaded, as something is missing in the store."""

        class LoadedError(Exception):
            pass

        def load(*_args, **_kwargs):
            raise LoadedError

        monkeypatch.setattr(gemma_mlx, "load_checkpoint", load)
        try:
            gather(model, store, settings, pairs=pairs)
        except LoadedError:
            return True
        except RequestError as error:
            # A model that several processes hold together can't be loaded by this one alone.
            return settings.tensor_parallel > 1 and "are to hold this model together" in str(error)
        return False

    @pytest.mark.parametrize("name", OTHER_SETTINGS)
    def test_setting(self, small_checkpoint, store, monkeypatch, name):
        assert not self.loads(monkeypatch, small_checkpoint, store)
        settings = replace(SETTINGS, **{name: OTHER_SETTINGS[name]})
        assert self.loads(monkeypatch, small_checkpoint, store, settings)

    @pytest.mark.parametrize("name", OTHER_SAMPLING)
    def test_sampling(self, small_checkpoint, store, monkeypatch, name):
        settings = replace(SETTINGS, sampling=Sampling(**{name: OTHER_SAMPLING[name]}))
        assert self.loads(monkeypatch, small_checkpoint, store, settings)

    @pytest.mark.parametrize("condition", ["natural", "artifact"])
    def test_prompt(self, small_checkpoint, store, monkeypatch, condition):
        first, *others = PAIRS.pairs
        changed = dataclasses.replace(first, **{condition: first.prompt(condition) + " "})
        pairs = replace(PAIRS, pairs=(changed, *others))
        assert self.loads(monkeypatch, small_checkpoint, store, pairs=pairs)

    def test_arms(self, small_checkpoint, store, monkeypatch):
        first, *others = PAIRS.pairs
        changed = dataclasses.replace(first, natural=first.artifact, artifact=first.natural)
        pairs = replace(PAIRS, pairs=(changed, *others))
        assert self.loads(monkeypatch, small_checkpoint, store, pairs=pairs)

    def test_device(self, small_checkpoint, store, monkeypatch):
        monkeypatch.setattr(gemma_mlx, "device_name", lambda: "another")
        assert self.loads(monkeypatch, small_checkpoint, store)

    def test_mlx(self, small_checkpoint, store, monkeypatch):
        monkeypatch.setattr(harness.collect, "version", lambda name: f"another {name}")
        assert self.loads(monkeypatch, small_checkpoint, store)

    def test_blas(self, small_checkpoint, store, monkeypatch):
        monkeypatch.setattr(gemma_mlx, "BLAS", "another")
        assert self.loads(monkeypatch, small_checkpoint, store)

    def test_our_own_code(self, small_checkpoint, store, monkeypatch):
        monkeypatch.setattr(harness.collect, "CODE_VERSION", 0)
        assert self.loads(monkeypatch, small_checkpoint, store)

    def test_place_of_the_checkpoint_does_not_matter(
        self, small_checkpoint, store, tmp_path, monkeypatch
    ):
        assert not self.loads(monkeypatch, copied(small_checkpoint, tmp_path), store)

    @pytest.mark.parametrize(
        "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    )
    def test_file_of_the_checkpoint(self, small_checkpoint, store, tmp_path, monkeypatch, name):
        model = copied(small_checkpoint, tmp_path)
        content = (model.path / name).read_bytes()
        changed = content[:-1] + bytes([content[-1] ^ 1])
        (model.path / name).write_bytes(content + b"\n" if name.endswith("json") else changed)
        assert self.loads(monkeypatch, model, store)

    @pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja"])
    def test_added_file_of_the_checkpoint(
        self, small_checkpoint, store, tmp_path, monkeypatch, name
    ):
        model = copied(small_checkpoint, tmp_path)
        (model.path / name).write_text("{}")
        assert self.loads(monkeypatch, model, store)

    def test_answers_that_are_forced(self, small_checkpoint, tmp_path, monkeypatch):
        forced = replace(SETTINGS, positions="forced")
        gather(small_checkpoint, tmp_path, forced)
        assert not self.loads(monkeypatch, small_checkpoint, tmp_path, forced)
        longer = replace(forced, max_tokens=4)
        assert self.loads(monkeypatch, small_checkpoint, tmp_path, longer)


class TestRefusals:
    def test_no_tokenizer(self, small_checkpoint, tmp_path):
        model = copied(small_checkpoint, tmp_path)
        (model.path / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
            gather(model, tmp_path / "store")

    def test_prompt_longer_than_the_context(self, small_checkpoint, tmp_path):
        pairs = parsed(document({"one": [entry(0, natural="why? " * 300)]}))
        with pytest.raises(RequestError, match=r"prompt natural_one_q00 has .* context is 1024"):
            gather(small_checkpoint, tmp_path, pairs=pairs)

    def test_layer_that_is_not_there(self, small_checkpoint, tmp_path):
        with pytest.raises(RequestError, match="layer 6 is outside"):
            gather(small_checkpoint, tmp_path, replace(SETTINGS, layers=(0, 6)))
