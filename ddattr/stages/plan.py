"""`ddattr plan`: what a run can resolve, and what it costs. Writes nothing."""

import math
import sys
from collections.abc import Callable

import torch

from ddattr.artifacts import adopted
from ddattr.attribution.power import expected_power, members_needed
from ddattr.codebook import (
    FREEDOM,
    ORTHOGONAL,
    RANDOM,
    Codebook,
    default_weight,
    smallest,
    smallest_orthogonal,
)
from ddattr.data.near import COMPARED
from ddattr.data.tables import near_table, unit_names
from ddattr.files import load_table
from ddattr.hadamard import exists
from ddattr.stages.estimate import Estimate, estimate
from ddattr.stages.processes import cores, launched
from ddattr.stages.run import Run

_LARGEST = 3  # units that are named


def run(run: Run) -> None:
    """Prints the plan, each part when it is known; on a terminal, what is being done meanwhile."""
    _doing("reading the data, and what its units are")
    data = run.data
    run.check()
    code = run.codebook
    if run.rule:
        print(run.rule, flush=True)
    parts: list[tuple[str, Callable[[], list[tuple[str, str]]]]] = [
        ("comparing codewords", lambda: describe(code, run.significance.level)),
        ("looking for copies", lambda: _data(data)),
        ("timing steps of the network", lambda: _cost(run)),
        ("reading what was attributed", lambda: _power(run)),
    ]
    for doing, part in parts:
        _doing(doing)
        for name, value in part():
            print(f"{name:<28}{value}", flush=True)
    found = warnings(code, run.significance.level, data.duplicates)
    if data.labelled_twice:
        found.append(f"{data.labelled_twice} pictures are identical to one of another label.")
    if taken := adopted(run.root):
        print(f"{'trained elsewhere':<28}members {', '.join(map(str, taken))}, whose cost nobody here knows")
    for warning in [*run.remarks, *found]:
        print(f"warning: {warning}")


def _doing(what: str) -> None:
    if sys.stderr.isatty():
        print(f"plan: {what} ...", file=sys.stderr, flush=True)


def describe(code: Codebook, level: float = 0.05) -> list[tuple[str, str]]:
    """Properties of a codebook, as names and values; `level` is that of tests."""
    balance = code.balance
    lost = ", ".join(f"{k}: {_survivors(code, k):.1f}" for k in (1, 2, 3, 5, 10))
    step = code.units / code.capacity  # p of a radius is about a multiple of it
    values = "no test of it" if 2 * step > level else f"about {int(level / step)} values up to {level:g}"
    need = ", ".join(f"q {level:g}: {smallest(code.units, level)}" for level in (1.0, 0.05, 0.01, 0.001))
    orthogonal = code.design == ORTHOGONAL
    resolved = [
        ("smallest q of one unit", f"{code.smallest_q():.3g}"),
        ("members for a smallest q", need),
    ]
    return [
        ("codebook", f"{code.units} units, n={code.members} members, weight h={code.weight}, seed {code.seed}"),
        ("design", f"{code.design}; {fitting(code)}"),
        (
            "capacity n - 1" if orthogonal else "capacity C(n, h)",
            f"{_count(code.capacity)} codewords, {_count(code.phantoms)} phantoms",
        ),
        ("p of a unit by", f"{code.p_by}: parametric, not randomisation" if orthogonal else code.p_by),
        ("units per member", f"{int(balance.min())} to {int(balance.max())}, mean {balance.double().mean():.1f}"),
        ("smallest distance", f"{code.distance() if code.units > 1 else '-'} bits"),
        ("survivors of k removed", lost),
        *([] if orthogonal else resolved),
        ("smallest p of the radius", f"{step:.3g}, N / {'(n - 1)' if orthogonal else 'C(n, h)'}: {values}"),
        ("contrast variance", f"{code.contrast_variance:.4f}, h / (n (n - h)): smaller linearises better"),
    ]


