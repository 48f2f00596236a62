"""Nothing wrong from shards that were damaged."""

import random

import numpy as np
import pytest

from tests.support.collecting import FOUR_BATCHES, gather, stored


@pytest.mark.slow
class TestDamage:
    def test_never_used(self, tiny, whole, loaded, tmp_path):
        """260 shards with flipped bits or cut off, several at a time."""
        chance = random.Random(0)
        expected = stored(whole)
        run = gather(tiny, tmp_path, FOUR_BATCHES)
        tokens, answers = run.tokens("mlp_out", 1), run.responses()
        cases = 0
        while cases < 260:
            damaged = chance.sample(sorted(run.shards().values()), chance.randint(1, 4))
            for file in damaged:
                content = bytearray(file.read_bytes())
                if chance.random() < 0.5:
                    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                else:
                    del content[chance.randrange(len(content)) :]
                file.write_bytes(content)
            loaded.clear()
            with pytest.warns(UserWarning, match="damaged") as said:
                run = gather(tiny, tmp_path, FOUR_BATCHES)
            assert sorted(str(w.message) for w in said) == sorted(
                f"{file}: damaged, will be collected again" for file in damaged
            )
            assert len(loaded) == len(damaged)
            assert stored(tmp_path) == expected
            assert run.responses() == answers
            read = run.tokens("mlp_out", 1)
            assert all(np.array_equal(read[group], tokens[group]) for group in tokens)
            cases += len(damaged)
