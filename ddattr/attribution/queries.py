"""Query sets of a run: what is asked together, and what its files and folders hold."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor

from ddattr.artifacts import fingerprint
from ddattr.attribution.asked import Asked
from ddattr.attribution.places import DEFAULT
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.decode import picture
from ddattr.data.known import known
from ddattr.data.pictures import scaled
from ddattr.data.sources.folder import File, found
from ddattr.diffusion.captions import Conditions

HELD_OUT = "held_out"  # the name of the set of what no member saw
_NAME = re.compile(r"\w[\w.=+-]{0,79}")


@dataclass(frozen=True)
class QuerySet:
    """What is asked together: the config group `queries`. Neither pictures nor seeds, nor held out: the run's own set.

    Args:
        name: of the set and its folder; None is made of what is asked.
        pictures: files, and folders whose pictures are asked, each once.
        seeds: of generated queries.
        held_out: whether it is the data's pictures that no member saw. Of each it is known what label, artist or folder
            it is of, so that there is a table of how often that is named.
        invert: whether pictures get tapes, on which they can be replayed; else they are attributed by their denoising.
        inversions: tapes of each picture, of other noise.
        conditions: of a run with conditions: labels of what is asked, in turn, None for none. Left out, seeds take all
            labels in turn, by their number, and pictures none.
    Raises:
        ValueError: what excludes each other, the same seed twice, or a name that no folder may have.
    """

    name: str | None = None
    pictures: Sequence[str] | None = None
    seeds: Sequence[Annotated[int, Interval(ge=0, le=2**63 - 1)]] | None = None
    invert: bool = False
    inversions: Annotated[int, Ge(1)] = 3
    conditions: Sequence[str | int | None] | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        asked = {"pictures": self.pictures is not None, "seeds": self.seeds is not None, "held_out": self.held_out}
        if len(named := [name for name, is_given in asked.items() if is_given]) > 1:
            raise ValueError(f"queries: {named[0]} and {named[1]}, expected one of them: each is a set. Leave out one.")
        for key in ("pictures", "seeds"):
            if (given := getattr(self, key)) is not None and not len(given):
                raise ValueError(f"queries: {key}=[], expected one or more. Set queries.{key}.")
        if self.invert and self.pictures is None and not self.held_out:
            raise ValueError(
                "queries: invert=true without pictures, expected some to invert. Set queries.pictures or "
                "queries.held_out."
            )
        if self.conditions is not None and self.own:
            raise ValueError(
                "queries: conditions of no queries, expected pictures or seeds with them. Set queries.pictures, "
                "queries.seeds or queries.held_out; those of the run's own queries are conditions.queries."
            )
        if self.inversions < 1:
            raise ValueError(f"queries: inversions={self.inversions}, expected 1 or more. Set queries.inversions.")
        self._check_name()
        for seed in self.seeds or ():
            if not 0 <= seed < 2**63:
                raise ValueError(f"queries: seeds={seed}, expected 0 to 2^63 - 1. Set queries.seeds.")
        if twice := [seed for seed, count in Counter(self.seeds).items() if count > 1]:
            raise ValueError(f"queries: seeds has {twice[0]} twice, expected every seed once. Set queries.seeds.")

    def _check_name(self) -> None:
        if self.name is not None and self.own:
            raise ValueError(
                f"queries: name={self.name} of no queries. Set queries.pictures, queries.seeds or queries.held_out."
            )
        if self.name == DEFAULT:
            raise ValueError(f"queries: name={self.name}, which is the run's own set. Set queries.name to another.")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ValueError(
                f"queries: name={self.name}, expected 1 to 80 letters, digits, _ . = + or -, the first a letter, a "
                "digit or _. Set queries.name."
            )

    @property
    def own(self) -> bool:
        """Whether it is the run's own."""
        return self.pictures is None and self.seeds is None and not self.held_out

    @property
    def replayed(self) -> bool:
        """Whether its queries have tapes."""
        return self.invert or not (self.held_out or self.pictures is not None)

    @cached_property
    def files(self) -> list[File]:
        """The pictures' files, each once: in the order given, those of a folder by name.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or no picture in a folder.
        """
        files: dict[Path, File] = {}
        for path in map(Path, self.pictures or ()):
            for file in _below(path) if path.is_dir() else [File(path.name, path)]:
                files.setdefault(file.path.resolve(), file)
        return list(files.values())

    @cached_property
    def content(self) -> dict[str, Any]:
        """What answers depend on: pictures, by names and hashes of their files, or seeds; and how they are asked.

        Which pictures are held out the data says.

        Raises:
            FileNotFoundError, ValueError: a file that cannot be read.
        """
        if self.held_out:
            found: dict[str, Any] = {"held_out": True, "inversions": self.inversions if self.invert else 0}
            in_turn = list(self.conditions or ())
        elif self.pictures is None:
            seeds, count = self.seeds or (), len(self.conditions or ())
            found = {"seeds": sorted(seeds)}
            in_turn = [(self.conditions or ())[place % count] for place in _sorted(seeds)] if count else []
        else:
            files = [f"{file.name} {_digest(file.path)}" for file in self.files]
            found = {"pictures": files, "inversions": self.inversions if self.invert else 0}
            in_turn = list(self.conditions or ())
        named = [label if label is None else str(label) for label in in_turn]
        return found | ({} if self.conditions is None else {"conditions": named})

    @property
    def title(self) -> str:
        """Its name: the one given, `default`, or one made of what is asked, the same for the same pictures or seeds."""
        if self.own or self.name is not None:
            return self.name or DEFAULT
        if self.held_out:
            return HELD_OUT
        seeds = sorted(self.seeds or ())
        stem = f"seeds-{seeds[0]}-{seeds[-1]}" if seeds else re.sub(r"[^\w.=+-]", "_", self.files[0].path.stem)[:40]
        return f"{stem if _NAME.fullmatch(stem) else 'pictures'}-{fingerprint(self.content)[:8]}"

    def asked(self, data: UnitDataModule, seed: int, conditions: Conditions | None = None) -> Asked | None:
        """Its queries; None for the run's own, which the group `attribution` numbers.

        Args:
            data: as members see it, whose pictures these are made like.
            seed: of the inversions' noise.
            conditions: what members are conditioned on; None where on nothing.
        Raises:
            FileNotFoundError, ValueError: a file that is no picture; conditions that members do not take.
        """
        if self.conditions is not None and conditions is None:
            raise ValueError(
                f"queries: conditions={list(self.conditions)}, but members are given none. Leave them out, or train "
                "members with conditions=classes."
            )
        if self.own:
            return None
        if self.seeds is not None:
            seeds, order = self.seeds, _sorted(self.seeds)
            condition = None if conditions is None else conditions.of_seeds(seeds, self.conditions)[order]
            return Asked(torch.tensor(sorted(seeds)), condition=condition)
        if self.held_out:
            pictures, names, of = *_held_out(data), known(data)
        else:
            pictures = data.seen(torch.stack([_decoded(file.path, data) for file in self.files]))
            names, of = [file.name for file in self.files], None
        wanted = [None] if self.conditions is None else self.conditions
        condition = None if conditions is None else conditions.in_turn(wanted, len(names))
        inversions = self.inversions if self.invert else 0
        return Asked(torch.arange(len(names)), names, pictures, inversions, seed, condition, of or None)


