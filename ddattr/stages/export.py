"""`ddattr export FOLDER member=3 output=DIR`: a member, or without one the ensemble, as a pipeline of plain diffusers.

`DiffusionPipeline.from_pretrained(DIR)` loads it: unet/, scheduler/, and README.md, a model card that says where it
comes from and how the run's own tapes give its pictures again. The ensemble's unet is the mean of all members, whose
class lies beside it: it is loaded with `trust_remote_code=True`. Where members are adapters, they are merged into their
base, and lie beside it as files for diffusers' loaders of LoRA. Before it is done, one picture is made both ways.
"""

import os
from pathlib import Path

import torch

from ddattr.artifacts import Artifact, save_tensors, save_text, written
from ddattr.diffusion.adapters import Adapted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.pipeline import check_exportable, denoiser, loaded, lora_weights, replayed, save, scheduler
from ddattr.ensemble.ensemble import Ensemble
from ddattr.stages.modelcard import UNEVEN, Checked, card
from ddattr.stages.run import Run


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
    artifact = Artifact(
        folder,
        {"name": run.name, "seed": run.seed, "member": member, "sampler": run.plain("sampler")},
        parents,
        run.command("export"),
        "Set output= to another folder, or delete that one.",
        title="export",
    )
    artifact.read = {name: of for name, of in run.members_read.items() if member is None or name in parents}
    return artifact


def _write(run: Run, artifact: Artifact, members: list[int]) -> None:
    networks = [run.load(run.member_artifact(k)) for k in members]
    folder, sampler = artifact.folder, run.build("sampler")
    with written(folder):
        save(folder, denoiser(networks), scheduler(run.process, sampler))
    adapters = adapter_files(networks, members)
    for name, weights in adapters.items():
        save_tensors(folder / name, weights, {**run.shared.about, "alpha": run.lora.rank})  # whose scale is in B
    checked = _checked(run, networks, folder, sampler.eta)
    save_text(folder / "README.md", card(run, members, checked, list(adapters)).rstrip())
    if not checked.same:
        print(
            f"warning: in plain diffusers the picture of seed {checked.seed} differs by {checked.difference:.2g}: "
            f"{UNEVEN}. Set sampler.steps to a divisor of {run.process.timesteps} where pictures have to be the same.",
            flush=True,
        )


def adapter_files(networks: list[torch.nn.Module], members: list[int]) -> dict[str, dict[str, torch.Tensor]]:
    """Where members are adapters: each as a file for diffusers' loaders of LoRA, by name; else none."""
    named = (
        ["pytorch_lora_weights.safetensors"] if len(members) == 1 else [f"lora/{k:03d}.safetensors" for k in members]
    )
    pairs = zip(named, networks, strict=True)
    return {name: lora_weights(network) for name, network in pairs if isinstance(network, Adapted)}


def _checked(run: Run, networks: list[torch.nn.Module], folder: Path, eta: float) -> Checked:
    """One picture by ddattr, and by what was written, in plain diffusers."""
    tape, weights = noise_tape([run.seed], len(run.reverse), run.shape), torch.ones(1, len(networks))
    ours = Ensemble(networks).replay(weights / len(networks), tape, run.reverse)[0]
    theirs = replayed(loaded(folder), tape, eta)
    return Checked(run.seed, (ours - theirs).abs().max().item(), ours.abs().max().item())
