"""A table in parts: read back as it was made, and never held at once."""

import gc
import weakref

import numpy as np
import pandas as pd

from ddattr.attribution.rows import Rows
from ddattr.files import load_table, save_table


def part(start: int, text: str | None = None) -> pd.DataFrame:
    units = np.arange(start, start + 3)
    return pd.DataFrame({"unit": units, "score": units / 7, "method": "jvp", "p_by": [text] * 3})


def test_what_is_written_in_parts_is_read_back_as_one_table(tmp_path):
    """A column of nothing in the first part has text in the next."""
    rows = Rows(lambda: iter([part(0), part(3, "rank")])).then(part(6))
    save_table(tmp_path / "t.parquet", rows)
    found = load_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, rows.whole().astype(found.dtypes), check_exact=True)
    assert found.unit.tolist() == list(range(9))


def test_each_part_is_changed_on_its_own():
    rows = Rows(lambda: iter([part(0), part(3)])).each(lambda frame: frame.assign(score=frame.score.max()))
    assert rows.whole().score.tolist() == [2 / 7] * 3 + [5 / 7] * 3
    assert len(rows.whole()) == 6  # a second time


def test_no_part_is_held_when_the_next_but_one_is_made(tmp_path):
    """Memory that does not grow with their number."""
    alive: list[weakref.ref] = []

    def frames():
        for k in range(6):
            gc.collect()
            assert sum(held() is not None for held in alive) <= 1
            frame = part(3 * k)
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    save_table(tmp_path / "t.parquet", Rows(frames).each(lambda frame: frame.assign(k=1)))
    assert len(alive) == 6
