"""Conditions: guidance written out, and every law that holds of an ensemble without any."""

from functools import partial
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from conftest import TINY, composed, refused
from diffusers import UNet2DModel
from faults import forks  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pretrained import saved
from torch import Tensor, nn

from ddattr.attribution.counterfactual import ablated
from ddattr.attribution.denoising import denoised
from ddattr.attribution.jacobian import jacobian
from ddattr.attribution.loss import loss_draws, residual_gram
from ddattr.attribution.module import AttributionModule
from ddattr.attribution.queries import QuerySet
from ddattr.attribution.shards import Shards
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook
from ddattr.diffusion import pretrained
from ddattr.diffusion.conditions import Classes, Given
from ddattr.diffusion.noise import Stream, TrainingDraws, noise_tape, seeded_torch
from ddattr.diffusion.sampler import DDPM, trajectory
from ddattr.diffusion.unet import UNet
from ddattr.ensemble.ensemble import Ensemble
from ddattr.ensemble.member import MemberModule
from ddattr.ensemble.sampling import SamplingModule
from ddattr.files import load_json, load_table
from ddattr.stages import train
from ddattr.stages.run import Run
from ddattr.validation import peers
from ddattr.validation.queries import Queries

SHAPE, NULL = (1, 8, 8), 3
LABELS = torch.tensor([7, 2, 5, 5, 2, 5, 5, 5])  # classes 0, 1 and 2 are the labels 2, 5 and 7


