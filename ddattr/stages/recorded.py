"""A run by its manifests: what its artifacts depend on as these say it. No picture is read, and nothing is built.

For verbs that only look. Whether pictures or labels were changed since is for those to say that read them.
"""

from collections.abc import Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig

from ddattr.attribution.places import default_folder
from ddattr.files import load_json
from ddattr.stages.folder import Folder
from ddattr.stages.rule import open_keys
from ddattr.stages.saved import NAME, renewed, whole

_OF_NO_GROUP = {"stage", "run", "experiment", "root", "name", "seed"}  # keys that leave groups as they were checked


def opened(config: DictConfig, overrides: Sequence[str]) -> Folder:
    """The run of a command line: its folder alone for a verb that only looks, where no override touches a group.

    Else constructors have to say what they take, and to import these takes seconds.
    """
    if {word.partition("=")[0] for word in overrides} <= _OF_NO_GROUP:
        if config.stage == "verify":
            return Folder(config, overrides)
        if config.stage == "status" and (recorded := Recorded(config, overrides)).known():
            return recorded
    from ddattr.stages.run import Run  # and with it torch, Lightning, diffusers

    return Run(config, overrides)


class Recorded(Folder):
    """Takes from manifests what `Run` takes from pictures, codebook and process; `known` says whether it can."""

    def known(self) -> bool:
        """Whether artifacts are those of a `Run`: nothing is there yet, or all is of the config that the folder keeps,
        as ddattr wrote it, and neither a network nor a similarity is in files of its own, which would have to be read.
        """
        if self.pretrained is not None or self.config.data.get("similarity") not in (None, "pixels"):
            return False
        if not self.root.exists():
            return not open_keys(self.config)
        path, made, asked = self.root / NAME, self._made("codebook"), self.plain("codebook")
        names = {"members": "n", "weight": "h", "seed": "seed"}
        return (
            path.is_file()
            and whole(path.read_text()) is True
            and renewed(self.root, self.resolved()) is None
            and bool(made)
            and all(asked[key] in (None, made[name]) for key, name in names.items())
        )

    def _made(self, place: str) -> dict[str, Any]:
        """The config that the manifest of an artifact has; nothing, where there is none that can be read."""
        try:
            manifest = load_json(self.root / place / "manifest.json")
        except ValueError:
            return {}
        return (manifest or {}).get("config", {})

    @cached_property
    def codebook(self) -> SimpleNamespace:
        made = self._made("codebook")
        return SimpleNamespace(
            members=made.get("n", self.config.codebook.members),
            weight=made.get("h"),
            seed=made.get("seed"),
            units=made.get("N", 0),
            design=made.get("design", "random"),
            check_member=lambda member: None,  # nobody names one
        )

    @cached_property
    def data(self) -> SimpleNamespace:
        codebook, similarity = self._made("codebook"), self._attributed.get("similarity", "pixels")
        return SimpleNamespace(
            kind=codebook.get("unit"),
            fingerprint=codebook.get("data"),
            labels_fingerprint=self._labels(),
            planted_fingerprint=self._made("validation").get("planted", "none"),
            compared_by=similarity,
            compared_name=similarity,
            sets=self.config.data.get("sets", ()),
        )

    @property
    def _attributed(self) -> dict[str, Any]:
        """The config of the run's own query set."""
        return self._made(str(default_folder(self.root).relative_to(self.root)))

    def _labels(self) -> str:
        """Fingerprint of the labels, by the first that depends on them."""
        members = (self._made(f"members/{k:03d}").get("conditions", {}) for k in range(self.codebook.members))
        made = (self._made("quality"), self._attributed, *members)
        return next((config["labels"] for config in made if "labels" in config), "none")

    @cached_property
    def process(self) -> SimpleNamespace:
        made = next((made for made in (self._made("quality"), self._attributed) if made), {})
        return SimpleNamespace(
            respaced=lambda steps: made.get("timestep_spacing"),
            final_alpha_cumprod=1.0 if made.get("set_alpha_to_one", True) else 0.0,  # which it is, no manifest says
        )

    @property
    def conditions(self) -> DictConfig | None:  # type: ignore[override]
        return self.config.conditions

    @property
    def fork(self) -> DictConfig | None:  # type: ignore[override]
        return self.config.training.get("fork")

    @property
    def lora(self) -> DictConfig | None:  # type: ignore[override]
        return self.config.training.get("lora")
