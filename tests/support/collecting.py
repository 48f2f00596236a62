"""Small collections: eight prompts in three batches."""

from dataclasses import replace
from pathlib import Path

from harness.collect import collect
from harness.data.store import RunStore
from harness.progress import SILENT
from harness.settings import CollectSettings
from tests.support.builders import parsed, two_categories

PAIRS = parsed(two_categories(4))
# Eight prompts in three batches.
SETTINGS = CollectSettings(max_tokens=3, batch_size=3, layers=(0, 3, 5))
FOUR_BATCHES = replace(SETTINGS, max_tokens=2, batch_size=2, layers=(0, 1))


def gather(model, root, settings=SETTINGS, *, pairs=PAIRS, **options):
    return collect(model, pairs, settings, root, bars=SILENT, **options)


def shards(run: RunStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.shards().values()}


def stored(root: Path) -> dict[str, bytes]:
    """Contents of all files of a store but its locks."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.glob("*/*")
        if file.name != "lock"
    }


def finished_shards(root: Path) -> dict[Path, tuple[int, int]]:
    """Where and since when each finished shard lies; a rewritten one would have another inode."""
    found = {}
    for file in root.glob("*/batch_*.safetensors"):
        status = file.stat()
        found[file] = (status.st_ino, status.st_mtime_ns)
    return found