class Shifting(nn.Module):
    """A nonlinear denoiser that heeds its class, and costs next to nothing."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.shift = nn.Embedding(NULL + 1, 4)

    def forward(self, x: Tensor, t: Tensor | int, classes: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x) + self.shift(classes)[..., None, None]))


class Of(nn.Module):
    """The network that a conditioned one is, once its class is settled."""

    def __init__(self, network: nn.Module, number: int):
        super().__init__()
        self.network, self.number = network, number

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        return self.network(x, t, torch.full(x.shape[:1], self.number))


def shifting(count: int) -> list[nn.Module]:
    with seeded_torch(2, Stream.INITIALISATION):
        return [Shifting() for _ in range(count)]


def classes(labels: Tensor | None = LABELS, **options) -> Classes:
    return Classes(labels, str, **options)


def under(*numbers: int, guidance: float = 1.0) -> Given:
    return Given(torch.tensor(numbers), torch.tensor(NULL), guidance)


@pytest.fixture
def reverse(process):
    return DDPM(4).reverse(process)


@pytest.fixture
def tape() -> Tensor:
    return noise_tape([0, 1, 2], 4, SHAPE)


def answers(ensemble: Ensemble, process, reverse, tape: Tensor) -> dict[str, Tensor]:
    """Everything that members are asked of queries, which are the last but one axis of pictures."""
    picture, response = jacobian(ensemble, tape, reverse)
    words = Codebook(5, len(ensemble), 1).codewords(torch.arange(2))
    draws = loss_draws(3, process, SHAPE, seed=0)
    return {
        "picture": picture[None],
        "jacobian": response,
        "rotating": jacobian(ensemble, tape, reverse, members_per_step=2)[1],
        "ablated": ablated(ensemble, words, tape, reverse),
        "denoised": denoised(ensemble, process, picture, *draws),
        "loss": residual_gram(ensemble, process, picture, *draws).flatten(1)[None],
    }


def test_guidance_of_rounded_networks_is_not_rounded():
    """It would amplify the rounding of the difference of two estimates."""
    ensemble, x = Ensemble(shifting(1)).rounded(torch.bfloat16), noise_tape([0, 1, 2], 0, SHAPE)[0]
    without, classed = (ensemble.given(under(*given)).member(0, x, 3) for given in ([NULL] * 3, [0, 1, 2]))
    guided = ensemble.given(under(0, 1, 2, guidance=5.0)).member(0, x, 3)
    assert torch.equal(guided, without + 5.0 * (classed - without))
    assert not torch.equal(guided, guided.bfloat16().float())


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_conditioned_ensemble_is_for_every_query_the_ensemble_of_its_class(process, reverse, tape, guidance):
    """Pictures, ablations, Jacobian, denoising and loss: of what no guidance leaves, to rounding."""
    members, numbers = shifting(5), [1, NULL, 0]
    together = answers(Ensemble(members).given(under(*numbers, guidance=guidance)), process, reverse, tape)
    for q, number in enumerate(numbers):
        if guidance == 1 or number == NULL:  # the null is itself, however it is guided
            alone = answers(Ensemble([Of(m, number) for m in members]), process, reverse, tape[:, q : q + 1])
            for name, value in alone.items():
                torch.testing.assert_close(together[name][:, q : q + 1], value, rtol=1e-4, atol=1e-5)


def test_conditions_permuted_between_queries_permute_the_results(process, reverse):
    """All queries on one tape, so that they differ by their conditions alone."""
    tape, order = noise_tape([4, 4, 4], 4, SHAPE), [2, 0, 1]
    ensemble, numbers = Ensemble(shifting(5)), torch.tensor([0, 2, NULL])
    one, other = (
        answers(ensemble.given(under(*these.tolist(), guidance=3.0)), process, reverse, tape)
        for these in (numbers, numbers[order])
    )
    assert (one["picture"][:, 0] - one["picture"][:, 1]).abs().max() > 1e-3
    for name, value in one.items():
        torch.testing.assert_close(other[name], value[:, order], rtol=1e-4, atol=1e-5)


def test_guidance_of_1_is_none_to_the_bit_and_asks_nothing_of_the_null(process, reverse, tape):
    class Never(Shifting):
        def forward(self, x, t, classes):
            assert not (classes == NULL).any()
            return super().forward(x, t, classes)

    with seeded_torch(2, Stream.INITIALISATION):
        ensemble = Ensemble([Never() for _ in range(5)])
    one = answers(ensemble.given(under(0, 1, 2)), process, reverse, tape)
    plain = answers(ensemble.given(Given(torch.tensor([0, 1, 2]))), process, reverse, tape)
    assert all(torch.equal(one[name], plain[name]) for name in one)


@settings(deadline=None)
@given(guidance=st.floats(0, 8), v=st.floats(-1, 2))
def test_guidance_is_the_line_through_both_estimates(guidance, v):
    """null + g (conditional - null), of every member, and so of their mean."""
    members, x = shifting(2), noise_tape([0, 1], 0, SHAPE)[0]
    weights, numbers = torch.tensor([[v, 1 - v]]), torch.tensor([2, 0])
    found = Ensemble(members).given(under(2, 0, guidance=guidance)).weighted(weights)(x, 7)[0]
    with torch.no_grad():
        both = [[m(x, 7, c) for m in members] for c in (numbers, torch.full_like(numbers, NULL))]
    given_, null = (v * one + (1 - v) * other for one, other in both)
    torch.testing.assert_close(found, null + guidance * (given_ - null), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_the_batch_changes_nothing_beyond_rounding(process, reverse, tape, batch):
    condition = under(0, 2, 1, guidance=2.0)
    expected = answers(Ensemble(shifting(5)).given(condition), process, reverse, tape)
    found = answers(Ensemble(shifting(5), batch).given(condition), process, reverse, tape)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_some_of_the_queries_are_those(process, reverse, tape):
    ensemble, some = Ensemble(shifting(5)).given(under(0, 2, 1, guidance=2.0)), torch.tensor([True, False, True])
    whole = answers(ensemble, process, reverse, tape)
    found = answers(ensemble.at(some), process, reverse, tape[:, some])
    for name, value in found.items():
        torch.testing.assert_close(value, whole[name][:, some], rtol=1e-4, atol=1e-5)


def test_conditions_are_of_a_copy_and_the_ensemble_itself_stays_as_it_was(unets, tape):
    conditioned = unets.given(under(0, 1, 2))
    assert unets.under is None
    assert conditioned.under is not None
    assert all(one is other for one, other in zip(unets.members, conditioned.members, strict=True))
    assert torch.equal(unets.given(None).outputs(tape[0], 7), unets.outputs(tape[0], 7))


def test_other_numbers_of_pictures_than_of_conditions_are_refused(tape):
    with pytest.raises(ValueError, match=r"^ensemble: conditions of 2 queries, but pictures of \(3,\)"):
        Ensemble(shifting(1)).given(under(0, 1)).member(0, tape[0], 7)


def test_the_jacobian_under_guidance_agrees_with_central_differences(process, reverse, tape):
    """In float64, of networks with class embeddings: errors are of step^2 and of rounding / step, about 1e-8."""
    with seeded_torch(0, Stream.INITIALISATION):
        members = [
            UNet(
                sample_size=8,
                in_channels=1,
                out_channels=1,
                block_out_channels=(4, 8),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "UpBlock2D"),
                norm_num_groups=2,
                add_attention=False,
                num_class_embeds=NULL + 1,
            )
            for _ in range(2)
        ]
    ensemble, step, tape = Ensemble(members).double().given(under(2, 0, NULL, guidance=3.0)), 1e-4, tape.double()
    uniform = ensemble.uniform.double()

    def picture_of(v: Tensor) -> Tensor:
        *_, last = trajectory(ensemble.weighted(v[None]), reverse, tape)
        return last[0]

    picture, response = jacobian(ensemble, tape, reverse)
    with torch.no_grad():
        difference = torch.stack(
            [picture_of(uniform + step * e) - picture_of(uniform - step * e) for e in torch.eye(2).double()]
        ) / (2 * step)
        torch.testing.assert_close(picture, picture_of(uniform))
    torch.testing.assert_close(response, difference - difference.mean(0), rtol=1e-5, atol=1e-6)
    assert response.abs().max() > 1e-3


def test_classes_are_the_labels_that_occur():
    known = classes()
    assert (known.names, known.null) == (["2", "5", "7"], NULL)
    assert known.labels.tolist() == [2, 0, 1, 1, 0, 1, 1, 1]
    assert known.of_labels(torch.tensor([5, 9, 2, 0, 7])).tolist() == [1, NULL, 0, NULL, 2]
    assert known.words(torch.tensor([1, NULL])) == ["5", "none"]


def test_a_seed_s_class_is_its_own_whatever_else_is_asked_and_names_are_taken_in_turn():
    known = classes()
    assert known.of_seeds([4, 0, 2**60 + 1]).tolist() == [1, 0, (2**60 + 1) % NULL]
    assert known.of_seeds([4, 0, 9], ["7", None]).tolist() == [2, NULL, 2]
    assert known.in_turn([5, 2], 5).tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("count", [64, 1000])
def test_pictures_like_the_data_have_each_label_as_often_as_the_data(count):
    """Of `count` multiples of the golden section, any share of the data has its own to within log(count) / count."""
    found = classes().like_data(count).bincount(minlength=NULL) / count
    expected = torch.tensor([2, 5, 1]) / 8
    assert (found - expected).abs().max() < 10 / count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": None}, r"^conditions: no picture of the data has a label, expected all\..*leave out conditions"),
        ({"labels": torch.tensor([1, -1, 0])}, r"^conditions: 2 of 3 pictures of the data has a label, expected all"),
        ({"dropout": 0.0, "guidance": 2.0}, r"^conditions: guidance=2 needs a null .* Set conditions\.guidance=1"),
        ({"dropout": 0.0, "guidance": 0.0}, r"^conditions: guidance=0 needs a null condition"),
        (
            {"queries": ["5", "cat"]},
            r"^conditions: queries=cat, expected labels .* 2, 5, 7, or null\. Set conditions\.qu",
        ),
        ({"queries": []}, r"^conditions: queries=\[\], expected one label or more\. Set conditions\.queries"),
        (
            {"queries": [None], "dropout": 0.0},
            r"^conditions: queries=null, .* and no null, which conditions\.dropout=0",
        ),
    ],
)
def test_conditions_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        classes(**options)


def test_guidance_without_a_null_is_refused_wherever_it_is_asked():
    with pytest.raises(ValueError, match=r"^conditions: guidance=2 needs a null condition"):
        Given(torch.tensor([0]), guidance=2.0)
    assert classes(dropout=0.0).given(torch.tensor([0])).null is None


def test_a_label_that_a_member_owns_no_picture_of_is_said_in_one_line():
    whole, without = torch.ones(8, dtype=torch.bool), LABELS != 7
    assert classes().unseen([whole, whole]) == []
    (line,) = classes().unseen([whole, without, LABELS == 7])
    assert line.startswith("2 members have no picture of a label")
    assert "(member 1 none of 7)" in line


def draws(member: int | None = None, seed: int = 3) -> TrainingDraws:
    return TrainingDraws(seed, torch.ones(8, dtype=torch.bool), 4096, 100, (1, 1, 1), member)


def test_dropped_labels_are_of_the_step_alone_and_of_the_share_asked():
    """The share is within 5 deviations of a binomial's: false alarm 6e-7."""
    found = draws().dropped(5, 0.1)
    assert torch.equal(found, draws().dropped(5, 0.1))
    assert not torch.equal(found, draws().dropped(6, 0.1))
    assert not torch.equal(found, draws(member=1).dropped(5, 0.1))
    assert abs(found.double().mean() - 0.1) < 5 * (0.09 / 4096) ** 0.5
    assert (found <= draws().dropped(5, 0.3)).all()  # whoever is dropped stays so as the share grows
    assert not draws().dropped(5, 0.0).any()
    assert draws().dropped(5, 1.0).all()


