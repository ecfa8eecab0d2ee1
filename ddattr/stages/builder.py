"""What a config builds: data, codebook, networks, a trainer. The only door to Hydra's `instantiate`."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddattr.artifacts import first_process
from ddattr.attribution.queries import QuerySet
from ddattr.schema import check_keys, raised_here
from ddattr.stages.folder import PRETRAINED, Folder
from ddattr.stages.rule import open_keys, ruled


class Builder(Folder):
    """Builds, once and when asked, everything that a stage needs.

    Args:
        config: composed by Hydra.
        overrides: those that it was composed with, for the commands that errors suggest.
    Raises:
        ValueError: as `Folder`; a config key that nothing reads or of a value that nothing takes.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str] = ()):
        super().__init__(config, overrides)
        self.rule = ruled(config, self.data) if open_keys(config) else ""
        check_keys(config)
        if config.stage not in ("attribute", "replay", "load") and not self.queries.own:
            raise ValueError(
                "queries: pictures, seeds or held_out, which `attribute` asks and no other verb does. Leave them out, "
                "or run: " + self.command("attribute")
            )
        if config.stage not in ("attribute", "replay", "load") and config.functional is not None:
            raise ValueError(
                "functional: one is given, which `attribute` asks and no other verb does. Leave it out, or run: "
                + self.command("attribute")
            )

    def build(self, group: str, **arguments: Any) -> Any:
        """What a config group's `_target_` makes of its keys and of arguments that no config holds; with
        `_partial_: true` it is that function itself, with its keys given.

        Raises:
            ValueError: the config holds one of them all the same, or a library does not take what it says.
        """
        if taken := sorted(set(arguments) & set(self.config[group])):
            raise ValueError(f"key {group}.{taken[0]} is not for the config: the program sets it. Remove it.")
        with refused_by(group):
            made = instantiate(self.config[group], _partial_=True, _convert_="all")
            return made if self.config[group].get("_partial_") else made(**arguments)

    @cached_property
    def data(self):
        from ddattr.ensemble.extractor import restored

        try:
            return self.build("data", extractor=self.own_extractor, restore=restored)
        except FileNotFoundError as error:
            if self.config.fetch is None:
                raise
            raise FileNotFoundError(f"{error} To fetch it: {self.command('fetch')}") from None

    def own_extractor(self, images: Any, labels: Any) -> Any:
        """What tells pictures apart by features: of these data and the seed alone."""
        from ddattr.ensemble.extractor import train_extractor

        return train_extractor(images, labels, self.seed, self.config.quality.extractor_steps)

    @cached_property
    def conditions(self):
        """What members are conditioned on; None where on nothing."""
        prompts = self.config.conditions is not None and self.config.conditions._target_ == PRETRAINED["captions"]
        if prompts != self.of_text:
            raise ValueError(
                "conditions: captions, but unet takes no prompts. Set unet=text, or leave out conditions."
                if prompts
                else "conditions: no captions, but unet=text takes prompts. Set conditions=captions."
            )
        if prompts:
            return self.build("conditions", columns=self._columns(self.data.kept), texts=self._texts)
        if self.config.conditions is None:
            return None
        return self.build("conditions", labels=self.data.labels, named=partial(self.data.set_name, "label"))

    @cached_property
    def held_out_condition(self) -> torch.Tensor | None:
        """Number of the condition of every picture that no member saw: its label's, or its caption's.

        Raises:
            ValueError: one without a caption, or with one that is too long.
        """
        if self.conditions is None:
            return None
        held_out = self.data.held_out
        if self.of_text:
            return self.conditions.of_columns(self._columns(held_out), "held-out pictures")
        return self.conditions.of_labels(held_out.labels)

    def _columns(self, source: Any) -> dict[str, list[str]]:
        """Text of every picture of a source, by column."""
        found = {}
        if source.labels is not None:
            found["label"] = [self.data.set_name("label", value) for value in source.labels.tolist()]
        if source.table is not None:
            found |= {str(name): source.table[name].astype(str).tolist() for name in source.table}
        return found

    @cached_property
    def _texts(self):
        from ddattr.diffusion.prompts import Texts

        return Texts(self.config.unet.path)

    @cached_property
    def latents(self):
        """The code that members see pictures in; None where they see pictures.

        Raises:
            FileNotFoundError, ValueError: a pipeline without a VAE, or pictures that it does not take.
        """
        if not self.of_text:
            return None
        from ddattr.diffusion.text import latents

        if self.data.flips:
            raise ValueError(
                "data: flips=true, but unet=text sees latents, and a mirrored one is of no picture. Set "
                "data.flips=false."
            )
        return latents(self.config.unet.path, self.data.shape, self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of what members see: of pictures, or of their latents."""
        return self.data.shape if self.latents is None else self.latents.shape

    @property
    def device(self) -> torch.device:
        """Where the trainer would run a network."""
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None or self.config.trainer.accelerator == "cpu" else found

    @cached_property
    def codebook(self):
        return self.build("codebook", units=self.data.units)

    @cached_property
    def process(self):
        from ddattr.diffusion.pretrained import check_process

        path = self.pretrained
        if self.config.diffusion._target_ == PRETRAINED["diffusion"]:
            if path is None:
                raise ValueError("diffusion: pretrained, but no network is. Set unet=pretrained, or diffusion=linear.")
            return self.build("diffusion", path=path)
        process = self.build("diffusion")
        if path is not None:
            check_process(path, process)
        return process

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
    def queries(self):
        """What a call asks: the run's own queries, or another set."""
        return QuerySet() if self.config.queries is None else self.build("queries")

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

    @cached_property
    def lora(self):
        """What adapters members are; None when they have networks of their own."""
        node = self.config.training.get("lora")
        if node is not None and not (OmegaConf.is_dict(node) and "_target_" in node):
            raise ValueError(f"training: lora={node}, expected null, or what training=lora has. Set training=lora.")
        return instantiate(node, _convert_="all")

    @cached_property
    def shared(self):
        """The frozen network that all adapters of this process are evaluated on."""
        from ddattr.diffusion.adapters import Base
        from ddattr.diffusion.noise import Stream, seeded_torch

        with seeded_torch(self.seed, Stream.INITIALISATION):
            return Base(self._network(), self.lora)

    def quality(self):
        """The callback that measures quality, with its extractor trained."""
        known = self.conditions
        return self.build(
            "quality",
            images=self.data.images,
            labels=self.data.labels,
            members=self.codebook.members,
            reverse=self.reverse,
            seed=self.seed,
            under=None if known is None else known.given(known.like_data(self.config.quality.pictures)),
            **({} if self.latents is None else {"shape": self.shape, "shown": self.latents.decode}),
        )

    def check(self) -> None:
        """Refuses what a later step would, before anything is trained or written."""
        from ddattr.attribution.jacobian import check_turns
        from ddattr.ensemble.quality import quality_rows

        _ = self.tracking, self.reverse
        check_turns(self.plain("attribution")["jacobian"]["members_per_step"], self.codebook.members)
        quality_rows(self.codebook.members, self.plain("quality")["sizes"], 1, self.seed)
        network = self.network(None).eval()
        with torch.no_grad(), refused_by("unet", f"pictures of {' x '.join(map(str, self.data.shape))} do not fit"):
            first = torch.zeros(1, dtype=torch.long)
            under = [] if self.conditions is None else [self.conditions.given(first).condition]
            network(torch.zeros(1, *self.shape), first, *under)
        self.significance.check_units(self.codebook.units)
        self.trainer([])

    @property
    def remarks(self) -> list[str]:
        """What a user should know of this config, before training."""
        found, code = self.process.remarks(self.config.sampler.steps), self.codebook
        if self.conditions is not None:
            found += self.conditions.unseen(code.subset(k)[self.data.unit_of] for k in range(code.members))
        return found

    def warn(self) -> None:
        """Prints it, once for all processes of a stage."""
        for remark in self.remarks if first_process() else ():
            print(f"warning: {remark}", flush=True)

    def network(self, member: int | None, seed: int | None = None):
        """A network with the initialisation of a member, or of all members when None; `seed` other than the run's.

        An adapter of the shared network, where members are adapters.
        """
        from ddattr.diffusion.adapters import Adapted
        from ddattr.diffusion.noise import Stream, seeded_torch

        if self.lora is not None:
            shared = self.shared
            with seeded_torch(self.seed if seed is None else seed, Stream.ADAPTER, member):
                return Adapted(shared)
        with seeded_torch(self.seed if seed is None else seed, Stream.INITIALISATION, member):
            return self._network()

    def _network(self):
        channels, *size = self.shape
        if self.of_text:
            _ = self.conditions  # refused where it is of no prompts
            classes = {}
        elif self.conditions is not None:
            classes = {"num_class_embeds": self.conditions.null + 1}
        elif (count := self.config.unet.get("num_class_embeds")) is None:
            classes = {}
        else:
            raise ValueError(
                f"unet: num_class_embeds={count}, but members are given no classes. Set conditions=classes, which sets "
                "it, and unet.num_class_embeds=null."
            )
        return self.build("unet", sample_size=size, in_channels=channels, out_channels=channels, **classes)

    def trainer(self, loggers, callbacks: Sequence[Any] = (), plugins: Sequence[Any] = (), **options: Any):
        """A Trainer that writes only where it is told to, and leaves the talking to us.

        Raises:
            ValueError: one of several devices in a job of a sweep, or in a part.
        """
        import lightning.fabric
        import lightning.pytorch  # noqa: F401

        from ddattr.ensemble.termination import Termination

        for talker in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(talker).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning|torchmetrics")
        # filling what is about to be written costs a twentieth of a small network's training
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        trainer = self.build(
            "trainer",
            logger=loggers or False,
            callbacks=[Termination(), *callbacks],
            enable_model_summary=False,
            log_every_n_steps=1,
            default_root_dir=str(self.root),
            plugins=[*plugins, *_cluster()],
            **options,
        )
        if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError(
                f"trainer: {trainer.world_size} devices for each job of -m, expected 1: the processes of a job would "
                "begin the whole sweep and wait for each other. Leave out -m, or set trainer.devices=1."
            )
        if trainer.world_size > 1 and self.config.part is not None:
            raise ValueError(
                f"trainer: {trainer.world_size} devices for part={self.config.part}, expected 1: parts are processes "
                "that share the work already. Leave out part=, or set trainer.devices=1."
            )
        return trainer


def _cluster() -> list[Any]:
    """In a job of Slurm: else Lightning would take tasks for its own processes, and requeue as submitit does."""
    from lightning.pytorch.plugins.environments import LightningEnvironment

    return [LightningEnvironment()] if "SLURM_JOB_ID" in os.environ else []


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
