"""The statistics a second time, by other hands: from docs/statistics.md, not from the code.

Every direction is fitted anew, every sum is a loop over pairs, every set of flips and dealings is
written out. Nothing of `harness` is imported here, so that a mistake there can't come along.
"""
