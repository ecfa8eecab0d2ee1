"""A run: the artifacts of its folder, and what is loaded from them."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ddattr.artifacts import (
    Artifact,
    fingerprint,
    first_process,
    load_about,
    load_json,
    load_tensors,
    save_json,
    save_table,
    save_tensors,
    save_text,
)
from ddattr.attribution.queries import DEFAULT, QuerySet, default_folder, query_sets
from ddattr.codebook import RANDOM
from ddattr.data.near import COMPARED
from ddattr.data.pictures import blocks, content_of
from ddattr.data.tables import near_table, unit_table
from ddattr.stages.builder import Builder
from ddattr.stages.saved import NAME, renewed


class Run(Builder):
    """What a config builds, and the folder that holds what its stages have made."""

    def features_artifact(self, images: Any, labels: Any) -> Artifact:
        """The extractor of features that pictures are compared by, made before the codebook."""
        content = hashlib.sha256(content_of(images) + (b"" if labels is None else labels.numpy().tobytes()))
        config = {"seed": self.seed, "steps": self.config.quality.extractor_steps, "data": content.hexdigest()[:16]}
        return Artifact(self.root / "features", config, remedy=self.command("train", "member=0"))

    def own_extractor(self, images: Any, labels: Any) -> Any:
        """The extractor that the run keeps, once a first stage has written it."""
        from ddattr.ensemble.extractor import restored

        artifact = self.features_artifact(images, labels)
        if not artifact.done():
            return super().own_extractor(images, labels)
        return restored(load_tensors(artifact.verified("extractor.safetensors")), images.shape[2:])

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
        if code.design != RANDOM:  # what older runs say nothing of
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
            from ddattr.diffusion.pretrained import digest

            config["unet"]["path"] = self._text_digest() if self.of_text else digest(self.pretrained)
        if self.lora is None:
            config["training"].pop("lora", None)
        if self.conditions is not None:
            learned = {"captions": self.conditions.digest} if self.of_text else {"labels": self.data.labels_fingerprint}
            config["conditions"] = {"dropout": self.conditions.dropout, **learned}
        if self.precision != "32-true":
            config["trainer"] = {"precision": self.precision}
        return config

    def _text_digest(self) -> str:
        from ddattr.diffusion.text import digest

        return digest(self.config.unet.path)

    @cached_property
    def latents_artifact(self) -> Artifact:
        """Latents of all pictures, held-out ones too: made once, of the pictures and the VAE alone."""
        from ddattr.diffusion.text import vae_digest

        content = hashlib.sha256(content_of(self.data.images) + content_of(self.data.held_out.images))
        config = {"data": content.hexdigest()[:16], "vae": vae_digest(self.config.unet.path)}
        return Artifact(self.root / "latents", config, remedy=self.command("train", "member=0"))

    @cached_property
    def seen(self):
        """The data as members see it: pictures, or their latents."""
        if self.latents is None:
            return self.data
        artifact = self.latents_artifact
        made = load_tensors(artifact.verified("latents.safetensors")) if artifact.done() else self._encoded()
        return self.data.encoded(self.latents, made["images"], made["held_out"])

    def _encoded(self) -> dict[str, Any]:
        import torch

        given = {"images": self.data.images, "held_out": self.data.held_out.images}
        parts = {name: [self.latents.encode(block) for block in blocks(images)] for name, images in given.items()}
        return {name: torch.cat(part) for name, part in parts.items()}

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
        spacing = self.process.respaced(self.config.sampler.steps)
        return {"sampler": self.plain("sampler")} | ({} if spacing is None else {"timestep_spacing": spacing})

    @property
    def _guidance(self) -> dict[str, Any]:
        """The config that all answers of conditioned members depend on."""
        return {} if self.conditions is None else {"guidance": self.conditions.guidance}

    @cached_property
    def attribution_artifact(self) -> Artifact:
        """The run's own query set."""
        config = self._attribution({"attribution": self.plain("attribution")} | self._sampling)
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

    def query_set_artifact(self, queries: QuerySet) -> Artifact:
        """A query set, the run's own or another, whose folder is named as it is.

        Raises:
            FileNotFoundError, ValueError: a picture's file that cannot be read.
        """
        if queries.own:
            return self.attribution_artifact
        settings = self.plain("attribution")
        asked = [key for key in settings if key not in ("queries", "first_query", "batch")]
        settings = {key: settings[key] for key in (asked if queries.replayed else ["denoisings"])}
        config = self._attribution({"attribution": settings, "queries": queries.content})
        if queries.pictures is not None:
            config["frame"] = list(self.data.frame)  # which files are made into, and no data may show all of
        return Artifact(
            self.root / "attribution" / queries.title,
            config | (self._sampling if queries.replayed else {}),
            {"members": self.members_fingerprint},
            self.command("attribute"),
            "Set queries.name to another, or delete that folder.",
        )

    @property
    def query_sets(self) -> dict[str, Artifact]:
        """Query sets that are done or begun, by name, the run's own first; others must be of this run's members."""
        found = {DEFAULT: self.attribution_artifact}
        for folder in sorted((self.root / "attribution").glob("*/")):
            if folder.name not in (DEFAULT, "shards"):  # in which an older run kept parts of its own
                config = (load_json(folder / "manifest.json") or {}).get("config", {})
                parents, otherwise = {"members": self.members_fingerprint}, "Delete that folder, and ask again."
                found[folder.name] = Artifact(folder, config, parents, self.command("attribute"), otherwise)
        return found

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
        from ddattr.validation.scores import SCORED

        keys = ("held_out_queries", "draws", "peers", "tuning_subsets", "lds_subsets")  # those for tuning come last
        validation = self.plain("validation")
        config = {"seed": self.seed, "validation": {key: validation[key] for key in keys}, "methods": SCORED}
        parents = {"attribution": self.attribution_artifact.fingerprint, "quality": self.quality_artifact.fingerprint}
        return Artifact(self.root / "validation" / "scores", config, parents, self.command("validate"))

    @cached_property
    def validation_artifact(self) -> Artifact:
        from ddattr.validation.tables import TABLED

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
        """The report, which is made again when there is another query set."""
        parents = {"quality": self.quality_artifact.fingerprint, "attribution": self.attribution_artifact.fingerprint}
        for name, folder in query_sets(self.root).items():
            if name != DEFAULT:
                parents[f"attribution/{name}"] = (load_json(folder / "manifest.json") or {}).get("fingerprint", "")
        config, remedy, beside = {"name": self.name}, self.command("report"), ("report.html", "costs.csv")
        return Artifact(self.root / "figures", config, parents, remedy, view=True, beside=beside)

    def save_config(self) -> None:
        """Keeps the config in the folder, where it differs from what is kept: `ddattr VERB FOLDER` takes it from there.

        Called where nothing can be refused any more.
        """
        if first_process() and (content := renewed(self.root, self.resolved())) is not None:
            save_text(self.root / NAME, content)

    def make(self, artifact: Artifact, work: Callable[[], None], seed: int | None = None, wait: bool = True) -> bool:
        """Does the work of an artifact, unless it is done; see `Artifact.make`. A folder without a config gets one."""
        if "members" in artifact.parents:
            self.check_members(artifact)
            artifact.read = self.members_read
        made = artifact.make(self.seed if seed is None else seed, work, wait)
        if not (self.root / NAME).exists():
            self.save_config()
        return made

    @property
    def members_read(self) -> dict[str, str]:
        """Digests of the members' weights, by their folders, as their manifests say; of those that are done."""
        folders = [self.member_artifact(k).folder for k in range(self.codebook.members)]
        kept = {folder: (load_json(folder / "manifest.json") or {}).get("files") or {} for folder in folders}
        return {f"members/{f.name}": files["member.safetensors"] for f, files in kept.items() if files}

    def check_members(self, artifact: Artifact) -> None:
        """Refuses an artifact that was made of other members than lie here, though of the same config.

        Raises:
            ValueError: names the first of them.
        """
        kept, now = (artifact.manifest or {}).get("read") or {}, self.members_read  # older manifests have none
        if changed := [name for name in sorted(kept) if kept[name] != now.get(name)]:
            raise ValueError(
                f"{artifact.title}: {artifact.folder} was made of another {changed[0]} than lies there now. Put that "
                "one back, or delete that folder and make it again."
            )

    def missing_members(self) -> list[int]:
        """Members that are not done."""
        return [k for k in range(self.codebook.members) if not self.member_artifact(k).done()]

    def require_members(self) -> None:
        """Refuses to go on without all members.

        Raises:
            FileNotFoundError, ValueError: a member is missing, half-trained or made with another config.
        """
        n = self.codebook.members
        missing = self.missing_members()
        if missing:
            first = self.member_artifact(missing[0])
            state = first.state()
            many = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            how = first.remedy if len(missing) == 1 else self.command("train", "-m", f"member=range(0,{n})")
            raise FileNotFoundError(f"ensemble: member {missing[0]} of {n} is {state}{many}. Train it: {how}")

    def ensemble(self):
        """The trained ensemble.

        Raises:
            FileNotFoundError, ValueError: a member is missing, half-trained, foreign or damaged.
        """
        from ddattr.ensemble.ensemble import Ensemble

        self.require_members()
        return Ensemble([self.load(self.member_artifact(k)) for k in range(self.codebook.members)])

    def extractor(self):
        """The extractor of features that `evaluate` trained."""
        from ddattr.ensemble.extractor import restored

        return restored(load_tensors(self.quality_artifact.verified("extractor.safetensors")), self.data.shape[1:])

    def load(self, artifact: Artifact):
        """The network of a member, or of a model of the ground truth."""
        path = artifact.verified("member.safetensors")
        weights = load_tensors(path)
        network = self.network(None)
        if self.lora is not None:
            self.shared.check(path, load_about(path))
        try:
            network.load_state_dict(weights)
        except RuntimeError:
            raise ValueError(f"{path} is not a member of this unet. Delete its folder and train it again.") from None
        return network

    def write_codebook(self) -> None:
        """The codebook's artifact, and what its units are, by whichever stage comes first."""
        artifact = self.codebook_artifact

        def work() -> None:
            save_json(artifact.folder / "codebook.json", artifact.config)
            save_table(self.root / "units.parquet", unit_table(self.data))
            if len(self.data.images) <= COMPARED:
                save_table(self.root / "near_duplicates.parquet", near_table(self.data))

        artifact.make(self.seed, work)
        if self.data.compared_by == "features":
            features, embed = self.features_artifact(self.data.images, self.data.labels), self.data.similarity.embed
            path = features.folder / "extractor.safetensors"
            features.make(self.seed, lambda: save_tensors(path, embed.state_dict()))
        if self.latents is not None:
            latents = self.latents_artifact
            latents.make(self.seed, lambda: save_tensors(latents.folder / "latents.safetensors", self._encoded()))

    def write_units(self) -> None:
        """units.parquet, unless it is there: a run that an older version began has none."""
        if first_process() and not (path := self.root / "units.parquet").is_file():
            save_table(path, unit_table(self.data))

    def predict(self, trainer, module, parts: int, key: str, keeps: bool = True) -> None:
        """Spreads a module's parts, which the config's `key` sizes, over the trainer's devices.

        The config is kept once a first batch is through: until then a step may refuse what it says.

        Args:
            keeps: whether it is; what a call asks for itself changes no run.
        Raises:
            ValueError: a device would have none.
        """
        from lightning.pytorch.callbacks import LambdaCallback

        if trainer.world_size > parts:
            raise ValueError(
                f"trainer: {trainer.world_size} devices for {parts} parts of work, expected no more than that. "
                f"Set trainer.devices={parts}, or {key} to have more parts."
            )
        if keeps:
            trainer.callbacks.append(LambdaCallback(on_predict_batch_end=lambda *_: self.save_config()))
        trainer.predict(module, return_predictions=False)
