"""Models of mlx-lm against transformers' own, for every architecture that counts as verified.

Not tested, because transformers needs a package for its vision tower: Gemma 3n as a whole; its text
model is, under the names that the whole has.
"""

import json

import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="needs the extra 'models'")
torch = pytest.importorskip("torch", reason="parity with transformers needs PyTorch")
pytest.importorskip("transformers")

from harness.backends.choice import find_checkpoint, load_model  # noqa: E402
from harness.backends.mlx_lm_checkpoint import VERIFIED  # noqa: E402
from harness.backends.parity import Reference, compare, load_reference  # noqa: E402
from harness.cli import main  # noqa: E402
from tests.support.architectures import ARCHITECTURES, randomise, save  # noqa: E402

TOLERANCE = 1e-4
RNG = np.random.default_rng(0)
# Two of a length, so that a batch holds both; longer than the windows.
PROMPTS = [RNG.integers(6, 130, n).tolist() for n in (19, 3, 19)]


def test_what_counts_as_verified_is_what_is_tested_here():
    # Gemma 3 in mlx-lm is held against our own in test_mlx_lm.py.
    assert {kind for kind, _ in ARCHITECTURES.values()} | {"gemma3_text"} == VERIFIED


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_tokens_and_every_site(tmp_path, name):
    kind, make = ARCHITECTURES[name]
    reference = randomise(make())
    checkpoint = find_checkpoint(save(reference, tmp_path))
    model = load_model(checkpoint)
    assert checkpoint.config.model_type == kind
    found = compare(model, Reference.of(reference, 4), PROMPTS, max_tokens=6)
    assert {"logits", "tokens", *model.sites} == {each.what for each in found}
    assert {"resid_pre", "attn_out", "mlp_out", "resid_post"} <= set(model.sites)
    assert all(each.error <= TOLERANCE for each in found), found


@pytest.mark.slow
def test_verify_prints_a_table_and_says_where_it_is_another_model(tmp_path, capsys):
    _, make = ARCHITECTURES["Llama"]
    folder = save(randomise(make()), tmp_path)
    assert main(["verify", "--model", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "mlp_out" in out
    assert "verified" in out
    # The base of RoPE isn't looked up: it is what mlx-lm's model has by default.
    model = load_model(find_checkpoint(folder))
    wrong = json.loads((folder / "config.json").read_text())
    wrong["rope_parameters"]["rope_theta"] = 10_000.0
    (folder / "config.json").write_text(json.dumps(wrong))
    found = compare(model, load_reference(folder, 4), PROMPTS, max_tokens=6)
    assert found[0].what == "logits"
    assert found[0].error > 0.01


def test_verify_without_pytorch_says_what_to_install(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["verify"]) == 2
    assert "pip install torch" in capsys.readouterr().err
