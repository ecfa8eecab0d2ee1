"""Quality: what is compared with what, and distances that are 0 where they must be."""

from types import SimpleNamespace

import lightning as L
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.ensemble import Ensemble
from ddattr.ensemble.quality import EnsembleQuality, frechet, gathered, kernel, quality_rows
from ddattr.files import load_table, load_tensors
from ddattr.stages import train

FID = ["kind", "member", "order", "members", "fid", "kid", "kid_std", "images"]
CONVERGENCE = ["members", "order", "distance_mean", "distance_sem", "kind"]
PICTURES = 6


@pytest.fixture
def measure(data, process):
    """Tables of an ensemble's quality; keywords go to the callback."""

    def make(ensemble, **options) -> EnsembleQuality:
        options = {"pictures": PICTURES, "batch": 4, "sizes": [1, 2, len(ensemble)], "orders": 2} | options
        quality = EnsembleQuality(
            data.images, data.labels, len(ensemble), DDPM(3).reverse(process), 0, extractor_steps=5, **options
        )
        trainer = L.Trainer(
            accelerator="cpu", logger=False, callbacks=[quality], enable_progress_bar=False, enable_model_summary=False
        )
        trainer.predict(quality.module(ensemble), return_predictions=False)
        return quality

    return make


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 99), st.data())
def test_rows_are_means_of_the_members_they_say(n, orders, seed, data):
    sizes = data.draw(st.lists(st.integers(1, n), min_size=1, max_size=4, unique=True))
    rows = quality_rows(n, sizes, orders, seed)
    members = [frozenset(row.nonzero()[:, 0].tolist()) for row in rows.weights]
    assert len(set(members)) == len(members)
    torch.testing.assert_close(rows.weights.sum(1), torch.ones(len(members)))
    for row, of in zip(rows.weights, members, strict=True):
        assert torch.equal(row[list(of)], torch.full((len(of),), 1 / len(of)))
    assert [members[row] for row in rows.individuals] == [{k} for k in range(n)]
    assert members[rows.whole] == set(range(n))
    assert set(rows.growing) == {(order, size) for order in range(orders) for size in sizes}
    assert set(rows.halves) == {(order, size) for order, size in rows.growing if 2 * size <= n}
    for (order, size), row in rows.growing.items():
        assert len(members[row]) == size
        for larger in (s for s in sizes if s > size):
            assert members[row] < members[rows.growing[order, larger]]
    for key, row in rows.halves.items():
        assert len(members[row]) == key[1]
        assert not members[row] & members[rows.growing[key]]


def test_orders_differ_and_are_decided_by_the_seed():
    one, other = quality_rows(12, [6], 3, 0), quality_rows(12, [6], 3, 1)
    assert len(set(one.growing.values())) == 3
    assert torch.equal(quality_rows(12, [6], 3, 0).weights, one.weights)
    assert not torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("sizes", [[0], [1, 7], [-1]])
def test_sizes_that_the_ensemble_does_not_have_are_refused(sizes):
    with pytest.raises(ValueError, match=r"sizes=.*expected values from 1 to 6"):
        quality_rows(6, sizes, 1, 0)


def test_tables_have_the_columns_that_others_rely_on(measure, unets):
    quality = measure(unets)
    assert list(quality.fid) == FID
    assert list(quality.convergence) == CONVERGENCE
    assert not quality.fid.isna().any(axis=None)
    assert not quality.convergence.isna().any(axis=None)


def test_there_is_a_row_for_every_individual_size_and_order(measure, unets):
    quality = measure(unets)
    alone, grown = (quality.fid[quality.fid.kind == kind] for kind in ("individual", "ensemble"))
    assert alone.member.tolist() == [0, 1, 2]
    assert (alone.members == 1).all()
    assert sorted(zip(grown.order, grown.members, strict=True)) == [(o, k) for o in (0, 1) for k in (1, 2, 3)]
    kinds = quality.convergence.groupby("kind").members.apply(lambda m: sorted(set(m))).to_dict()
    assert kinds == {"to_all": [1, 2, 3], "disjoint": [1]}


def test_the_whole_ensemble_has_a_row_when_no_size_is_n(measure, unets):
    fid = measure(unets, sizes=[1]).fid
    assert fid[fid.kind == "ensemble"].members.max() == 3


def test_every_row_is_of_the_same_number_of_pictures(measure, unets):
    assert (measure(unets).fid.images == PICTURES).all()


def test_an_ensemble_of_one_scores_as_that_individual(measure, unets):
    fid = measure(unets).fid
    alone = fid[fid.kind == "individual"].fid
    assert set(fid[(fid.kind == "ensemble") & (fid.members == 1)].fid) <= set(alone)


def test_the_whole_ensemble_is_at_no_distance_from_itself(measure, unets):
    table = measure(unets).convergence
    whole = table[(table.kind == "to_all") & (table.members == 3)]
    assert len(whole) == 2
    assert (whole.distance_mean == 0).all()
    assert (whole.distance_sem == 0).all()
    assert (table[table.members < 3].distance_mean > 0).all()


