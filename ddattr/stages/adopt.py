"""`ddattr adopt FOLDER member=3 path=CHECKPOINT`: takes a network that your own script has trained as that member.

`ddattr subsets` lists what each member trains on. The checkpoint is a folder of diffusers, of a network or of a
pipeline, or a safetensors file; where members are adapters, that of an adapter, with the alpha of `training.lora`: a
file of ddattr's own says of which base and alpha it is, and is refused where these are not the run's. It fits where
names and shapes are those of `unet`, and where a folder says more, its network and its schedule are the run's. That it
saw its own units and no other, only you know: a member that was adopted is marked so wherever members are listed.
"""

from datetime import UTC, datetime
from pathlib import Path

from ddattr.artifacts import Artifact
from ddattr.diffusion.checkpoint import Checkpoint, checkpoint, fit
from ddattr.files import digest, load_about, save_tensors
from ddattr.stages import lineage
from ddattr.stages.run import Run


def run(run: Run) -> None:
    """Takes the checkpoint at `path` as the member that `member` names."""
    artifact, found = asked(run)
    member = run.config.member
    network = run.network(None)
    if run.lora is not None:
        run.shared.check(found.files[0], load_about(found.files[0]))
    fit(network, found, run.process)
    run.write_codebook()
    read = [run.codebook_artifact] if run.fork is None else [run.codebook_artifact, run.base_artifact]

    def work() -> None:
        with run.tracking.run(
            run.root, run.name, f"adopt-{member:03d}", artifact.fingerprint, run.resolved()
        ) as loggers:
            run.save_config()
            artifact.adopted = taken(Path(run.config.path), found)
            about = None if run.lora is None else run.shared.about
            save_tensors(artifact.folder / "member.safetensors", network.state_dict(), about)
            lineage.log(run, loggers, artifact, read, data=True)

    run.make(artifact, work)
    print(f"member {member}: adopted from {run.config.path}, {len(found.weights)} weights fit", flush=True)


def taken(path: Path, found: Checkpoint) -> dict[str, object]:
    """What a manifest says of where a member came from: the path, its files' digests, and when."""
    files = {file.relative_to(path.parent).as_posix(): digest(file) for file in found.files}
    return {"path": str(path), "files": files, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def asked(run: Run) -> tuple[Artifact, Checkpoint]:
    """The member, and what lies at `path`, once all is refused that cannot be.

    Raises:
        FileNotFoundError, ValueError: no member or path is named; the member is there already, or begun; nothing that
            could be one lies at the path.
    """
    member, path = run.config.member, run.config.path
    if member is None:
        raise ValueError(f"adopt: member is missing, expected 0 to {run.codebook.members - 1}. Set member.")
    artifact = run.member_artifact(member)
    if not isinstance(path, str) or not path:
        raise ValueError(
            f"adopt: path={'null' if path is None else path}, expected a safetensors file or a folder of diffusers. "
            "Set path."
        )
    if (state := artifact.state()) != "missing":
        artifact.done()  # refuses one of another config
        raise ValueError(
            f"adopt: member {member} is {state}, expected missing. Delete {artifact.folder} if this one is to take its "
            "place."
        )
    if run.fork is not None:
        run.base_artifact.require()
    run.check()
    return artifact, checkpoint(Path(path))