class Watching(nn.Module):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x, t, classes):
        self.seen.append((x, classes))
        return self.scale * x


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_a_picture_is_trained_under_its_own_label_or_the_null(process, dropout):
    known, network = classes(dropout=dropout), Watching()
    module = MemberModule(network, process, torch.ones(8, dtype=torch.bool), SHAPE, 0, 3, 5, 64, 0.01, conditions=known)
    module.images = torch.randn(8, *SHAPE)
    module._loss(module.draws, 2)
    ((_, shown),) = network.seen
    dropped = module.draws.dropped(2, dropout)
    assert torch.equal(shown, known.labels[module.draws.images(2)].where(~dropped, NULL))
    assert (shown == NULL).double().mean().item() == pytest.approx(dropout, abs=0.3 if 0 < dropout < 1 else 0)


def test_pictures_drawn_in_parts_are_under_their_own_conditions(reverse):
    ensemble, seeds, weights = Ensemble(shifting(2)), [9, 0, 4, 7, 1], torch.eye(2)
    condition = under(0, 1, 2, NULL, 0, guidance=2.0)
    expected = ensemble.given(condition).pictures(weights, seeds, reverse, SHAPE)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    module = SamplingModule(ensemble, reverse, SHAPE, weights, seeds, 2, condition)
    torch.testing.assert_close(torch.cat(trainer.predict(module), 1), expected, rtol=0, atol=1e-5)


