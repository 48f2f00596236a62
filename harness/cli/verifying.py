"""`verify`: is what is captured from a model what transformers computes?"""

import argparse
from importlib.metadata import version

import gemma_mlx
from harness import options
from harness.backends.choice import find_checkpoint, load_model
from harness.backends.parity import TOLERANCE, Difference, compare, load_reference
from harness.data import embedded
from harness.data.pairs import load_pairs

PAIRS, TOKENS = 3, 8


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verify = commands.add_parser(
        "verify",
        help="a model against transformers: logits and every site",
        description=(
            "Run a few prompts through the model in float32 and hold logits and activations, at "
            "every layer and site, against transformers' own model, which needs PyTorch "
            "(pip install torch). The whole model is loaded twice."
        ),
    )
    options.add_arguments(
        verify,
        [
            options.MODEL, options.REVISION, options.BACKEND, options.CHAT_TEMPLATE,
            options.PAIRS, options.NO_CHAT,
        ],
    )  # fmt: skip
    verify.set_defaults(run=_verify)


def _verify(parsed: argparse.Namespace) -> int:
    given = options.CommandLine(parsed)
    checkpoint = find_checkpoint(
        embedded.locate(options.MODEL.read(given)),
        revision=options.REVISION.read(given),
        chat_template=options.CHAT_TEMPLATE.read(given),
        backend=options.BACKEND.read(given),
    )
    chat = not options.NO_CHAT.read(given) and checkpoint.chat_template is not None
    pairs = load_pairs(options.PAIRS.read(given)).pairs
    chosen = pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS]
    texts = [text for pair in chosen for text in (pair.natural, pair.artifact)]
    reference = load_reference(checkpoint.path, checkpoint.config.num_hidden_layers)
    model = load_model(checkpoint, dtype="float32")
    prompts = gemma_mlx.encode_prompts(model, texts, chat=chat)
    found = compare(model, reference, prompts, max_tokens=TOKENS)
    print(
        f"{len(prompts)} prompts and up to {TOKENS} tokens after each, in float32, against "
        f"transformers {version('transformers')}; errors as a share of the largest value"
    )
    print(f"{'where':16}{'worst layer':>12}{'largest error':>15}")
    for difference in found:
        print(_row(difference))
    faults = [f.what for f in found if f.what != "tokens" and not f.error <= TOLERANCE]
    if faults:
        print(f"NOT the same model: {', '.join(faults)} differ by more than {TOLERANCE:g}")
        return 1
    print(f"verified: all of them within {TOLERANCE:g}")
    return 0


def _row(found: Difference) -> str:
    if found.what == "tokens":
        return f"{'greedy tokens':16}{'-':>12}{f'{found.error:.1%} differ':>15}"
    layer = "-" if found.layer is None else found.layer
    return f"{found.what:16}{layer:>12}{found.error:>15.1e}"
