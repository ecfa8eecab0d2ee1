"""A run's folder: the artifacts that it has, what each depends on, and the command lines that make them.

Nothing is built here, and nothing heavy imported: what data, codebook and process say is a `Run`'s, who builds them, or
`Recorded`, by manifests.
"""

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ddattr.artifacts import Artifact, fingerprint
from ddattr.attribution.places import DEFAULT, FUNCTIONALS, default_folder, functionals, query_sets
from ddattr.files import load_json
from ddattr.stages.rule import named
from ddattr.stages.saved import checked_name
from ddattr.validation.versions import SCORED, TABLED

PRETRAINED = {
    "unet": "ddattr.diffusion.pretrained.pretrained",
    "diffusion": "ddattr.diffusion.pretrained.process",
    "text": "ddattr.diffusion.text.unet",
    "captions": "ddattr.diffusion.captions.Captions",
}


class Folder:
    """A run by its config, before anything of it is built.

    Args:
        config: composed by Hydra.
        overrides: those that it was composed with, for the commands that errors suggest.
    Raises:
        ValueError: a run without a usable name, root or seed; a part of a verb that has none.
    """

    data: Any  # from here: what artifacts depend on, of those who know it
    codebook: Any
    process: Any
    conditions: Any
    fork: Any
    lora: Any

    def __init__(self, config: DictConfig, overrides: Sequence[str] = ()):
        self.config = config
        self.seed = config.seed
        named(config)
        self.name = checked_name(config.name)
        self.root = checked_root(config.root)
        self.folder = None if config.run is None else str(config.run)
        per_call = ("stage=", "run=", "member=", "unit=", "part=", "artifact=", "output=", "path=")
        self.overrides = [o for o in overrides if not o.startswith(per_call)]
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}, expected an integer from 0 to 2^63 - 1. Set seed.")
        _check_part(config.part, config.stage)

    @property
    def of_text(self) -> bool:
        """Whether members make pictures of text."""
        return self.config.unet._target_ == PRETRAINED["text"]

    @property
    def pretrained(self) -> str | None:
        """The folder, or the hub's id, of the network that all trainings start from; None where it is drawn."""
        known = (PRETRAINED["unet"], PRETRAINED["text"])
        return self.config.unet.path if self.config.unet._target_ in known else None

    @property
    def precision(self) -> str:
        """Of training; that of replays is attribution's own.

        Raises:
            ValueError: one of another type of weights, or one whose gradients have to be scaled.
        """
        precision = str(self.config.trainer.get("precision", "32-true"))
        precision = {"32": "32-true"}.get(precision, precision)
        if precision not in (known := ("32-true", "bf16-mixed")):
            raise ValueError(f"trainer: precision={precision}, expected {' or '.join(known)}. Set trainer.precision.")
        return precision

    def plain(self, key: str) -> Any:
        """A config subtree as plain containers, resolved."""
        node = self.config[key]
        if not OmegaConf.is_config(node):
            return node
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain containers."""
        return OmegaConf.to_container(self.config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]

    def words(self, verb: str, *overrides: str) -> list[str]:
        """The command line of a verb for this run: the folder, where it is one's that its config was taken from."""
        folder = [] if self.folder is None else [self.folder]
        return [verb, *folder, *overrides, *self.overrides]

    def command(self, verb: str, *overrides: str) -> str:
        """The same, as it is typed."""
        return shlex.join(["ddattr", *self.words(verb, *overrides)])

    @cached_property
    def codebook_artifact(self) -> Artifact:
        code, data = self.codebook, self.data
        config = {
            "n": code.members,
            "h": code.weight,
            "seed": code.seed,
            "N": code.units,
            "unit": data.kind,
            "data": data.fingerprint,
        }
        if code.design != "random":  # what older runs say nothing of
            config["design"] = code.design
        beside = ("units.parquet", "near_duplicates.parquet")
        return Artifact(self.root / "codebook", config, remedy=self.command("train", "member=0"), beside=beside)

    def member_artifact(self, member: int) -> Artifact:
        self.codebook.check_member(member)
        config = self._training() | {"member": member}
        parents = {"codebook": self.codebook_artifact.fingerprint}
        if self.fork is not None:
            config["training"]["fork"] = self.plain("training")["fork"]
            parents["base"] = self.base_artifact.fingerprint
        folder = self.root / "members" / f"{member:03d}"
        return Artifact(folder, config, parents, self.command("train", f"member={member}"))

    def _training(self) -> dict[str, Any]:
        """The config that a network trained whole depends on."""
        config = {key: self.plain(key) for key in ("seed", "diffusion", "unet", "training")}
        del config["training"]["epoch_steps"]  # when checkpoints are written changes no result
        config["training"].pop("fork", None)
        if self.pretrained is not None:  # what it holds counts, and not where it lies
            config["unet"]["path"] = self.pretrained_digest
        if self.lora is None:
            config["training"].pop("lora", None)
        if self.conditions is not None:
            learned = {"captions": self.conditions.digest} if self.of_text else {"labels": self.data.labels_fingerprint}
            config["conditions"] = {"dropout": self.conditions.dropout, **learned}
        if self.precision != "32-true":
            config["trainer"] = {"precision": self.precision}
        return config

    @property
    def pretrained_digest(self) -> str:
        """Of what all trainings start from, wherever it lies."""
        if self.of_text:
            from ddattr.diffusion.text import digest
        else:
            from ddattr.diffusion.pretrained import digest

        return digest(self.config.unet.path)

    @cached_property
    def base_artifact(self) -> Artifact:
        """What members are forks of: the ground truth's model of all units, trained for itself."""
        return self._whole(self.root / "base", range(self.codebook.units), self.command("train", "member=0"))

    def retrained_artifact(self, training) -> Artifact:
        """A model of the ground truth: never a fork."""
        folder = self.root / "validation" / "retraining" / training.name
        units = training.units.nonzero()[:, 0].tolist()
        return self._whole(folder, units, self.command("retrain"), training.member, training.replicate)

    def _whole(
        self, folder: Path, units: Sequence[int], remedy: str, member: int | None = None, replicate: int = 0
    ) -> Artifact:
        config = self._training() | {
            "units": fingerprint(list(units)),
            "replicate": replicate,
            "draws_of": member if self.config.training.draws == "independent" else None,
        }
        return Artifact(folder, config, {"data": self.data.fingerprint}, remedy)

    @cached_property
    def members_fingerprint(self) -> str:
        return fingerprint([self.member_artifact(k).fingerprint for k in range(self.codebook.members)])

    @cached_property
    def quality_artifact(self) -> Artifact:
        config = {key: self.plain(key) for key in ("seed", "quality")} | self._sampling | self._guidance
        config["labels"] = self.data.labels_fingerprint
        return Artifact(self.root / "quality", config, {"members": self.members_fingerprint}, self.command("evaluate"))

    @property
    def _sampling(self) -> dict[str, Any]:
        """The config that replays depend on."""
        process, config = self.process, {"sampler": self.plain("sampler")}
        if (spacing := process.respaced(self.config.sampler.steps)) is not None:
            config["timestep_spacing"] = spacing
        if process.final_alpha_cumprod != 1:
            config["set_alpha_to_one"] = False
        return config

    @property
    def _guidance(self) -> dict[str, Any]:
        """The config that all answers of conditioned members depend on."""
        return {} if self.conditions is None else {"guidance": self.conditions.guidance}

    @cached_property
    def attribution_artifact(self) -> Artifact:
        """The run's own query set."""
        config = self._attribution({"attribution": self._scoring} | self._sampling)
        if self.conditions is not None:
            config["conditions"] = self.plain("conditions")["queries"]
        return Artifact(
            default_folder(self.root),
            config,
            {"members": self.members_fingerprint},
            self.command("attribute"),
            "Other queries are a set of their own: set queries.seeds or queries.pictures. Else choose another name= or "
            "root=, or delete that folder.",
            title="attribution",
        )

    @property
    def query_sets(self) -> dict[str, Artifact]:
        """Query sets that are done or begun, by name, the run's own first; others must be of this run's members."""
        found = {DEFAULT: self.attribution_artifact}
        for folder in sorted((self.root / "attribution").glob("*/")):
            if folder.name not in (DEFAULT, "shards", FUNCTIONALS):  # which an older run has there of its own set
                config = (load_json(folder / "manifest.json") or {}).get("config", {})
                parents, otherwise = {"members": self.members_fingerprint}, "Delete that folder, and ask again."
                found[folder.name] = Artifact(folder, config, parents, self.command("attribute"), otherwise)
        return found

    @property
    def _scoring(self) -> dict[str, Any]:
        """What scores depend on: no matter of memory, nor, as older runs do not speak of them, a table of all units and
        replays in float32."""
        settings = self.plain("attribution")
        unsaid = ("kept", None), ("precision", "float32")
        return {key: of for key, of in settings.items() if key != "block" and (key, of) not in unsaid}

    def _attribution(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a query set: what all have, and its own."""
        config = {"seed": self.seed, "significance": self.plain("significance"), **config, **self._guidance}
        config |= {"labels": self.data.labels_fingerprint, "clusters": self.config.data.clusters}
        if self.data.compared_by != "pixels":
            config["similarity"] = self.data.compared_name
        if self.data.sets:
            config["sets"] = list(self.data.sets)
        return config

    @cached_property
    def scores_artifact(self) -> Artifact:
        keys = ("held_out_queries", "draws", "peers", "tuning_subsets", "lds_subsets")  # those for tuning come last
        validation = self.plain("validation")
        config = {"seed": self.seed, "validation": {key: validation[key] for key in keys}, "methods": SCORED}
        parents = {"attribution": self.attribution_artifact.fingerprint, "quality": self.quality_artifact.fingerprint}
        if self.of_text:  # held-out pictures are asked under captions, which no parent depends on
            config["held_out"] = self.data.held_out_text_fingerprint
        return Artifact(self.root / "validation" / "scores", config, parents, self.command("validate"))

    @cached_property
    def validation_artifact(self) -> Artifact:
        config = {"seed": self.seed, "validation": self.plain("validation"), "tables": TABLED}
        if self.data.planted_fingerprint != "none":
            config["planted"] = self.data.planted_fingerprint  # queries that no parent depends on
        parents = {"scores": self.scores_artifact.fingerprint}
        return Artifact(
            self.root / "validation",
            config,
            parents,
            self.command("validate"),
            "Choose another name= or root=, or delete its manifest.json and its folder scores/: trained models are "
            "kept.",
        )

    @property
    def figures_artifact(self) -> Artifact:
        """The report, which is made again when there is another query set, or another functional of one."""
        parents = {"quality": self.quality_artifact.fingerprint, "attribution": self.attribution_artifact.fingerprint}
        for name, folder in query_sets(self.root).items():
            if name != DEFAULT:
                parents[f"attribution/{name}"] = (load_json(folder / "manifest.json") or {}).get("fingerprint", "")
            for asked in functionals(folder):
                made = (load_json(asked / "manifest.json") or {}).get("fingerprint", "")
                parents[asked.relative_to(self.root).as_posix()] = made
        config, remedy, beside = {"name": self.name}, self.command("report"), ("report.html", "costs.csv")
        return Artifact(self.root / "figures", config, parents, remedy, view=True, beside=beside)

    @property
    def members_read(self) -> dict[str, str]:
        """Digests of the members' weights, by their folders, as their manifests say; of those that are done."""
        folders = [self.member_artifact(k).folder for k in range(self.codebook.members)]
        kept = {folder: (load_json(folder / "manifest.json") or {}).get("files") or {} for folder in folders}
        return {f"members/{f.name}": files["member.safetensors"] for f, files in kept.items() if files}

    def missing_members(self) -> list[int]:
        """Members that are not done."""
        return [k for k in range(self.codebook.members) if not self.member_artifact(k).done()]


def _check_part(part: Any, stage: str) -> None:
    """Raises ValueError when a part is no number, or none of a verb whose work is shared."""
    if part is None:
        return
    if stage not in ("attribute", "retrain"):
        raise ValueError(f"part={part}: `attribute` and `retrain` have parts, and {stage} has none. Leave out part=.")
    if not isinstance(part, int) or isinstance(part, bool) or part < 0:
        raise ValueError(f"part={part}, expected an integer from 0. Set part.")


def checked_root(root: Any) -> Path:
    """The run's folder.

    Raises:
        ValueError: an empty one, which would be wherever the command was given.
    """
    if not str(root or "").strip():
        raise ValueError(f"root={root}, expected a folder. Set root, or leave it at runs/<name>.")
    return Path(str(root))
