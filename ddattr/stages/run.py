"""A run: what its config builds, what its stages write, and what is loaded from there."""

import hashlib
import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from ddattr.artifacts import Artifact, fingerprint, first_process
from ddattr.attribution.places import FUNCTIONALS
from ddattr.attribution.queries import QuerySet
from ddattr.data.near import COMPARED
from ddattr.data.pictures import blocks, content_of
from ddattr.data.tables import near_table, unit_table
from ddattr.files import digest, load_about, load_tensors, save_json, save_table, save_tensors, save_text
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

    def query_set_artifact(self, queries: QuerySet) -> Artifact:
        """A query set, the run's own or another, whose folder is named as it is.

        Raises:
            FileNotFoundError, ValueError: a picture's file that cannot be read.
        """
        if queries.own:
            return self.attribution_artifact
        own = ("queries", "first_query", "batch")
        asked = [key for key in self._scoring if key not in own and (queries.replayed or key in ("denoisings", "kept"))]
        settings = {key: self._scoring[key] for key in asked}
        config = self._attribution({"attribution": settings, "queries": queries.content})
        if queries.held_out:
            config["held_out"] = hashlib.sha256(content_of(self.data.held_out.images)).hexdigest()[:16]
        if queries.pictures is not None:
            config["frame"] = list(self.data.frame)  # which files are made into, and no data may show all of
        return Artifact(
            self.root / "attribution" / queries.title,
            config | (self._sampling if queries.replayed else {}),
            {"members": self.members_fingerprint},
            self.command("attribute"),
            "Set queries.name to another, or delete that folder.",
        )

    @cached_property
    def functional(self):
        """The number of every picture that a call asks about; None where it asks about whole pictures alone.

        A constructor that names `data` or `classifier` is given the run's own.

        Raises:
            FileNotFoundError, ValueError: what it is made of is missing, or it refuses its keys.
        """
        if self.config.functional is None:
            return None
        offered: dict[str, Callable[[], Any]] = {"data": lambda: self.data, "classifier": self.extractor}
        return self.build("functional", **{name: offered[name]() for name in self._functional_takes & set(offered)})

    @property
    def _functional_takes(self) -> set[str]:
        return set(inspect.signature(get_object(self.config.functional._target_)).parameters)

    def functional_artifact(self, queries: QuerySet) -> Artifact:
        """What a functional of a query set's pictures owes itself to, in a folder of that set.

        A file that a key names counts by what it holds; a constructor of the user's own, by its name.
        """
        of, node = self.query_set_artifact(queries), self.plain("functional")
        held = {key: digest(Path(value)) if _is_file(value) else value for key, value in node.items()}
        parents = {"attribution" if queries.own else f"attribution/{queries.title}": of.fingerprint}
        if "classifier" in self._functional_takes:
            parents["quality"] = self.quality_artifact.fingerprint
        title = f"{node['_target_'].rpartition('.')[2].lower()}-{fingerprint(held)[:8]}"
        return Artifact(
            of.folder / FUNCTIONALS / title,
            {"seed": self.seed, "functional": held},
            parents,
            self.command("attribute"),
            "Delete that folder, and ask again.",
        )

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


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_file()
