"""`ddattr attribute`: scores and tests every unit for every query picture: Jacobian, influence, p (figures 4 and 5).

The run's own queries, and, as `queries` asks, any pictures or further seeds: each a set of its own beside them, for
which nothing that exists is trained or replayed again. Of what is replayed some units are ablated exactly as well: the
agreement with these says whether the first order is right.

With `functional` one number of every picture of the set is asked about as well: a label's logit, the brightness of a
region, the similarity to a picture. One reverse pass, and tables of its own beside the set's.

Parts of it, on one machine or many, share the queries, a batch at a time: -m 'part=range(0,4)'. The last one merges.
"""

from ddattr.artifacts import first_process
from ddattr.stages import aspects
from ddattr.stages.attributing import attribute
from ddattr.stages.run import Run
from ddattr.tracking.query_sets import said, said_of_functional


def run(run: Run) -> None:
    """Attributes a query set and writes it to attribution/<its name>/, and there what is asked of a functional."""
    asked = run.config.functional is not None
    if asked:
        aspects.ready(run, run.queries)
    if not attribute(run, run.queries):
        print("attribute: already done", flush=True)
    artifact = run.query_set_artifact(run.queries)
    if not first_process() or not artifact.done():
        return
    if not run.queries.own:
        print("\n".join([f"attribute: {artifact.folder}", *said(artifact.folder)]), flush=True)
    if asked:
        folder = aspects.ask(run, run.queries).folder
        print(f"attribute: {folder}\n{said_of_functional(folder)}", flush=True)
