"""`ddattr attribute`: whose pictures are the queries? Jacobian, influence, significance (figures 4 and 5).

The run's own queries, and, as `queries` asks, any pictures or further seeds: each a set of its own beside them, for
which nothing that exists is trained or replayed again. Of what is replayed some units are ablated exactly as well: the
agreement with these says whether the first order is right.

Parts of it, on one machine or many, share the queries, a batch at a time: -m 'part=range(0,4)'. The last one merges.
"""

from ddattr.artifacts import first_process
from ddattr.stages.attributing import attribute
from ddattr.stages.run import Run
from ddattr.tracking.query_sets import said


def run(run: Run) -> None:
    """Attributes a query set and writes it to attribution/<its name>/."""
    if not attribute(run, run.queries):
        print("attribute: already done", flush=True)
    artifact = run.query_set_artifact(run.queries)
    if not run.queries.own and first_process() and artifact.done():
        folder = artifact.folder
        print("\n".join([f"attribute: {folder}", *said(folder)]), flush=True)
