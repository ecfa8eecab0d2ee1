"""The model card of an export: what it is, where it comes from, and how it is used."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ddattr.artifacts import adopted
from ddattr.files import load_json
from ddattr.stages.run import Run
from ddattr.stages.usage import Usage

UNEVEN = "DDIMScheduler steps back by num_train_timesteps // steps, here not to the next of its timesteps"


class Checked(NamedTuple):
    """One picture that was made both ways: the largest difference of a value, and the largest value."""

    difference: float
    largest: float

    @classmethod
    def of(cls, ours: Tensor, theirs: Tensor) -> "Checked":
        """Of the picture as ddattr makes it, and as plain diffusers does."""
        return cls((ours - theirs).abs().max().item(), ours.abs().max().item())

    @property
    def same(self) -> bool:
        """Whether that is rounding."""
        return self.difference < 1e-4 * max(1.0, self.largest)


def card(run: Run, members: Sequence[int], checked: Checked, usage: Usage) -> str:
    """README.md of an export of one member, or of all."""
    n = run.codebook.members
    title = f"member {members[0]} of {n}" if len(members) == 1 else f"the ensemble of {n} members"
    base = "" if run.pretrained is None else " and of the base"
    return f"""---
library_name: diffusers
pipeline_tag: {usage.tag}
tags: [ddattr, diffusion, data-attribution]
---

# {run.name}: {title}

{_about(run, members)}

## Where it comes from

{_table(_provenance(run, members))}

## Load it

```python
{usage.load}
```

{usage.said}
## The same picture again

A picture is its seed: noise is drawn by numpy at an address (seed, step). This is {usage.picture}:

```python
{usage.replay}
```

When this folder was written, the largest difference of a value from ddattr's own was {checked.difference:.2g},
of values up to {checked.largest:.2g}{"" if checked.same else f": {UNEVEN}"}.

## Licence

None is chosen here: set one, in the head of this file too. It may have to follow those of the training pictures{base}.
"""


def _about(run: Run, members: Sequence[int]) -> str:
    data, code = run.data, run.codebook
    kind = f"units (a unit is one {data.kind})"
    one = "Each" if len(members) > 1 else "It"
    before = "" if run.fork is None else f" {one} is a fork: its base was trained on all of them before."
    if run.pretrained is not None:
        before += f" {one} started from `{run.pretrained}`: what that saw is not known here."
    if len(members) > 1:
        return (
            f"The mean of {code.members} diffusion models, the members. Each was trained on some of {code.units:,} "
            f"{kind}, every unit is seen by {code.weight} of them, and none was trained on them all.{before}"
        )
    owned = code.subset(members[0])
    pictures = int(owned[data.unit_of].sum())
    return (
        f"A diffusion model that was trained on {int(owned.sum()):,} of {code.units:,} {kind}: {pictures:,} pictures. "
        f"It has not seen the other {int((~owned).sum()):,} units, of {len(data.images) - pictures:,} pictures.{before}"
    )


def _provenance(run: Run, members: Sequence[int]) -> dict[str, Any]:
    artifacts = [run.member_artifact(k) for k in members]
    made: Mapping[str, Any] = artifacts[0].manifest or {}
    taken = {k: of for k, of in adopted(run.root).items() if k in members}
    rows = {
        "run": run.name,
        "data": f"{run.data.fingerprint} (fingerprint of {len(run.data.images):,} pictures and their units)",
        "codebook": (load_json(run.codebook_artifact.folder / "manifest.json") or {}).get("fingerprint"),
        "members": run.members_fingerprint if len(members) > 1 else made.get("fingerprint"),
        "seed": made.get("seed"),
        "command" if len(members) == 1 else "command, of the first": f"`{made.get('command')}`",
        **({} if run.pretrained is None else {"base": f"`{run.pretrained}`, {run.pretrained_digest}"}),
        "commit of ddattr": made.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items()),
        "device": made.get("device"),
        "finished": made.get("finished"),
    }
    if len(members) == 1:
        rows["sha256 of the member's weights"] = (made.get("files") or {}).get("member.safetensors")
    for k, of in taken.items():
        files = ", ".join(f"{name} {of_file}" for name, of_file in of["files"].items())
        rows[f"member {k}"] = f"trained elsewhere, and adopted on {of['date']} from `{of['path']}` ({files})"
    return rows


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