@pytest.fixture
def attribute(process, data, tmp_path):
    """The tables of a query set, or the run's own, of the conditioned ensemble of twelve digits."""

    def make(name: str, conditions: dict | None = None, queries: QuerySet | None = None, **options):
        known = Classes(data.labels, str, **(conditions or {}))
        options = {"queries": 4, "batch": 2, "ablation_units": 3, "denoisings": 5, "refine": 1} | options
        with seeded_torch(2, Stream.INITIALISATION):
            networks = [Shifting() for _ in range(6)]
            for network in networks:
                network.shift = nn.Embedding(known.null + 1, 4)
        module = AttributionModule(
            Ensemble(networks),
            process,
            DDPM(3).reverse(process),
            Codebook(12, 6, 2),
            data,
            TestSettings(0, neighbourhoods=(1, 2)),
            Shards(tmp_path / name),
            0,
            jacobian=partial(jacobian, members_per_step=2),
            asked=None if queries is None else queries.asked(data, 0, known),
            conditions=known,
            **options,
        )
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.predict(module, return_predictions=False)
        return module

    return make


def test_a_query_is_a_seed_and_its_condition(attribute):
    table = attribute("a", {"queries": ["3", None]}).tables.queries
    assert table.condition.tolist() == ["3", "none", "3", "none"]
    assert table.name.tolist() == ["seed 0, 3", "seed 1, none", "seed 2, 3", "seed 3, none"]


