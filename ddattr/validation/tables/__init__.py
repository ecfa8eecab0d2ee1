"""The validation's tables: a module each, which computes its CSV files whole.

A module has `PHASE`, when it can be made, and `tables(study)`, which yields every table by the name of its file, and
none where it was not asked for. Modules are found here by their being in this folder.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pandas as pd

from ddattr.validation.study import Phase, Study


def made(study: Study, phase: Phase) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table of a phase, by the name of its file, as soon as it is made."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        table = import_module(f"{__name__}.{module.name}")
        if table.PHASE is phase:
            yield from table.tables(study)