def test_identical_members_are_at_no_distance(measure, make_unets):
    """Within rounding: float32 pictures of length about 8, means of 2 and of 3 of them."""
    network = make_unets(1)[0]
    assert (measure(Ensemble([network] * 3)).convergence.distance_mean < 1e-4).all()


def test_distances_are_those_of_the_pictures_on_the_same_tapes(measure, unets):
    quality = measure(unets)
    pictures = unets.pictures(quality.rows.weights, range(PICTURES), quality.reverse, (1, 8, 8))
    for row in quality.convergence.itertuples():
        mine = quality.rows.growing[row.order, row.members]
        other = quality.rows.whole if row.kind == "to_all" else quality.rows.halves[row.order, row.members]
        distance = (pictures[mine] - pictures[other]).flatten(1).norm(dim=1)
        assert row.distance_mean == pytest.approx(distance.mean().item(), abs=1e-5)
        assert row.distance_sem == pytest.approx((distance.std() / PICTURES**0.5).item(), abs=1e-5)


def test_fid_is_of_clipped_pictures(measure, unets):
    quality = measure(unets)
    pictures = unets.pictures(quality.rows.weights, range(PICTURES), quality.reverse, (1, 8, 8))
    assert pictures.abs().max() > 2
    for row in quality.fid[quality.fid.kind == "individual"].itertuples():
        clipped = pictures[quality.rows.individuals[row.member]].clamp(-1, 1)
        assert row.fid == pytest.approx(frechet(quality.real, quality.extractor(clipped)), rel=1e-3)


def test_a_member_in_training_has_the_fid_that_it_has_as_an_individual(measure, unets):
    quality, logged = measure(unets, while_training=True), []
    for network in unets.members:
        module = SimpleNamespace(network=network, device="cpu", log=lambda name, value, **_: logged.append(value))
        quality.on_validation_batch_end(SimpleNamespace(sanity_checking=False), module, None, None, 0)
    assert logged == pytest.approx(quality.fid[quality.fid.kind == "individual"].fid.tolist(), rel=1e-3)


def test_the_batch_changes_no_number(measure, unets):
    one, other = measure(unets, batch=1), measure(unets, batch=100)
    for table in ("fid", "convergence"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), rtol=1e-3, atol=1e-4)


def test_a_sample_is_at_no_distance_from_itself():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    assert frechet(features, features) == pytest.approx(0, abs=1e-8)
    assert frechet(features, features.flip(0)) == pytest.approx(0, abs=1e-8)


def test_the_frechet_distance_of_gaussians_has_its_closed_form():
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), on samples whitened to have exactly these moments."""
    draw = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = draw - draw.mean(0)
    white = draw @ torch.linalg.inv(torch.linalg.cholesky(draw.T.cov())).T
    shift, scale = torch.tensor([1.0, 0, 2, 0]), torch.tensor([2.0, 1, 0.5, 3])
    expected = 5 + (scale - 1).square().sum().item()
    assert frechet(white.float(), (white * scale + shift).float()) == pytest.approx(expected, rel=1e-5)


def test_the_kernel_distance_repeats_and_draws_nothing_from_the_global_stream():
    real, fake = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)).unbind()
    before = torch.get_rng_state()
    assert kernel(real, fake) == kernel(real, fake)
    assert torch.equal(torch.get_rng_state(), before)
    assert kernel(real, fake + 2)[0] > kernel(real, fake)[0]


@pytest.mark.parametrize("options", [{"pictures": 1}, {"batch": 0}, {"orders": 0}])
def test_too_few_pictures_batches_or_orders_are_refused(measure, unets, options):
    with pytest.raises(ValueError, match=r"^quality: pictures="):
        measure(unets, **options)


def test_quality_while_training_is_logged_and_leaves_the_training_alone(make_run, tmp_path):
    weights = {}
    for watch in ("false", "true"):
        run = make_run(f"root={tmp_path / watch}", f"quality.while_training={watch}", "member=0")
        train.run(run)
        weights[watch] = load_tensors(run.member_artifact(0).folder / "member.safetensors")
    assert all(torch.equal(weights["true"][name], value) for name, value in weights["false"].items())
    watched, alone = (load_table(tmp_path / watch / "members/000/metrics.csv") for watch in ("true", "false"))
    assert watched["val/fid"].notna().sum() == 2
    assert "val/fid" not in alone
    assert watched.drop(columns="val/fid").equals(alone)


@pytest.mark.parametrize(("count", "world"), [(6, 2), (7, 2), (7, 3), (4, 4), (5, 1)])
@pytest.mark.parametrize("tail", [(), (5,)], ids=["numbers", "vectors"])
def test_what_processes_drew_comes_back_in_the_order_of_the_seeds(count, world, tail):
    """Every process drew every world-th seed, some of them one fewer."""
    everything = torch.arange(3.0 * count * (tail or (1,))[0]).reshape(3, count, *tail) + 1
    share = -(-count // world)

    def all_gather(padded):
        parts = [everything[:, r::world] for r in range(world)]
        assert padded.shape == (3, share, *tail)
        return torch.stack([torch.cat([p, p.new_zeros(3, share - p.shape[1], *tail)], 1) for p in parts])

    for r in range(world):
        assert torch.equal(gathered(everything[:, r::world], all_gather, count, world), everything)