@pytest.mark.slow
def test_tables_do_not_depend_on_the_batch_nor_on_what_else_is_asked(attribute):
    whole, one = attribute("a"), attribute("b", batch=4)
    assert whole.tables.queries.condition.tolist() == ["0", "1", "2", "3"]
    alone = attribute("c", queries=QuerySet(seeds=[2]))
    for name in ("factual", "jacobian", "denoised", "ablations"):
        torch.testing.assert_close(whole.tensors[name], one.tensors[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.tensors["jacobian"][:, 0], whole.tensors["jacobian"][:, 2], rtol=1e-4, atol=1e-5)
    assert alone.tables.queries.condition.tolist() == ["2"]
    exact = pd.concat([whole.tables.queries.rotating_error, one.tables.queries.rotating_error]).dropna()
    assert len(exact) == 4
    assert (exact > 0).all()


def test_conditions_of_a_query_set_are_those_of_the_seeds_as_typed(data):
    asked = QuerySet(seeds=[9, 3, 5], conditions=["7", 2])
    assert asked.content == {"seeds": [3, 5, 9], "conditions": ["2", "7", "7"]}
    again = QuerySet(seeds=[3, 5, 9], conditions=[2, 7, 7])
    assert again.content == asked.content
    assert again.title == asked.title
    assert asked.title != QuerySet(seeds=[9, 3, 5]).title
    assert [
        found.condition.tolist() for found in (asked.asked(data, 0, classes()), again.asked(data, 0, classes()))
    ] == [[0, 2, 2]] * 2


def test_conditions_that_nobody_can_be_asked_under_are_refused(data):
    with pytest.raises(ValueError, match=r"^queries: conditions of no queries"):
        QuerySet(conditions=["5"])
    with pytest.raises(ValueError, match=r"^queries: conditions=\['5'\], but members are given none\."):
        QuerySet(seeds=[1], conditions=["5"]).asked(data, 0)
    with pytest.raises(ValueError, match=r"^queries: conditions=cat, expected labels of the training pictures"):
        QuerySet(seeds=[1], conditions=["cat"]).asked(data, 0, classes())


def test_models_of_the_truth_are_asked_as_the_members_are(process, reverse):
    networks, numbers = shifting(3), [1, NULL, 0, 2]
    made = Ensemble(networks).given(under(*numbers[:3])).pictures(torch.full((1, 3), 1 / 3), [0, 1, 2], reverse, SHAPE)
    real = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    given_ = process, reverse, [0, 1, 2], made[0], real, 3, 0, 5
    queries = Queries(*given_, classes(), torch.tensor(numbers), torch.tensor([1, NULL, 2]))
    torch.testing.assert_close(queries.drawn_by(networks), made[0])
    losses, changes = queries.losses(networks), queries.jacobian(networks, None)
    for q, number in enumerate(numbers):
        plain, of = Queries(*given_), [Of(network, number) for network in networks]
        torch.testing.assert_close(losses[:, q], plain.losses(of)[:, q])
        if q < 3:
            torch.testing.assert_close(changes[:, q], plain.jacobian(of, None)[:, q], rtol=1e-4, atol=1e-5)
    known = queries.under_held_out(Ensemble(networks), torch.tensor([2, 1]))
    assert known.under.condition.tolist() == [2, NULL]


def test_peers_ask_for_the_loss_of_a_picture_under_its_own_condition(process, monkeypatch):
    monkeypatch.setattr(peers, "_PASSES", 6)  # two pictures of three draws at once
    network, images, numbers = shifting(1)[0], noise_tape(range(5), 0, SHAPE)[0], torch.tensor([1, 0, 2, 1, NULL])
    loss = peers.Loss(process, *loss_draws(3, process, SHAPE, seed=0))
    shown = (images, numbers)
    gradients = torch.cat(list(peers.gradients(network, loss, shown)))
    information = peers.fisher(network, loss, shown)
    moved = peers.unlearning(network, loss, shown, shown, information, 0.1)
    for q, number in enumerate(numbers.tolist()):
        alone = Of(network, number)
        torch.testing.assert_close(gradients[q], torch.cat(list(peers.gradients(alone, loss, images)))[q])
    torch.testing.assert_close(peers.gradient_dot(network, loss, shown, shown), gradients @ gradients.T)
    torch.testing.assert_close(torch.cat([part.flatten() for part in information.values()]), gradients.square().mean(0))
    assert moved.shape == (5, 5)
    assert (moved.diagonal() > 0).all()


def test_trak_s_features_under_one_condition_are_those_of_its_network(process):
    pytest.importorskip("trak")
    network, images = shifting(1)[0], noise_tape(range(4), 0, SHAPE)[0]
    loss, numbers = peers.Loss(process, *loss_draws(3, process, SHAPE, seed=0)), torch.full((4,), 2)
    found = peers.trak_features(network, loss, (images, numbers), (images, numbers), 512)
    plain = peers.trak_features(Of(network, 2), loss, images, images, 512)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_members_depend_on_has_no_word_of_conditions_where_there_are_none(make_run):
    """So that what was made before there were any is done still."""
    plain, conditioned = make_run(), make_run("conditions=classes")
    for name in ("member_artifact", "retrained_artifact"):
        of = 0 if name == "member_artifact" else plain.validation.full(0)
        assert "conditions" not in getattr(plain, name)(of).config
        assert getattr(conditioned, name)(of).config["conditions"]["dropout"] == 0.1
    assert not {"conditions", "guidance"} & (
        set(plain.attribution_artifact.config) | set(plain.quality_artifact.config)
    )


def test_guidance_is_of_what_is_asked_and_no_member_is_trained_again_for_it(make_run):
    one, other = make_run("conditions=classes"), make_run("conditions=classes", "conditions.guidance=3.0")
    assert one.members_fingerprint == other.members_fingerprint
    assert one.attribution_artifact.fingerprint != other.attribution_artifact.fingerprint
    assert one.quality_artifact.fingerprint != other.quality_artifact.fingerprint
    dropped = make_run("conditions=classes", "conditions.dropout=0.2")
    assert dropped.members_fingerprint != one.members_fingerprint


def test_every_member_has_an_embedding_of_each_label_and_of_none(make_run):
    run = make_run("conditions=classes")
    run.check()
    assert run.network(0).class_embedding.num_embeddings == len(run.data.labels.unique()) + 1
    assert any("have no picture of a label" in remark for remark in run.remarks)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["conditions=classes", "conditions.dropout=0.0", "conditions.guidance=2.0"],
            ["needs a null", "conditions.guidance=1"],
        ),
        (["conditions=classes", "conditions.queries=[cat]"], ["queries=cat", "0, 1, 2", "Set conditions.queries"]),
        (
            ["conditions=classes", "conditions.queries=cat"],
            ["expected a list of str/int/null", "conditions.queries=["],
        ),
        (["conditions=classes", "conditions.queries=[]"], ["queries=[], expected one label or more"]),
        (["conditions=classes", "+unet.num_class_embeds=4"], ["key unet.num_class_embeds is not for the config"]),
    ],
)
def test_a_plan_under_conditions_that_cannot_be_is_refused_in_one_line(ddattr, argv, words):
    refused(ddattr("plan", *TINY, "root=x", *argv), *words)


