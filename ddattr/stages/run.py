"""A run: its folder, and what its config builds. The only door to Hydra's `instantiate`."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddattr.artifacts import Artifact, fingerprint, first_process, load_tensors, save_json
from ddattr.schema import check_keys, raised_here

_NAME = re.compile(r"\w[\w.=+-]{0,99}")


class Run:
    """Builds, once and when asked, everything that a stage needs.

    Args:
        config: composed by Hydra.
        overrides: those that it was composed with, for the commands that errors suggest.
    Raises:
        ValueError: a config key that nothing reads or of a value that nothing takes; a run without a usable name.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str] = ()):
        self.config, self.seed = config, config.seed
        self.name, self.root = checked_name(config.name), checked_root(config.root)
        self.overrides = [o for o in overrides if not o.startswith(("stage=", "member=", "unit="))]
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}, expected an integer from 0 to 2^63 - 1. Set seed.")
        check_keys(config)

    # -- what the config builds

    def build(self, group: str, **arguments: Any) -> Any:
        """What a config group's `_target_` makes of its keys and of arguments that no config holds.

        Raises:
            ValueError: the config holds one of them all the same, or a library does not take what it says.
        """
        if taken := sorted(set(arguments) & set(self.config[group])):
            raise ValueError(f"key {group}.{taken[0]} is not for the config: the program sets it. Remove it.")
        with refused_by(group):
            return instantiate(self.config[group], _partial_=True, _convert_="all")(**arguments)

    @cached_property
    def data(self):
        return self.build("data")

    @cached_property
    def codebook(self):
        return self.build("codebook", units=self.data.units)

    @cached_property
    def process(self):
        return self.build("diffusion")

    @cached_property
    def reverse(self):
        return self.build("sampler").reverse(self.process)

    @cached_property
    def tracking(self):
        return self.build("tracking")

    @cached_property
    def significance(self):
        return self.build("significance", seed=self.seed)

    @cached_property
    def validation(self):
        fork = None if self.fork is None else Fraction(self.fork.steps, self.config.training.steps)
        return self.build("validation", codebook=self.codebook, sets=self.data.partitions(), seed=self.seed, fork=fork)

    @cached_property
    def fork(self):
        """How members leave their base; None when each is trained whole."""
        node = self.config.training.get("fork")
        if node is not None and not (OmegaConf.is_dict(node) and "_target_" in node):
            raise ValueError(f"training: fork={node}, expected null, or what training=forked has. Set training=forked.")
        return instantiate(node)

    def quality(self):
        """The callback that measures quality, with its extractor trained."""
        return self.build(
            "quality",
            images=self.data.images,
            labels=self.data.labels,
            members=self.codebook.members,
            reverse=self.reverse,
            seed=self.seed,
        )

    def check(self) -> None:
        """Refuses what a later step would, before anything is trained or written."""
        from ddattr.ensemble.quality import quality_rows

        _ = self.tracking, self.reverse
        quality_rows(self.codebook.members, self.plain("quality")["sizes"], 1, self.seed)
        network = self.network(None).eval()
        with torch.no_grad(), refused_by("unet", f"pictures of {' x '.join(map(str, self.data.shape))} do not fit"):
            network(torch.zeros(1, *self.data.shape), torch.zeros(1, dtype=torch.long))
        self.trainer([])

    @property
    def remarks(self) -> list[str]:
        """What a user should know of this config, before training."""
        return self.process.remarks(self.config.sampler.steps)

    def warn(self) -> None:
        """Prints it, once for all processes of a stage."""
        for remark in self.remarks if first_process() else ():
            print(f"warning: {remark}", flush=True)

    def network(self, member: int | None, seed: int | None = None):
        """A network with the initialisation of a member, or of all members when None; `seed` other than the run's."""
        from ddattr.diffusion.noise import Stream, seeded_torch

        with seeded_torch(self.seed if seed is None else seed, Stream.INITIALISATION, member):
            return self._network()

    def _network(self):
        channels, *size = self.data.shape
        return self.build("unet", sample_size=size, in_channels=channels, out_channels=channels)

    def trainer(self, loggers, callbacks: Sequence[Any] = (), **options: Any):
        """A Trainer that writes only where it is told to, and leaves the talking to us."""
        import lightning.fabric
        import lightning.pytorch  # noqa: F401

        from ddattr.ensemble.termination import Termination

        for talker in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(talker).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning|torchmetrics")
        # filling what is about to be written costs a twentieth of a small network's training
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return self.build(
            "trainer",
            logger=loggers or False,
            callbacks=[Termination(), *callbacks],
            enable_model_summary=False,
            log_every_n_steps=1,
            default_root_dir=str(self.root),
            **options,
        )

    def predict(self, trainer, module, parts: int, key: str) -> None:
        """Spreads a module's parts, which the config's `key` sizes, over the trainer's devices.

        Raises:
            ValueError: a device would have none.
        """
        if trainer.world_size > parts:
            raise ValueError(
                f"trainer: {trainer.world_size} devices for {parts} parts of work, expected no more than that. "
                f"Set trainer.devices={parts}, or {key} to have more parts."
            )
        trainer.predict(module, return_predictions=False)

    def plain(self, key: str) -> Any:
        """A config subtree as plain containers, resolved."""
        node = self.config[key]
        if not OmegaConf.is_config(node):
            return node
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain containers."""
        return OmegaConf.to_container(self.config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]

    def command(self, verb: str, *overrides: str) -> str:
        """The command line of a verb for this run."""
        return " ".join(["ddattr", verb, *overrides, *map(quote, self.overrides)])

    # -- artifacts

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
        return Artifact(self.root / "codebook", config, remedy=self.command("train", "member=0"))

    def member_artifact(self, member: int) -> Artifact:
        self.codebook.check_member(member)
        config, parents = self._training() | {"member": member}, {"codebook": self.codebook_artifact.fingerprint}
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
        if self.precision != "32-true":
            config["trainer"] = {"precision": self.precision}
        return config

    @property
    def precision(self) -> str:
        """Of training; replays are float32 always.

        Raises:
            ValueError: one of another type of weights, or one whose gradients have to be scaled.
        """
        precision = str(self.config.trainer.get("precision", "32-true"))
        precision = {"32": "32-true"}.get(precision, precision)
        if precision not in (known := ("32-true", "bf16-mixed")):
            raise ValueError(f"trainer: precision={precision}, expected {' or '.join(known)}. Set trainer.precision.")
        return precision

    @cached_property
    def base_artifact(self) -> Artifact:
        """What members are forks of: the ground truth's model of all units, trained for itself."""
        return self._whole(self.root / "base", range(self.codebook.units), self.command("train", "member=0"))

    def retrained_artifact(self, training) -> Artifact:
        """A model of the ground truth: never a fork."""
        folder, units = self.root / "validation" / "retraining" / training.name, training.units.nonzero()[:, 0].tolist()
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
        config = {key: self.plain(key) for key in ("seed", "quality")} | self._sampling
        config["labels"] = self.data.labels_fingerprint
        return Artifact(self.root / "quality", config, {"members": self.members_fingerprint}, self.command("evaluate"))

    @property
    def _sampling(self) -> dict[str, Any]:
        """The config that replays depend on."""
        spacing = self.process.respaced(self.config.sampler.steps)
        return {"sampler": self.plain("sampler")} | ({} if spacing is None else {"timestep_spacing": spacing})

    @cached_property
    def attribution_artifact(self) -> Artifact:
        config = {key: self.plain(key) for key in ("seed", "attribution", "significance")} | self._sampling
        config |= {"labels": self.data.labels_fingerprint, "clusters": self.config.data.clusters}
        return Artifact(
            self.root / "attribution", config, {"members": self.members_fingerprint}, self.command("attribute")
        )

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
            "its manifest.json and its folder scores/: trained models are kept",
        )

    @cached_property
    def figures_artifact(self) -> Artifact:
        parents = {"quality": self.quality_artifact.fingerprint, "attribution": self.attribution_artifact.fingerprint}
        return Artifact(self.root / "figures", {"name": self.name}, parents, self.command("report"))

    def missing_members(self) -> list[int]:
        """Members that are not done."""
        return [k for k in range(self.codebook.members) if not self.member_artifact(k).done()]

    def ensemble(self):
        """The trained ensemble.

        Raises:
            FileNotFoundError, ValueError: a member is missing, half-trained, foreign or damaged.
        """
        from ddattr.ensemble.ensemble import Ensemble

        n, missing = self.codebook.members, self.missing_members()
        if missing:
            first = self.member_artifact(missing[0])
            state = first.state()
            many = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            how = first.remedy if len(missing) == 1 else self.command("train", "-m", f"'member=range(0,{n})'")
            raise FileNotFoundError(f"ensemble: member {missing[0]} of {n} is {state}{many}. Train it: {how}")
        return Ensemble([self.load(self.member_artifact(k)) for k in range(n)])

    def extractor(self):
        """The extractor of features that `evaluate` trained."""
        from ddattr.ensemble.extractor import restored

        return restored(load_tensors(self.quality_artifact.verified("extractor.safetensors")), self.data.shape[1:])

    def load(self, artifact: Artifact):
        """The network of a member, or of a model of the ground truth."""
        path = artifact.verified("member.safetensors")
        weights, network = load_tensors(path), self.network(None)
        try:
            network.load_state_dict(weights)
        except RuntimeError:
            raise ValueError(f"{path} is not a member of this unet. Delete its folder and train it again.") from None
        return network

    def write_codebook(self) -> None:
        """The codebook's artifact, by whichever stage comes first."""
        artifact = self.codebook_artifact
        artifact.make(self.seed, lambda: save_json(artifact.folder / "codebook.json", artifact.config))


def checked_name(name: Any) -> str:
    """The run's name, of a folder and of a W&B group.

    Raises:
        ValueError: one that cannot be both.
    """
    if name is None or not _NAME.fullmatch(str(name)):
        raise ValueError(
            f"name={name}, expected 1 to 100 letters, digits, _ . = + or -, the first a letter, a digit or _. Set name."
        )
    return str(name)


def checked_root(root: Any) -> Path:
    """The run's folder.

    Raises:
        ValueError: an empty one, which would be wherever the command was given.
    """
    if not str(root or "").strip():
        raise ValueError(f"root={root}, expected a folder. Set root, or leave it at runs/<name>.")
    return Path(str(root))


@contextmanager
def refused_by(group: str, what: str = "") -> Iterator[None]:
    """Turns what a library raises, when it is given what a config group says, into a refusal that names the group.

    Raises:
        ValueError: what the library said, in one line. What this package's own lines raise passes unchanged.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, HydraException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if raised_here(cause) or isinstance(cause, OmegaConfBaseException | OSError):
            raise cause from None
        said = " ".join(str(cause).split()) or type(cause).__name__
        raise ValueError(
            f"{group}: {what}{what and ': '}{said[:300].rstrip('.')}. Check the keys of {group}."
        ) from None
