"""Progress bars with the time that is left: tqdm's, where somebody watches."""

from collections.abc import Callable
from functools import partial

from tqdm import tqdm

#: Called as tqdm is, with what is iterated or a `total`.
Bars = Callable[..., tqdm]

#: On stderr, if that is a terminal; gone when done.
ON_TERMINAL: Bars = partial(tqdm, disable=None, leave=False, dynamic_ncols=True)
SILENT: Bars = partial(tqdm, disable=True)