def test_data_without_labels_have_no_classes(ddattr):
    source = ["data.source._target_=conftest.shapes", "codebook.members=6", "codebook.weight=2", "data.units=image"]
    refused(ddattr("plan", *source, "conditions=classes"), "no picture of the data has a label", "leave out conditions")


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_conditioned_run_goes_the_whole_way(ddattr, tmp_path):
    """Train, evaluate, attribute with guidance, another set, report: and a folder knows its conditions."""
    given_ = [*TINY, "root=run", "conditions=classes", "conditions.guidance=2.0", "conditions.queries=[3,null]"]
    assert ddattr("reproduce", *given_).status == 0
    root = tmp_path / "run"
    queries = load_table(root / "attribution" / "default" / "queries.csv")
    assert queries.condition.tolist() == ["3", "none", "3", "none"]
    assert "seed 0, 3" in (root / "report.html").read_text()
    assert load_json(root / "attribution" / "default" / "manifest.json")["config"]["guidance"] == 2
    said = ddattr("attribute", "run", "queries.seeds=[7,5]", "queries.conditions=[4,1]", "queries.name=other")
    assert said.status == 0
    assert load_table(root / "attribution" / "other" / "queries.csv").condition.astype(str).tolist() == ["1", "4"]
    refused(ddattr("attribute", "run", "conditions.guidance=1.0"), "guidance")


