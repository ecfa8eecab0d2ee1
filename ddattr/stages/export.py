"""`ddattr export FOLDER member=3 output=DIR`: a member, or without one the ensemble, as a pipeline of plain diffusers.

`DiffusionPipeline.from_pretrained(DIR)` loads it: unet/, scheduler/, and README.md, a model card that says where it
comes from and how the run's own tapes give its pictures again. The ensemble's unet is the mean of all members, whose
class lies beside it: it is loaded with `trust_remote_code=True`. Where members are adapters, they are merged into their
base, and lie beside it as files for diffusers' loaders of LoRA. Adapters of a text-to-image pipeline are these files
and the scheduler alone: StableDiffusionPipeline loads them on the base. Before it is done, one picture is made both
ways.
"""

import os
from pathlib import Path

import torch
from torch import nn

from ddattr.artifacts import Artifact
from ddattr.diffusion.adapters import Adapted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.pipeline import check_exportable, denoiser, loaded, lora_weights, replayed, save, scheduler
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import save_tensors, save_text, written
from ddattr.stages.modelcard import UNEVEN, Checked, card
from ddattr.stages.run import Run
from ddattr.stages.usage import Usage, of_adapters, of_pipeline


def run(run: Run) -> None:
    """Writes the folder, unless it is done."""
    artifact, members = asked(run)
    made = run.make(artifact, lambda: _write(run, artifact, members))
    print(f"export: {'' if made else 'already done, '}{artifact.folder}", flush=True)


def asked(run: Run) -> tuple[Artifact, list[int]]:
    """The export, and the members that are in it, once all is refused that cannot be.

    Raises:
        FileNotFoundError, ValueError: a member that does not exist or is not done; an output that is no new folder; a
            network or sampler that diffusers does not have.
    """
    member, n = run.config.member, run.codebook.members
    if member is not None:
        run.codebook.check_member(member)
    artifact = export(run)
    run.check_members(artifact)
    if member is None:
        run.require_members()
    elif not (one := run.member_artifact(member)).done():
        raise FileNotFoundError(f"export: member {member} of {n} is {one.state()}. Train it: {one.remedy}")
    if not artifact.done() and not (artifact.folder / ".lock").exists() and _taken(artifact.folder):
        raise ValueError(
            f"export: output={artifact.folder} has files already, expected a new or an empty folder. Set output."
        )
    if run.of_text:
        from ddattr.diffusion import prompted

        prompted.check_exportable(run.network(None), run.build("sampler"), run.conditions.guidance, run.data.shape)
    else:
        check_exportable(run.network(None), run.build("sampler"))
    return artifact, [*range(n)] if member is None else [member]


def _taken(folder: Path) -> bool:
    """Whether something lies in the way of a new folder."""
    return folder.exists() and not (folder.is_dir() and not os.listdir(folder))


def export(run: Run) -> Artifact:
    """The artifact of a member, or of all."""
    member, output = run.config.member, run.config.output
    if output is not None and (not isinstance(output, str) or not output.strip()):
        raise ValueError(f"export: output={output}, expected a folder. Set output, or leave it out.")
    name = "ensemble" if member is None else f"member-{member:03d}"
    folder = run.root / "exports" / name if output is None else Path(output)
    parents = {"members": run.members_fingerprint}
    if member is not None:
        parents = {f"members/{member:03d}": run.member_artifact(member).fingerprint}
    config = {"name": run.name, "seed": run.seed, "member": member, "sampler": run.plain("sampler")}
    if run.of_text:
        config["conditions"] = {key: run.plain("conditions")[key] for key in ("guidance", "queries")}
    artifact = Artifact(
        folder,
        config,
        parents,
        run.command("export"),
        "Set output= to another folder, or delete that one.",
        title="export",
    )
    artifact.read = {name: of for name, of in run.members_read.items() if member is None or name in parents}
    return artifact


def _write(run: Run, artifact: Artifact, members: list[int]) -> None:
    networks = [run.load(run.member_artifact(k)) for k in members]
    folder, back = artifact.folder, scheduler(run.process, run.build("sampler"))
    with written(folder):
        if run.of_text:
            back.save_pretrained(folder / "scheduler")
        else:
            save(folder, denoiser(networks), back)
    adapters = adapter_files(networks, members)
    for name, weights in adapters.items():
        save_tensors(folder / name, weights, {**run.shared.about, "alpha": run.lora.rank})  # whose scale is in B
    checked, usage = (_checked_text if run.of_text else _checked)(run, networks, folder, list(adapters))
    save_text(folder / "README.md", card(run, members, checked, usage).rstrip())
    if not checked.same:
        print(
            f"warning: in plain diffusers the picture of seed {run.seed} differs by {checked.difference:.2g}: "
            f"{UNEVEN}. Set sampler.steps to a divisor of {run.process.timesteps} where pictures have to be the same.",
            flush=True,
        )


def adapter_files(networks: list[nn.Module], members: list[int]) -> dict[str, dict[str, torch.Tensor]]:
    """Where members are adapters: each as a file for diffusers' loaders of LoRA, by name; else none."""
    named = (
        ["pytorch_lora_weights.safetensors"] if len(members) == 1 else [f"lora/{k:03d}.safetensors" for k in members]
    )
    pairs = zip(named, networks, strict=True)
    return {name: lora_weights(network) for name, network in pairs if isinstance(network, Adapted)}


def _checked(run: Run, networks: list[nn.Module], folder: Path, adapters: list[str]) -> tuple[Checked, Usage]:
    """One picture by ddattr, and by what was written, in plain diffusers."""
    tape, ours = _ours(run, Ensemble(networks))
    theirs = replayed(loaded(folder), tape, run.build("sampler").eta)
    return Checked.of(ours, theirs), of_pipeline(run, run.seed, adapters, len(networks) == 1)


def _checked_text(run: Run, networks: list[nn.Module], folder: Path, adapters: list[str]) -> tuple[Checked, Usage]:
    """The same, of latents under the prompt of the run's seed."""
    from ddattr.diffusion import prompted

    number = run.conditions.of_seeds([run.seed], run.conditions.queries)
    (prompt,) = run.conditions.prompts(number)
    tape, ours = _ours(run, Ensemble(networks).given(run.conditions.given(number)))
    pipeline, eta = prompted.loaded(run.config.unet.path, folder, adapters), run.build("sampler").eta
    theirs = prompted.replayed(pipeline, tape, eta, prompt, run.conditions.guidance, run.data.shape)
    return Checked.of(ours, theirs), of_adapters(run, run.seed, prompt, adapters)


def _ours(run: Run, ensemble: Ensemble) -> tuple[torch.Tensor, torch.Tensor]:
    """The tape of the run's seed, and what the ensemble makes of it."""
    tape = noise_tape([run.seed], len(run.reverse), run.shape)
    return tape, ensemble.replay(ensemble.uniform[None], tape, run.reverse)[0]