def _held_out(data: UnitDataModule) -> tuple[Float[Tensor, "q d y x"], list[str]]:
    """The pictures that no member saw, as members would see them, and their files' names or numbers."""
    pictures, table = data.held_out.images, data.held_out.table
    if not len(pictures):
        raise ValueError("queries: held_out=true, but no picture is held out. Train members with data.holdout=30.")
    if table is None or "file" not in table:
        return pictures[:], [f"held out {i}" for i in range(len(pictures))]
    return pictures[:], table["file"].tolist()


def _sorted(seeds: Sequence[int]) -> list[int]:
    """Places of seeds as they were typed, in the order of the seeds."""
    return sorted(range(len(seeds)), key=lambda place: seeds[place])


def _below(folder: Path) -> list[File]:
    """Image files of a folder and those below it, named from it; as `data=folder` finds them."""
    try:
        files, broken = found(folder)
    except ValueError as error:
        said = str(error).replace("data: ", "queries: ").replace("data.source.path", "queries.pictures")
        raise ValueError(said) from None
    if broken:
        name, why = broken[0]
        raise ValueError(f"queries: {folder / name} cannot be read: {why}. Mend it, or set queries.pictures.")
    return files


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"queries: {path} is missing, expected a picture or a folder of pictures. Set queries.pictures."
        ) from None
    except OSError as error:
        raise ValueError(f"queries: {path} cannot be read: {str(error.strerror).lower()}. Mend it.") from None


def _decoded(path: Path, data: UnitDataModule) -> Float[Tensor, "c h w"]:
    """A file as a picture of the data, to the bit."""
    try:
        return scaled(torch.from_numpy(np.array(picture(path, data.frame))))
    except ValueError as error:
        raise ValueError(f"queries: {path} cannot be read: {error}. Mend it, or leave it out.") from None
