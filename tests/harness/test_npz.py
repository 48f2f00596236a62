"""Runs written as npz files and read again, and files that nobody should trust."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from gemma_mlx.sites import SITES
from harness.analysis import analyze
from harness.data import npz_file
from harness.data.activations import AnalysisError
from harness.data.npz_layout import write_npz
from harness.data.npz_run import read_npz
from harness.data.store import StoreError
from harness.settings import AnalysisSettings
from tests.support.builders import noise, parsed, run_of, two_categories, written

PAIRS = parsed(two_categories(4))
LAYERS, WIDTH, STEPS = (1, 4), 8, 3
TOKENS = noise(steps=STEPS, width=WIDTH)
KEYS = [SITES["mlp_out"].npz_key(layer) for layer in LAYERS]
STEP = "natural_one_q00/prompt_list/batch_1/activations_step_{}.npz"


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path / "store", PAIRS, TOKENS, layers=LAYERS)


@pytest.fixture
def folder(run, tmp_path):
    write_npz(run, PAIRS, tmp_path / "npz", layers=LAYERS, sites=["mlp_out"])
    return tmp_path / "npz"


def batch_of_two(folder):
    """Every file of one prompt holds two rows from now on."""
    for file in (folder / STEP).parent.glob("*.npz"):
        np.savez(file, **dict.fromkeys(KEYS, np.zeros((2, 1, WIDTH), np.float32)))


class TestRoundTrip:
    def test_all_is_read_that_was_written(self, run, folder):
        read = read_npz(folder, PAIRS)
        assert read.layers == LAYERS
        assert read.site == "mlp_out"
        assert read.missing == read.ignored == {}
        assert read.responses() == run.responses()
        for layer in LAYERS:
            found, expected = read.tokens("mlp_out", layer), run.tokens("mlp_out", layer)
            assert found.keys() == expected.keys()
            for group, array in found.items():
                assert array.dtype == np.float32
                np.testing.assert_array_equal(array, expected[group])

    def test_layers_go_by_their_number(self, folder):
        read = read_npz(folder, PAIRS, layers=[4])
        pair = PAIRS.pairs[0]
        np.testing.assert_array_equal(
            read.tokens("mlp_out", 4)[pair.group("natural")], TOKENS(pair, "natural", 4, "mlp_out")
        )
        with pytest.raises(StoreError, match=r"npz: layer 1 wasn't captured; there are layers 4$"):
            read.tokens("mlp_out", 1)

    def test_the_text_is_that_of_the_steps_that_were_read(self, folder):
        read = read_npz(folder, PAIRS, steps=2)
        assert {len(answer.token_ids) for answer in read.responses().values()} == {2}


class TestEmbeddings:
    """Of the tokens that were written: the residual stream before layer 0, where it is there."""

    SITES = ("mlp_out", "resid_pre")

    def analysis(self, tmp_path, tokens):
        pairs = parsed(two_categories(16))
        run = run_of(tmp_path / "store", pairs, tokens, layers=(0, 1), sites=self.SITES)
        write_npz(run, pairs, tmp_path / "npz", layers=(0, 1), sites=self.SITES)
        read = read_npz(tmp_path / "npz", pairs)
        return analyze(
            read, pairs, layers=read.layers, sites=[read.site], embeddings=read.embeddings,
            settings=AnalysisSettings(replicates=200),
        )  # fmt: skip

    def test_are_read_beside_the_site(self, tmp_path):
        run = run_of(tmp_path / "store", PAIRS, TOKENS, layers=(0, 1), sites=self.SITES)
        write_npz(run, PAIRS, tmp_path / "npz", layers=(0, 1), sites=self.SITES)
        embeddings = read_npz(tmp_path / "npz", PAIRS, layers=[1]).embeddings
        expected = run.tokens("resid_pre", 0)
        for group, array in embeddings.tokens("resid_pre", 0).items():
            np.testing.assert_array_equal(array, expected[group])

    def test_are_not_there(self, folder):
        assert read_npz(folder, PAIRS).embeddings is None

    @pytest.mark.filterwarnings("ignore:only 16 pairs")
    def test_a_layer_that_only_repeats_them_is_not_beyond(self, tmp_path):
        """Layer 0 is a mirror image of the embeddings, layer 1 separates further."""
        basis = np.random.default_rng(3).permutation(WIDTH)
        made = noise(1, steps=STEPS, width=WIDTH)

        def tokens(pair, condition, layer, site):
            words = made(pair, condition, 0, "resid_pre") + (condition == "artifact")
            if site == "resid_pre":
                return words
            return words[:, basis] * -1 if layer == 0 else words + 4 * (condition == "artifact")

        found = self.analysis(tmp_path, tokens)
        same, further = (found[layer, "mlp_out"].beyond_embeddings for layer in (0, 1))
        assert same.difference == pytest.approx(0, abs=1e-6)
        assert further.lower > 0


class TestDamage:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "damaged"),
            (b"PK\x03\x04 and no more", "damaged"),
            (
                {"other": np.zeros((1, 1, WIDTH), np.float32)},
                r"npz: no array 'model.layers.1.mlp.output' \(there: other",
            ),
            (np.zeros((1, WIDTH), np.float32), r"is float32 \(1, 8\)"),
            (np.zeros((1, 1, 5), np.float32), "width 5"),
            (np.zeros((1, 1, WIDTH), int), "expected floats"),
            (np.array([[[None] * WIDTH]]), "damaged"),
        ],
    )
    def test_is_named(self, folder, content, message):
        file = folder / STEP.format(2)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            np.savez(
                file, **(content if isinstance(content, dict) else dict.fromkeys(KEYS, content))
            )
        with pytest.raises(AnalysisError, match=message) as raised:
            read_npz(folder, PAIRS)
        assert str(file) in str(raised.value)

    @pytest.mark.parametrize(
        ("shape", "data", "message"),
        [
            ((1, 1, 1 << 40), b"", "claims shape"),
            ((1 << 20, 1, 1 << 20), b"\0" * 64, "claims shape"),
            ((1, 1, 1 << 18), b"\0" * (1 << 20), "bytes, more than 65536"),
        ],
        ids=["wide", "long", "zeros that pack well"],
    )
    def test_a_bomb_is_not_unpacked(self, folder, monkeypatch, shape, data, message):
        """Small files that would be larger than the machine's memory."""
        monkeypatch.setattr(npz_file, "_LARGEST_ARRAY", 1 << 16)
        file = folder / STEP.format(0)
        header = io.BytesIO()
        facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, facts)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
            bomb.writestr(f"{KEYS[0]}.npy", header.getvalue() + data)
        assert file.stat().st_size < 1 << 14
        tracemalloc.start()
        try:
            with pytest.raises(AnalysisError, match=message) as raised:
                read_npz(folder, PAIRS)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        assert str(file) in str(raised.value)

    def test_an_array_that_is_no_npz(self, folder):
        """`np.load` would take it, and make room for what it claims."""
        with (folder / STEP.format(0)).open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
            )
        with pytest.raises(AnalysisError, match="damaged, or not an npz file"):
            read_npz(folder, PAIRS)


class TestMetadata:
    def test_a_row_is_not_taken_for_another_prompts(self, folder):
        """Metadata that names other prompts says nothing about this one."""
        written((folder / STEP).parent / "prompt_metadata.json", {"rows": ["someone", "else"]})
        batch_of_two(folder)
        with pytest.raises(AnalysisError, match="names other prompts, and not natural_one_q00"):
            read_npz(folder, PAIRS)

    def test_batches_need_to_say_whose_rows_they_are(self, folder):
        ((folder / STEP).parent / "prompt_metadata.json").unlink()
        batch_of_two(folder)
        with pytest.raises(AnalysisError, match="holds 2 prompts; prompt_metadata"):
            read_npz(folder, PAIRS)

    @pytest.mark.parametrize(
        "facts", [{"rows": "natural_one_q00"}, {"rows": [1]}, {"rows": ["a"], "steps": [1, 2]}]
    )
    def test_bad_metadata(self, folder, facts):
        written((folder / STEP).parent / "prompt_metadata.json", facts)
        with pytest.raises(AnalysisError, match=r"prompt_metadata\.json: expected"):
            read_npz(folder, PAIRS)
