"""Asking a functional of a query set: to whom does one number of its pictures owe itself? Tables beside the set's."""

import torch

from ddattr.artifacts import Artifact
from ddattr.attribution import aspects
from ddattr.attribution.adjoint import differentiated
from ddattr.attribution.queries import QuerySet
from ddattr.attribution.scored import Scored
from ddattr.files import load_tensors, save_table, save_tensors
from ddattr.stages import lineage
from ddattr.stages.attributing import built
from ddattr.stages.builder import refused_by
from ddattr.stages.run import Run


def ready(run: Run, queries: QuerySet) -> None:
    """Refuses a functional that cannot be asked of a query set, before anything is made.

    Raises:
        FileNotFoundError, ValueError: pictures without tapes, or latents; as the functional and `differentiated`.
    """
    if run.of_text:
        raise ValueError(
            "functional: members of text make latents, which no functional is of. Leave out functional, or take "
            "members of pictures."
        )
    if not queries.replayed:
        raise ValueError(
            "functional: pictures without tapes, on which nothing is replayed, expected generated or inverted ones. "
            "Set queries.invert=true."
        )
    functional = run.functional
    with refused_by("functional"):
        differentiated(functional, run.data.images[torch.arange(min(2, len(run.data.images)))])


def ask(run: Run, queries: QuerySet) -> Artifact:
    """Asks the run's functional of a query set that is done, unless that was done; what it has made."""
    artifact = run.functional_artifact(queries)
    if artifact.done():
        run.check_members(artifact)
    else:
        artifact.read = run.members_read
        artifact.make(run.seed, lambda: _ask(run, queries, artifact))
    return artifact


def _ask(run: Run, queries: QuerySet, artifact: Artifact) -> None:
    of, functional = run.query_set_artifact(queries), run.functional
    stored = load_tensors(of.verified("queries.safetensors"))
    module = built(run, of, queries.asked(run.seen, run.seed, run.conditions)).to(run.device)
    found = [module.adjoint(numbers, functional) for numbers in module.batches]
    value, response = torch.cat([part.value for part in found]).cpu(), torch.cat([p.response for p in found], 1).cpu()
    scored = Scored(stored["seeds"], stored["factual"], run.data, run.codebook, run.significance, module.block)
    error = aspects.first_order_error(functional, run.codebook, stored, response)
    tables = aspects.tabulate(scored, functional, value, response, error, module.names, module.kept)
    save_tensors(artifact.folder / "functional.safetensors", {"value": value, "response": response})
    for name, table in tables.files().items():
        save_table(artifact.folder / name, table)
    with run.tracking.run(run.root, run.name, "attribute", artifact.fingerprint, run.resolved()) as loggers:
        for logger in loggers:
            logger.log_metrics(
                {
                    f"functional/{artifact.title}/attributable": float(tables.radius.attributable.mean()),
                    f"functional/{artifact.title}/first_order_error": float(error.nanmedian()),
                }
            )
        lineage.log(run, loggers, artifact, [of])