def fitting(code: Codebook) -> str:
    """Which design fits as many units and members, and why, in one line."""
    units, n = code.units, code.members
    enough = smallest_orthogonal(units, FREEDOM)
    if code.freedom < FREEDOM:
        left = f"orthogonal words of n={n} would leave {units:,} units {max(0, code.freedom)} degrees of freedom"
        return f"random fits: {left}, fewer than {FREEDOM}{f' (n={enough} leaves more)' if enough else ''}"
    if not exists(n):
        return f"random fits: no orthogonal words of n={n} are made (n={enough} has them)"
    if (Codebook(units, n, n // 2, code.seed, ORTHOGONAL).balance == 0).any():
        return f"random fits: by orthogonal words of seed {code.seed} some member would see none of {units} units"
    how = "" if code.design == ORTHOGONAL else ". Set codebook.design=orthogonal and codebook.weight=null"
    return f"orthogonal fits: {units} effects at once, none in another's, {code.freedom} degrees of freedom left{how}"


def warnings(code: Codebook, level: float, duplicates: int) -> list[str]:
    """What a user should change, or know, before training."""
    found = []
    if code.smallest_q() > level:
        usual = "" if code.weight == default_weight(code.members) else " and codebook.weight to null"
        found.append(
            f"no single unit can reach q <= {level:g}: the smallest is {code.smallest_q():.3g}. "
            f"Set codebook.members to {smallest(code.units, level)} or more{usual}, or ask for sets of units."
        )
    if code.design == ORTHOGONAL and code.freedom < FREEDOM:
        members = smallest_orthogonal(code.units, FREEDOM)
        found.append(
            f"{code.freedom} degrees of freedom leave a t-test little power for few units. Set codebook.members to "
            f"{members} or more."
        )
    if 2 * code.weight == code.members and code.design == RANDOM:
        found.append("weight is half of members: complementary codewords tie under `norm`. Set codebook.weight lower.")
    if duplicates:
        found.append(
            f"{duplicates} pictures are identical to one of another unit: removing one leaves the other behind."
        )
    return found


def _survivors(code: Codebook, removed: int, trials: int = 200) -> float:
    """Mean number of members that saw none of `removed` random units."""
    chosen = torch.stack([torch.arange(removed) * 7919 + 104729 * trial for trial in range(trials)]) % code.units
    return float((~code.codewords(chosen).any(1)).sum(1).double().mean())


def _data(data) -> list[tuple[str, str]]:
    size, sizes = "x".join(map(str, data.shape)), data.unit_of.bincount()
    lines = [("data", f"{len(data.images):,} pictures of {size}, units by {data.kind}, {data.fingerprint}")]
    if held := len(data.held_out.images):
        lines.append(("held out", f"{held:,} pictures that no member sees"))
    if data.units < len(data.images):
        largest = sizes.argsort(descending=True, stable=True)[:_LARGEST]
        names = zip(unit_names(data, largest), sizes[largest].tolist(), strict=True)
        named = ", ".join(f"{name} ({count:,})" for name, count in names)
        lines.append(("pictures of a unit", f"{int(sizes.min()):,} to {int(sizes.max()):,}; the largest: {named}"))
    if data.kind == "cluster" or not data.is_small:
        lines.append(("pictures are compared by", data.compared_name))
    if len(data.images) <= COMPARED:
        near = near_table(data)
        apart = near[near.first_unit != near.second_unit]
        shown = "".join(f"; {pair.first_name} = {pair.second_name}" for pair in apart[:3].itertuples())
        lines.append(("near-duplicates", f"{len(near):,} pairs, {len(apart):,} of two units{shown}"))
    if data.flips:
        lines.append(("flips", "a picture and its mirror are one: both are removed, and owed to, together"))
    lines += [("pictures", note) for note in data.source.notes]
    if data.source.broken:
        lines.append(("left out", f"{len(data.source.broken):,} files that cannot be read"))
    return lines


def _cost(run: Run) -> list[tuple[str, str]]:
    """Estimates for one process, and for all that `reproduce` starts."""
    found = estimate(run)
    fork = run.fork
    return [
        *(
            []
            if fork is None
            else [("members", f"forks of {fork.steps} steps of one base of {run.config.training.steps}")]
        ),
        *_pretrained(run),
        ("network", f"{found.parameters:,} parameters" if run.lora is None else _adapters(found)),
        *_conditions(run),
        (
            f"time, one {found.device.type} process",
            ", ".join(f"{verb} {duration(seconds)}" for verb, seconds in found.seconds.items()),
        ),
        *([("as measured", found.measured)] if found.measured else []),
        _together(run, found.device, found.seconds),
        *_truth(run, found),
        ("memory", f"about {found.memory / 1e9:.1f} GB a process"),
        ("disk", f"about {found.disk / 1e6:.0f} MB"),
    ]


def _pretrained(run: Run) -> list[tuple[str, str]]:
    """Where members start, and what that leaves open."""
    if run.pretrained is None:
        return []
    said = f"the weights of {run.pretrained}: what they have learnt cannot be attributed"
    return [("members start from", said)]


def _adapters(found: Estimate) -> str:
    return f"an adapter of {found.parameters:,} parameters a member, on one network of {found.shared:,}, held once"


def _conditions(run: Run) -> list[tuple[str, str]]:
    """What members are conditioned on, where they are."""
    known = run.conditions
    if known is None:
        return []
    of = "prompts" if run.of_text else "labels"
    return [("conditions", f"{known.null} {of}, dropout {known.dropout:g}, guidance {known.guidance:g}")]


def _truth(run: Run, found: Estimate) -> list[tuple[str, str]]:
    """The models that `validate` asks for, whole trainings each; or why it would refuse, which nothing else minds."""
    try:
        models = run.validation.count()
    except ValueError as error:
        return [("retrain, for validate", f"not as it is: {error}")]
    said = f"{models} models, {duration(models * found.whole)} in one process"
    return [("retrain, for validate", said)] if models else []


def _together(run: Run, device: torch.device, passes: dict[str, float]) -> tuple[str, str]:
    """Time of `reproduce`: members side by side, in rounds, then the rest; one accelerator is shared, and no faster."""
    if device.type != "cpu":
        return f"reproduce, one {device.type}", f"about {duration(sum(passes.values()))}"
    processes, n = launched(), run.codebook.members
    rounds = math.ceil(n / processes) / n
    seconds = passes["train"] * rounds + (passes["evaluate"] + passes["attribute"]) / min(processes, cores())
    return f"reproduce, {processes} processes", f"about {duration(seconds)}, data and figures apart"


def _power(run: Run) -> list[tuple[str, str]]:
    """From a finished attribution: the members that would show the k nearest units, in a share `power` of queries.

    No fewer than give every unit a codeword of its own.

    Raises:
        ValueError: a power that chance alone would have, or none.
    """
    level, power, code = run.significance.level, run.config.power, run.codebook
    if not (all(isinstance(share, float) for share in (level, power)) and 0 < level < power < 1):
        raise ValueError(f"plan: power={power}, significance.level={level}, expected 0 < level < power < 1. Set power.")
    if not run.attribution_artifact.done():
        return []
    sets, fewest = load_table(run.attribution_artifact.folder / "sets.parquet"), smallest(code.units)
    lines = []
    for name, rows in sets[sets.set.str.startswith("nearest:")].groupby("set", sort=False):
        z = torch.tensor(rows.z.to_numpy())
        need, now = members_needed(z, code.members, level, power), expected_power(z, 1.0, level)
        wanted = f"n={max(fewest, math.ceil(need - 1e-6))}" if need < 1e5 else "no n"
        lines.append(
            (
                f"power, {str(name).partition(':')[2]} nearest",
                f"{now:.2f} now (mean z {z.mean():.2f}); {power:.2f} needs {wanted}",
            )
        )
    return lines


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """In the unit that it is read in."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
