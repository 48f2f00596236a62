"""Which pairs of a file aren't independent of each other: clusters, the units of the statistics."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from harness.data.pairs import CONDITIONS, Pair, folded

#: Share of two prompts' words that both have (Jaccard 1912) from which they nearly agree.
SIMILAR = 0.6
#: The same share where two equally long prompts have half of their words in common: they read
#: alike, and may or may not be independent.
ALIKE = 1 / 3
#: Words in more than this share of all prompts are a template's, and count for nothing.
COMMON = 0.1
# In few prompts a tenth is less than two pairs that share their words.
_FEWEST_COMMON = 4

Reason = Literal["cluster", "prompt", "wording"]


@dataclass(frozen=True, slots=True)
class Link:
    """Two pairs that aren't independent: of one `cluster` of the file, with a prompt in common
    ("prompt"), or with two prompts that nearly agree ("wording")."""

    a: Pair
    b: Pair
    reason: Reason


@dataclass(frozen=True, slots=True)
class PairClusters:
    """A partition of pairs.

    Attributes:
        labels: each pair's cluster, numbered from 0.
        links: why pairs lie together; further links within a cluster may have been left out.
    """

    labels: tuple[int, ...]
    links: tuple[Link, ...]

    def __len__(self) -> int:
        return len(set(self.labels))


def find_clusters(pairs: Sequence[Pair], *, similar: float = SIMILAR) -> PairClusters:
    """Put together, transitively, the pairs that share something.

    That is a `cluster` of the file, either prompt (after whitespace and case folding), or nearly
    the wording of a prompt: of the different words that two prompts have, at least a share
    `similar` is in both. Words that more than a tenth of all prompts have are taken away first, so
    that one template over different topics gives separate units.
    """
    links = [
        Link(pairs[a], pairs[b], reason)
        for a, b, reason in (*_declared(pairs), *_shared(pairs), *_similar(pairs, similar))
    ]
    index = {id(pair): number for number, pair in enumerate(pairs)}
    ends = [[index[id(end)] for end in (link.a, link.b)] for link in links]
    rows, columns = np.array(ends, dtype=np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(pairs), len(pairs)))
    return PairClusters(tuple(connected_components(graph)[1].tolist()), tuple(links))


def telling_words(prompts: Sequence[str]) -> list[set[str]]:
    """The different words of each prompt, but for those that more than a tenth of all prompts have,
    which are a template's."""
    words = [set(re.findall(r"\w+", folded(prompt))) for prompt in prompts]
    counts = Counter(word for prompt in words for word in prompt)
    most = max(COMMON * len(prompts), _FEWEST_COMMON)
    return [{word for word in prompt if counts[word] <= most} for prompt in words]


def _declared(pairs: Sequence[Pair]) -> Iterator[tuple[int, int, Reason]]:
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        if pair.cluster is not None:
            other = first.setdefault(pair.cluster, number)
            if other != number:
                yield other, number, "cluster"


def _shared(pairs: Sequence[Pair]) -> Iterator[tuple[int, int, Reason]]:
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        for condition in CONDITIONS:
            other = first.setdefault(folded(pair.prompt(condition)), number)
            if other != number:
                yield other, number, "prompt"


def _similar(pairs: Sequence[Pair], share: float) -> Iterator[tuple[int, int, Reason]]:
    """Each two pairs once, and not those that share a prompt."""
    texts = [folded(pair.prompt(condition)) for pair in pairs for condition in CONDITIONS]
    words = telling_words(texts)
    number: dict[str, int] = {}
    columns = [[number.setdefault(word, len(number)) for word in text] for text in words]
    sizes = np.array([len(row) for row in columns])
    has = csr_array(
        (
            np.ones(sizes.sum(), dtype=np.int32),
            np.array([column for row in columns for column in row], dtype=np.intp),
            np.concatenate([[0], np.cumsum(sizes)]),
        ),
        shape=(len(texts), max(len(number), 1)),
    )
    both = (has @ has.T).tocoo()
    a, b = both.coords
    near = (a // 2 < b // 2) & (both.data >= share * (sizes[a] + sizes[b] - both.data))
    found = {
        (i // 2, j // 2) for i, j in zip(a[near], b[near], strict=True) if texts[i] != texts[j]
    }
    for one, other in sorted(found):
        yield int(one), int(other), "wording"
