"""What a run will cost: by its own members where some are done here, else by steps that are timed."""

import json
import time

import pytest
import torch
from conftest import TINY, composed

from ddattr.data import units as grouping
from ddattr.stages import estimate, plan
from ddattr.stages.run import Run
from ddattr.validation.plan import Plan


@pytest.fixture
def run(tmp_path):
    return Run(composed(*TINY, f"root={tmp_path}", "trainer.accelerator=cpu"))


def cost(run: Run, member: int, **changed) -> None:
    """Makes a member done, as far as its manifest says."""
    artifact = run.member_artifact(member)
    artifact.make(0, lambda: None)
    (artifact.folder / "manifest.json").write_text(json.dumps(artifact.manifest | changed))


def test_members_that_are_done_say_what_the_others_take(run):
    """Those that went through at one go on this machine; the mean of 40 and 60 s, for each of the 6.

    The first had not the machine for itself, the second worked in two threads.
    """
    assert estimate.estimate(run).measured == ""
    cost(run, 0, cpu_seconds=40.0, wall_seconds=90.0)
    cost(run, 1, cpu_seconds=115.0, wall_seconds=60.0)
    cost(run, 2, cpu_seconds=900.0, earlier_seconds=20.0)
    cost(run, 3, cpu_seconds=900.0, device="another")
    found = estimate.estimate(run)
    assert found.seconds["train"] == 6 * 50
    assert found.whole == 50
    assert found.measured == "train, by 2 members that are done"


def test_what_else_a_machine_does_makes_no_estimate_longer():
    """Of the processor: a call that waits a second costs next to nothing, one that works for 50 ms costs that."""

    def work() -> None:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    assert estimate._seconds(lambda: time.sleep(0.2), torch.device("cpu")) < 0.05
    assert 0.05 <= estimate._seconds(work, torch.device("cpu")) < 0.1


def test_an_estimate_goes_with_steps_and_members(run, monkeypatch):
    """Of what is timed: a step of training 1 s, a look 1 ms, a direction 3 ms."""

    class Looks:
        few = many = 1e-3
        tangent = exact = 3e-3

    monkeypatch.setattr(estimate, "_training_step", lambda *given: 1.0)
    monkeypatch.setattr(estimate, "_Looks", lambda *given: Looks)
    found, n, steps = estimate.estimate(run), run.codebook.members, len(run.reverse)
    assert found.whole == run.config.training.steps
    assert found.seconds["train"] == n * run.config.training.steps
    twice = f"sampler.steps={2 * steps}"
    more = estimate.estimate(Run(composed(*TINY, f"root={run.root}", twice, "trainer.accelerator=cpu")))
    assert more.seconds["evaluate"] == pytest.approx(2 * found.seconds["evaluate"])
    asked = run.config.attribution
    denoising = asked.queries * n * asked.denoisings * Looks.many  # which takes no step of the sampler
    beside = denoising + estimate.scoring(run.codebook.units, asked.queries)
    doubled = 2 * (found.seconds["attribute"] - beside)
    assert more.seconds["attribute"] - beside == pytest.approx(doubled)


def test_of_many_units_each_further_one_is_scored_at_the_rate_of_many():
    """A few units are scored at the rate of 1,797 digits, where clusters are made; none is scored twice as often."""
    few, next_few = (estimate.scoring(1797 + more, 24) for more in (0, 1))
    at, after = (estimate.scoring(20_000 + more, 24) for more in (0, 1))
    many, next_many = (estimate.scoring(1_000_000 + more, 24) for more in (0, 1))
    assert next_few - few > 10 * (after - at)
    assert next_many - many == pytest.approx(after - at)
    assert many - at == pytest.approx(980_000 * (after - at))


@pytest.mark.parametrize(("check", "beside"), [(0, 1), (1, 1), (2, 1), (4, 2)])
def test_looks_are_of_a_picture_and_directions_of_one_in_all_directions(make_run, monkeypatch, check, beside):
    """Were every call a second: of all queries, of as many as a call takes, of them in n directions, of those that are
    checked beside each other, of 4 queries in batches of 2."""
    run = make_run(f"attribution.check={check}", "trainer.accelerator=cpu")

    def second(call, device: torch.device) -> float:
        call()
        return 1.0

    monkeypatch.setattr(estimate, "_seconds", second)
    looks, n = estimate._Looks(run, run.network(0)), run.codebook.members
    together = min(run.config.attribution.queries, run.config.attribution.batch)
    assert (looks.few, looks.tangent, looks.exact) == (1 / together, 1 / together / n, n / beside)
    assert 0 < looks.many < looks.few


def test_some_directions_say_what_all_would_take(make_run, monkeypatch):
    """Where pictures are large no more are pushed than a network is timed on; here one, of a second."""
    run, pushed = make_run("trainer.accelerator=cpu"), []

    def second(call, device: torch.device) -> float:
        call()
        return 1.0

    def propagate(ensemble, k, x, t, s, tangents):
        pushed.append(len(s))

    monkeypatch.setattr(estimate, "_TIMED", 1)
    monkeypatch.setattr(estimate, "_seconds", second)
    monkeypatch.setattr(estimate, "propagate", propagate)
    looks = estimate._Looks(run, run.network(0))
    assert looks.tangent == 1 / min(run.config.attribution.queries, run.config.attribution.batch)
    assert set(pushed) == {1}


def test_a_plan_makes_no_clusters_and_counts_the_models_that_validate_makes(tmp_path, monkeypatch, capsys):
    """Clusters of many pictures take longer than all else that a plan does; models without them it counts."""
    run = Run(composed(*TINY, f"root={tmp_path}", "trainer.accelerator=cpu", "validation.groups=label"))
    with monkeypatch.context() as patch:
        patch.setattr(grouping, "by_cluster", lambda *_: pytest.fail("clusters were made"))
        patch.setattr(Plan, "models", lambda _: pytest.fail("models were made"))
        patch.setattr(plan, "launched", lambda: 1)  # of a command line there is none
        plan.run(run)
    models = run.validation.models()
    assert len(models) > 0
    assert f"{'retrain, for validate':<28}{len(models)} models, " in capsys.readouterr().out
