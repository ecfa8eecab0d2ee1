"""`ddattr fetch`: puts the data of an experiment where it expects it. Nothing of it is part of ddattr.

Packages come by the clients of their own registries, npm and apt, in versions whose checksums stand here. A folder is
whole or absent; one that is there is left alone.
"""

from ddattr.stages.run import Run


def run(run: Run) -> None:
    """Fetches what the config's `fetch` names, and says whose it is."""
    if run.config.fetch is None:
        print("fetch: nothing to fetch, this experiment's data is there already, or is yours")
        return
    run.build("fetch")