def of_base(folder: Path, *overrides: str, **options) -> Run:
    """A run of three labels, whose members start from a base of these options."""
    pretrained.digest.cache_clear()
    base = saved(folder / "base", **options)
    kept = [word for word in TINY if not word.startswith(("unet.", "data.source.count"))]
    words = [*kept, "data.source.count=30", "unet=pretrained", f"unet.path={base}", f"root={folder / 'run'}"]
    given_ = [*words, "data.only={label:[0,1,2]}", "data.units=image", *overrides]
    return Run(composed(*given_), given_)


@pytest.mark.parametrize("lora", [(), ("training=lora", "training.lora.rank=2")])
def test_a_base_that_knows_the_labels_is_asked_under_them(tmp_path, lora):
    """The null is its own last row, or the mean of its classes'; adapters leave it there, whole members train it."""
    x, numbers = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1])
    given_ = ["conditions=classes", "training.steps=3", *lora]
    for count in (3, 4):
        of = of_base(tmp_path / str(count), *given_, num_class_embeds=count)
        of.check()
        theirs = UNet2DModel.from_pretrained(of.config.unet.path + "/unet").eval()
        network = of.network(None).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x, 7, numbers), theirs(x, 7, numbers).sample)
        rows = theirs.class_embedding.weight
        null = rows[3] if count == 4 else rows.mean(0)
        started = (network.base.network if lora else network).class_embedding.weight
        assert started.shape[0] == 4
        torch.testing.assert_close(started[3], null)
        train.run(of_base(tmp_path / str(count), *given_, "member=0", num_class_embeds=count))
        trained = of.load(of.member_artifact(0))
        ended = (trained.base.network if lora else trained).class_embedding.weight
        assert torch.equal(ended, started) == bool(lora)
        asked = Ensemble([trained]).given(of.conditions.given(torch.tensor([0, 1, 2]))).outputs(x, 7)
        other = Ensemble([trained]).given(of.conditions.given(torch.tensor([1, 1, 3]))).outputs(x, 7)
        assert (asked[0] - other[0]).flatten(1).norm(dim=1).ne(0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        (
            {},
            ["conditions=classes"],
            r"conditions: the base in .* has no embedding of classes, expected 3, as many as the data's labels",
        ),
        (
            {"num_class_embeds": 5},
            ["conditions=classes"],
            r"has embeddings of 5 classes, expected 3, .* or 4, the last for none\. Leave out",
        ),
        ({"num_class_embeds": 3}, [], r"unet: the base in .* is asked under 3 classes, but members"),
    ],
)
def test_a_base_of_other_classes_is_refused(tmp_path, options, more, said):
    with pytest.raises(ValueError, match=said):
        of_base(tmp_path, *more, **options).check()
