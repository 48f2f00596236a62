"""Small collections: eight prompts in three batches."""

from harness.collect import collect
from harness.data.store import RunStore
from harness.settings import CollectSettings
from tests.support.builders import parsed, two_categories

PAIRS = parsed(two_categories(4))
# Eight prompts in three batches.
SETTINGS = CollectSettings(max_tokens=3, batch_size=3, layers=(0, 3, 5))


def gather(model, root, settings=SETTINGS, *, pairs=PAIRS, **options):
    return collect(model, pairs, settings, root, progress=False, **options)


def shards(run: RunStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.shards().values()}
