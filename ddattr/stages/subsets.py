"""`ddattr subsets FOLDER`: who trains on what, for a training of your own: a list of every member's pictures.

Writes subsets/ in the run's folder: NNN.csv, the pictures of member NNN; settings.json, schedule, sampler, seeds and
draws; initialisation.safetensors, the weights that all members start from. `ddattr adopt` takes back what you train.
"""

from typing import Any

import pandas as pd

from ddattr.artifacts import Artifact
from ddattr.ensemble.member import address
from ddattr.files import save_json, save_table, save_tensors
from ddattr.stages.run import Run

_DRAWN = {  # as `noise.TrainingDraws` and `noise.noise_tape` draw: settings.json says it to whoever has no ddattr
    "generator": "numpy.random.Generator(numpy.random.Philox(key=[seed, stream + 256 * m], counter=[0, 0, attempt, "
    "step])); m is 0 where draws are common, else the member's number + 1",
    "images": "stream 4: floor(random(batch) * pictures) is the place of every slot's picture in all.csv; a slot whose "
    "picture is not the member's takes that of attempt 1, 2, ...",
    "times": "stream 3: floor(random(batch) * num_train_timesteps)",
    "noise": "stream 2: standard_normal((batch, C, H, W), float32), of latents where members see latents",
    "flips": "stream 16: a slot's picture is mirrored where random(batch) < 0.5, if flips is true",
    "conditions": "stream 19: a slot's picture is shown under the null where random(batch) < conditions.dropout",
    "tape": "stream 1, m = 0, the query's seed: standard_normal((C, H, W), float32) is x_T at step 0, and at step i "
    "+ 1 what reverse step i adds",
}


def run(run: Run) -> None:
    """Writes the lists, unless that is done."""
    artifact = subsets(run)
    run.check()
    run.write_codebook()
    if not run.make(artifact, lambda: _write(run, artifact)):
        print("subsets: already done", flush=True)
    print(f"subsets: {run.codebook.members} members, in {artifact.folder}. {following(run)}", flush=True)


def subsets(run: Run) -> Artifact:
    """The artifact: of the codebook, and of what a training depends on."""
    if run.fork is not None:
        run.base_artifact.require()
    member = run.member_artifact(0)
    config = {key: value for key, value in member.config.items() if key != "member"} | {"sampler": run.plain("sampler")}
    return Artifact(run.root / "subsets", config, member.parents, run.command("subsets"))


def following(run: Run) -> str:
    """What to do with what was trained."""
    return f"Take each back: {run.command('adopt', 'member=0', 'path=CHECKPOINT')}"


def _write(run: Run, artifact: Artifact) -> None:
    run.save_config()
    table = pictures(run)
    save_table(artifact.folder / "all.csv", table)
    for member in range(run.codebook.members):
        owned = run.codebook.subset(member)[run.data.unit_of].numpy()
        save_table(artifact.folder / f"{member:03d}.csv", table[owned])
    save_json(artifact.folder / "settings.json", settings(run))
    if run.fork is not None:
        save_tensors(artifact.folder / "initialisation.safetensors", run.load(run.base_artifact).state_dict())
    elif run.config.training.draws == "common":
        save_tensors(artifact.folder / "initialisation.safetensors", run.network(None).state_dict())


def pictures(run: Run) -> pd.DataFrame:
    """A row for every picture that some member sees: its row in the source, unit and label, what it is shown under, by
    number and in words, and what the source's table has, the name of its file among it."""
    data, known = run.data, run.conditions
    table = pd.DataFrame({"row": data.rows.numpy(), "unit": data.unit_of.numpy()})
    if data.labels is not None:
        table["label"] = data.labels.numpy()
    if known is not None:
        table["condition_number"], table["condition"] = known.labels.numpy(), known.words(known.labels)
    if data.kept.table is None:
        return table
    text = data.kept.table.reset_index(drop=True)
    return pd.concat([table, text.drop(columns=[name for name in table if name in text])], axis=1)


def settings(run: Run) -> dict[str, Any]:
    """What a training elsewhere has to share with this run's members, so that they differ by what they saw alone."""
    data, code, training = run.data, run.codebook, run.plain("training")
    address(training["draws"], None)  # refuses another name
    return {
        "members": code.members,
        "weight": code.weight,
        "units": code.units,
        "unit": data.kind,
        "pictures": len(data.images),
        "shape": list(data.shape),
        "latents": None if run.latents is None else list(run.shape),
        "conditions": _conditions(run),
        "values": [-1, 1],
        "folder": (run.plain("data").get("source") or {}).get("path"),
        "frame": data.frame._asdict(),
        "flips": data.flips,
        "seed": run.seed,
        "unet": run.plain("unet"),
        "scheduler": {k: v for k, v in run.process.scheduler.config.items() if not k.startswith("_")},
        "prediction_type": run.process.scheduler.config.prediction_type,
        "sampler": run.plain("sampler"),
        "timesteps": [step.t for step in run.reverse],
        "training": training,
        "first_step": 0 if run.fork is None else training["steps"],
        "draws": {"are": training["draws"], **_DRAWN},
    }


def _conditions(run: Run) -> dict[str, Any] | None:
    """How members are conditioned: share of pictures under the null, its number, and the guidance that they are asked
    with, which no training depends on."""
    known = run.conditions
    return None if known is None else {"dropout": known.dropout, "null": known.null, "guidance": known.guidance}
