"""The peers: gradients against autograd, picture by picture; projections that keep what they should; what is tuned."""

import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import bends
from torch import nn

from ddattr.attribution.loss import loss_draws
from ddattr.data.units import means
from ddattr.validation import peers
from ddattr.validation.metrics import lds
from ddattr.validation.peers import Loss, Peers

SHAPE = (1, 4, 4)
UNIT_OF = torch.tensor([0, 1, 2, 1, 3, 4, 0, 5, 5, 5])  # ten pictures, six units


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def network() -> nn.Module:
    """81 weights, in float64."""
    return bends(1)[0].double()


@pytest.fixture
def make_loss(process):
    def make(square: bool = False, draws: int = 3) -> Loss:
        times, noise = loss_draws(draws, process, SHAPE, seed=0)
        return Loss(process, times, noise.double(), square)

    return make


@pytest.fixture
def queries() -> torch.Tensor:
    return randn(3, *SHAPE)


@pytest.fixture
def images() -> torch.Tensor:
    return randn(7, *SHAPE, seed=1)


def gradient(network, process, loss, picture) -> torch.Tensor:
    """By autograd, of the process's own loss of one picture."""
    network.zero_grad()
    each = picture.expand_as(loss.noise)
    if loss.square:
        output = network(process.scheduler.add_noise(each, loss.noise, loss.times), loss.times)
        output.square().mean().backward()
    else:
        process.loss(network, each, loss.noise, loss.times).mean().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def by_autograd(network, process, loss, pictures) -> torch.Tensor:
    return torch.stack([gradient(network, process, loss, picture) for picture in pictures])


def test_a_picture_s_loss_is_the_process_s(network, process, make_loss, images):
    loss, weights = make_loss(), dict(network.named_parameters())
    for picture in images:
        expected = process.loss(network, picture.expand_as(loss.noise), loss.noise, loss.times).mean()
        torch.testing.assert_close(loss.of(network, weights, picture), expected)


def test_the_loss_is_of_the_weights_that_are_given(network, process, make_loss, images):
    loss, other = make_loss(), bends(2)[1].double()
    expected = process.loss(other, images[0].expand_as(loss.noise), loss.noise, loss.times).mean()
    torch.testing.assert_close(loss.of(network, dict(other.named_parameters()), images[0]), expected)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize(("passes", "together"), [(1, 1), (3, 1), (11, 3), (512, 7)])
def test_gradients_are_autograd_s_however_many_at_once(
    network, process, make_loss, images, square, passes, together, monkeypatch
):
    """Of three draws each: no more than the passes, but for one picture."""
    monkeypatch.setattr(peers, "_PASSES", passes)
    loss = make_loss(square)
    found = list(peers.gradients(network, loss, images))
    assert max(len(part) for part in found) == together
    torch.testing.assert_close(torch.cat(found), by_autograd(network, process, loss, images))


def test_a_gradient_is_the_slope_of_the_loss(network, make_loss, images):
    """Central differences along one direction, in float64: they err by the square of the step, 1e-4."""
    loss, weights = make_loss(), dict(network.named_parameters())
    along = {name: randn(*p.shape, seed=i) for i, (name, p) in enumerate(weights.items())}
    up, down = ({name: p + s * along[name] for name, p in weights.items()} for s in (1e-4, -1e-4))
    slope = torch.stack([loss.of(network, up, x) - loss.of(network, down, x) for x in images]) / 2e-4
    flat = torch.cat([direction.flatten() for direction in along.values()])
    torch.testing.assert_close(
        torch.cat(list(peers.gradients(network, loss, images))) @ flat, slope, rtol=1e-5, atol=1e-6
    )


def test_gradients_leave_the_network_as_it_was(network, make_loss, images, queries):
    before = {name: p.clone() for name, p in network.named_parameters()}
    peers.gradient_dot(network, make_loss(), queries, images)
    peers.unlearning(network, make_loss(), queries, images, peers.fisher(network, make_loss(), images), 0.1)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.named_parameters())


def test_gradient_dot_is_the_inner_product_of_autograd_s(network, process, make_loss, queries, images):
    loss = make_loss()
    of_images, of_queries = (by_autograd(network, process, loss, x) for x in (images, queries))
    torch.testing.assert_close(peers.gradient_dot(network, loss, queries, images), of_images @ of_queries.T)


def test_gradient_dot_is_what_a_step_on_a_training_picture_does_to_the_query_s_loss(
    network, process, make_loss, queries, images
):
    """A step of length 1e-6 down the picture's slope, where the second order is out of sight."""
    loss, weights = make_loss(), dict(network.named_parameters())
    found = peers.gradient_dot(network, loss, queries, images)
    for i, x in enumerate(images):
        slope = torch.autograd.grad(loss.of(network, weights, x), list(weights.values()))
        moved = {name: p - 1e-6 * g for (name, p), g in zip(weights.items(), slope, strict=True)}
        gain = torch.stack([loss.of(network, weights, q) - loss.of(network, moved, q) for q in queries])
        torch.testing.assert_close(gain / 1e-6, found[i], rtol=1e-3, atol=1e-5)


def test_every_picture_supports_itself(network, make_loss, queries):
    found = peers.gradient_dot(network, make_loss(), queries, queries)
    torch.testing.assert_close(found, found.T)
    assert torch.linalg.eigvalsh(found).min() > 0


def test_scores_are_summed_over_a_unit_s_pictures():
    scores, unit_of = randn(6, 2), torch.tensor([0, 2, 1, 0, 2, 2])
    expected = [sum(scores[i] for i in range(6) if unit_of[i] == u) for u in range(3)]
    torch.testing.assert_close(peers.over_units(scores, unit_of), torch.stack(expected))


def test_features_are_compared_by_their_cosine_and_pictures_are_clipped():
    extractor = nn.Flatten()
    images, queries = randn(5, *SHAPE) / 3, 3 * randn(2, *SHAPE, seed=1)
    found = peers.feature_similarity(extractor, queries, images)
    clipped = queries.clamp(-1, 1)
    for i, image in enumerate(images.clamp(-1, 1)):
        for q, picture in enumerate(clipped):
            torch.testing.assert_close(found[i, q], (image * picture).sum() / (image.norm() * picture.norm()))
    torch.testing.assert_close(peers.feature_similarity(extractor, images, images).diagonal(), torch.ones(5).double())


@pytest.mark.parametrize("pictures", [20, 5])  # more, and fewer, than features
@pytest.mark.parametrize("damping", [1e-3, 1.0, 1e3])
def test_trak_is_the_inverse_that_its_docstring_names(damping, pictures):
    images, queries = randn(pictures, 12), randn(3, 12, seed=1)
    square = images.T @ images
    inverse = torch.linalg.inv(square + damping * torch.linalg.eigvalsh(square).mean() * torch.eye(12).double())
    torch.testing.assert_close(peers.trak(images, queries, damping), images @ inverse @ queries.T)


@pytest.mark.parametrize("pictures", [20, 5])
@pytest.mark.parametrize("size", [6, 12])
def test_trak_of_fewer_dimensions_takes_a_corner_of_the_gram_of_all(size, pictures):
    images, queries = randn(pictures, 12), randn(3, 12, seed=1)
    gram, few = images.T @ images, (images[:, :size], queries[:, :size])
    before = gram.clone()
    torch.testing.assert_close(peers.trak(*few, 0.1, gram[:size, :size]), peers.trak(*few, 0.1))
    assert torch.equal(gram, before)


@pytest.mark.parametrize("method", ["trak", "dtrak"])
def test_a_panel_with_more_pictures_than_dimensions_takes_one_gram_and_scores_as_without(
    panel, pictures, asked, monkeypatch, method
):
    monkeypatch.setattr(peers, "PROJECTIONS", (4, 8, 4096))
    features = randn(len(pictures), 4096), randn(len(asked), 4096, seed=1)
    monkeypatch.setattr(peers, "trak_features", lambda *given, **named: features)
    tried = panel._tried(method)
    assert 8 <= len(pictures) < 4096
    for size in peers.PROJECTIONS:
        alone = peers.trak(features[0][:, :size], features[1][:, :size], 1.0)
        torch.testing.assert_close(tried[f"{size} dimensions, damping 1"], peers.over_units(alone, panel.unit_of))


@pytest.mark.parametrize("pictures", [20, 5])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_trak_is_the_regression_on_the_pictures_kernel(damping, pictures):
    """Phi (Phi^T Phi + lambda)^-1 = (Phi Phi^T + lambda)^-1 Phi."""
    images, queries = randn(pictures, 12), randn(3, 12, seed=1)
    kernel = images @ images.T + damping * images.square().sum() / 12 * torch.eye(pictures).double()
    torch.testing.assert_close(peers.trak(images, queries, damping), torch.linalg.solve(kernel, images @ queries.T))


def test_trak_with_a_large_damping_is_gradient_dot_and_with_a_small_one_least_squares():
    images, queries = randn(20, 6), randn(3, 6, seed=1)
    scale = images.square().sum() / 6
    torch.testing.assert_close(1e8 * scale * peers.trak(images, queries, 1e8), images @ queries.T, rtol=1e-6, atol=1e-6)
    coefficients = peers.trak(images, queries, 1e-12)
    torch.testing.assert_close(images.T @ coefficients, queries.T, rtol=1e-6, atol=1e-6)


def test_trak_is_blind_to_the_size_of_the_features():
    """Up to a factor for all: dampings are relative."""
    images, queries = randn(20, 6), randn(3, 6, seed=1)
    torch.testing.assert_close(peers.trak(10 * images, 10 * queries, 0.1), peers.trak(images, queries, 0.1))


@pytest.fixture
def information(network, make_loss, images) -> dict[str, torch.Tensor]:
    return peers.fisher(network, make_loss(), images)


def test_the_information_is_the_mean_square_of_autograd_s_gradients(network, process, make_loss, images):
    found = peers.fisher(network, make_loss(), images)
    weights = dict(network.named_parameters())
    assert {name: part.shape for name, part in found.items()} == {name: p.shape for name, p in weights.items()}
    expected = by_autograd(network, process, make_loss(), images).square().mean(0)
    torch.testing.assert_close(torch.cat([part.flatten() for part in found.values()]), expected)


@pytest.mark.parametrize("damping", [1e-2, 1.0, 1e8])
@pytest.mark.parametrize("every", [1, 2])
def test_unlearning_a_little_is_gradient_dot_preconditioned_along_a_step_of_known_length(
    network, process, make_loss, queries, images, information, damping, every
):
    """To first order a training picture's loss rises by g_i . s / |s| times the length of the step, where
    s = g_q / (F + damping); with a large damping s is g_q. The training picture's loss is at every other draw."""
    loss, length = make_loss(draws=4), 1e-6
    found = peers.unlearning(network, loss, queries, images, information, damping, 1, length, every)
    weights = torch.cat([p.flatten() for p in network.parameters()]).norm().detach()
    flat = torch.cat([part.flatten() for part in information.values()])
    slope = by_autograd(network, process, loss, queries) / (flat + damping * flat.mean())
    kept = slice(every // 2, None, every)
    thinned = Loss(process, loss.times[kept], loss.noise[kept])
    expected = by_autograd(network, process, thinned, images) @ slope.T / slope.norm(dim=1)
    torch.testing.assert_close(found / (length * weights), expected, rtol=1e-3, atol=1e-5)


def test_unlearning_raises_the_loss_of_the_query_itself_the_more_the_further_it_goes(
    network, make_loss, queries, information
):
    rises = torch.stack(
        [
            peers.unlearning(
                network, make_loss(), queries, queries, information, 1.0, length=length, every=1
            ).diagonal()
            for length in (0.01, 0.02, 0.1)
        ]
    )
    assert (rises[0] > 0).all()
    assert (rises.diff(dim=0) > 0).all()


def test_unlearning_ends_no_further_than_its_length(network, make_loss, queries, images, information, monkeypatch):
    """Steps of one share each: 8 of them reach almost as far as one, on a path that bends."""
    reached = []
    plain = Loss.of
    monkeypatch.setattr(
        Loss, "of", lambda self, net, weights, x: (reached.append(weights), plain(self, net, weights, x))[1]
    )
    peers.unlearning(network, make_loss(), queries[:1], images[:1], information, 1.0, steps=8, length=0.05)
    start = torch.cat([p.flatten() for p in network.parameters()]).detach()
    final = torch.cat([p.flatten() for p in reached[-1].values()]).detach()
    assert 0.025 < (final - start).norm() / start.norm() <= 0.05 * (1 + 1e-9)


@pytest.mark.parametrize("chunk", [1, 2, 128])
def test_unlearning_does_not_depend_on_its_chunk(network, make_loss, queries, images, information, chunk):
    expected = peers.unlearning(network, make_loss(), queries, images, information, 0.1)
    found = peers.unlearning(network, make_loss(), queries, images, information, 0.1, chunk=chunk)
    torch.testing.assert_close(found, expected)


def test_queries_are_unlearnt_one_by_one(network, make_loss, queries, images, information):
    together = peers.unlearning(network, make_loss(), queries, images, information, 0.1)
    alone = [peers.unlearning(network, make_loss(), query[None], images, information, 0.1) for query in queries]
    torch.testing.assert_close(together, torch.cat(alone, 1))


@pytest.mark.parametrize("square", [False, True])
def test_projected_gradients_keep_their_angles(process, square):
    """Johnson & Lindenstrauss: a cosine of 1,024 random projections errs by at most sqrt(2 / 1024) in standard
    deviation; 45 of them within 5.2 of those, false-alarm rate 9e-6."""
    pytest.importorskip("trak")
    network, (images, queries) = bends(1)[0], (randn(7, *SHAPE, seed=1).float(), randn(3, *SHAPE).float())
    loss = Loss(process, *loss_draws(3, process, SHAPE, seed=0), square)
    projected = torch.cat(peers.trak_features(network, loss, queries, images, 1024))
    exact = torch.cat(list(peers.gradients(network, loss, torch.cat([images, queries]))))
    assert projected.shape == (10, 1024)
    mine, theirs = (nn.functional.normalize(x.double(), dim=1) for x in (projected, exact))
    off = ~torch.eye(10, dtype=torch.bool)
    assert ((mine @ mine.T - theirs @ theirs.T)[off].abs() < 5.2 * (2 / 1024) ** 0.5).all()
    ratio = projected.norm(dim=1) / exact.norm(dim=1)  # one factor for all, to the same error
    assert (ratio / ratio.mean() - 1).abs().max() < 5.2 * (2 / 1024) ** 0.5


def test_the_projection_has_an_address_and_leaves_the_network_as_it_was(process):
    pytest.importorskip("trak")
    network, (images, queries) = bends(1)[0], (randn(70, *SHAPE, seed=1).float(), randn(3, *SHAPE).float())
    before = [p.clone() for p in network.parameters()]
    loss = Loss(process, *loss_draws(2, process, SHAPE, seed=0))
    one, same, other = (peers.trak_features(network, loss, queries, images, 64, seed) for seed in (0, 0, 1))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.allclose(one[0], other[0])
    assert [len(part) for part in one] == [70, 3]
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


def test_the_first_columns_of_a_projection_are_the_smaller_projection(process):
    pytest.importorskip("trak")
    network, (images, queries) = bends(1)[0], (randn(70, *SHAPE, seed=1).float(), randn(3, *SHAPE).float())
    loss = Loss(process, *loss_draws(2, process, SHAPE, seed=0))
    large, small = (peers.trak_features(network, loss, queries, images, size) for size in (peers.PROJECTIONS[-1], 512))
    for one, other in zip(large, small, strict=True):
        assert one.shape[1] == 4096
        assert torch.equal(one[:, :512], other)


def test_a_query_that_is_a_training_picture_has_its_features(process, monkeypatch):
    """In whichever batch it stands: here of 16 pictures of two draws."""
    pytest.importorskip("trak")
    monkeypatch.setattr(peers, "_PASSES", 32)
    images = randn(70, *SHAPE, seed=1).float()
    loss = Loss(process, *loss_draws(2, process, SHAPE, seed=0))
    of_images, of_queries = peers.trak_features(bends(1)[0], loss, images[[3, 68]], images, 64)
    torch.testing.assert_close(of_queries, of_images[[3, 68]], rtol=1e-4, atol=1e-5)


def test_without_traker_the_error_names_an_extra_that_brings_it(process, monkeypatch):
    for name in ("trak", "trak.modelout_functions"):
        monkeypatch.setitem(sys.modules, name, None)
    loss = Loss(process, *loss_draws(2, process, SHAPE, seed=0))
    with pytest.raises(ValueError, match=r"^validation: [^\n]*traker is not installed[^\n]*'\.\[peers\]'"):
        peers.trak_features(bends(1)[0], loss, torch.zeros(1, *SHAPE), torch.zeros(2, *SHAPE))
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert any(package.startswith("traker") for package in project["optional-dependencies"]["peers"])


# -- all of them, at the best of what they try


@pytest.fixture
def pictures() -> torch.Tensor:
    """Of the units."""
    return randn(10, *SHAPE, seed=1).float().clamp(-1, 1)


@pytest.fixture
def asked() -> torch.Tensor:
    return randn(3, *SHAPE).float()


@pytest.fixture
def make_panel(process, pictures, asked):
    def make() -> Peers:
        draws = loss_draws(3, process, SHAPE, seed=0)
        return Peers(bends(1)[0], pictures, UNIT_OF, asked, process, *draws, seed=0)

    return make


@pytest.fixture
def panel(make_panel) -> Peers:
    return make_panel()


def test_a_peer_s_scores_are_its_own_summed_over_every_unit_s_pictures(panel, pictures, asked):
    score, tuned = panel.score("gradient_dot", torch.zeros(4, 3), torch.zeros(4, 6, dtype=torch.bool))
    each = peers.gradient_dot(panel.network, panel.loss, asked, pictures).double()
    expected = torch.stack([each[unit == UNIT_OF].sum(0) for unit in range(6)])
    torch.testing.assert_close(score, expected)
    assert tuned == ""
    assert panel.meter.seconds["gradient_dot"] > 0


def test_the_damping_of_unlearning_is_the_best_one_on_the_tuning_subsets(panel, pictures, asked):
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    targets = randn(12, 3, seed=3)
    score, tuned = panel.score("unlearning", targets, subsets)
    given = panel.network, panel.loss, asked, pictures, peers.fisher(panel.network, panel.loss, pictures)
    tried = {d: peers.over_units(peers.unlearning(*given, d).double(), UNIT_OF) for d in peers.FISHER_DAMPINGS}
    reached = {d: lds(each, targets, subsets).mean().item() for d, each in tried.items()}
    best = max(reached, key=reached.get)
    assert tuned == f"damping {best:g}"
    torch.testing.assert_close(score, tried[best])
    torch.testing.assert_close(panel.tried["unlearning"], torch.stack(list(tried.values())))


def test_feature_similarity_is_summed_and_features_are_kept_by_unit(panel, pictures, asked):
    extractor = nn.Flatten()
    score = panel.features(extractor, asked, pictures)
    each = peers.feature_similarity(extractor, asked, pictures).double()
    torch.testing.assert_close(score, torch.stack([each[unit == UNIT_OF].sum(0) for unit in range(6)]))
    units, queries = panel.found["features"]
    torch.testing.assert_close(units, means(pictures, UNIT_OF).flatten(1).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(queries, asked.clamp(-1, 1).flatten(1))


@pytest.mark.parametrize("method", ["trak", "dtrak"])
def test_the_projection_and_the_damping_are_the_best_ones_on_the_tuning_subsets(panel, pictures, asked, method):
    """By mean LDS, against all of them tried one by one, every projection made for itself."""
    pytest.importorskip("trak")
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    targets = randn(12, 3, seed=3)
    score, tuned = panel.score(method, targets, subsets)
    loss = panel.square if method == "dtrak" else panel.loss
    tried = {}
    for size in (512, 1024, 2048, 4096):
        of_images, of_queries = peers.trak_features(panel.network, loss, asked, pictures, size)
        for damping in peers.DAMPINGS:
            tried[size, damping] = peers.over_units(peers.trak(of_images, of_queries, damping), UNIT_OF)
    reached = {setting: lds(each, targets, subsets).mean().item() for setting, each in tried.items()}
    size, damping = max(reached, key=reached.get)
    assert len({reached[size, damping] for size, damping in reached if damping == 1}) > 1
    assert tuned == f"{size} dimensions, damping {damping:g}"
    torch.testing.assert_close(score, tried[size, damping])
    torch.testing.assert_close(panel.tried[method], torch.stack(list(tried.values())))
    units, queries = panel.found["trak"]
    torch.testing.assert_close(queries, of_queries)
    torch.testing.assert_close(units[5], of_images[UNIT_OF == 5].double().mean(0))


def test_trak_and_dtrak_ask_different_losses(panel):
    pytest.importorskip("trak")
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    one, other = (panel.score(method, randn(12, 3), subsets)[0] for method in ("trak", "dtrak"))
    assert not torch.allclose(one, other)
    assert set(panel.meter.seconds) == {"trak", "dtrak"}


def test_the_features_of_gradients_do_not_depend_on_the_order_of_the_peers(make_panel):
    """`datamodel_trak` is one method, whether trak or dtrak is named first."""
    pytest.importorskip("trak")
    subsets, kept = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5, []
    for order in (("trak", "dtrak"), ("dtrak", "trak")):
        panel = make_panel()
        for method in order:
            panel.score(method, randn(12, 3), subsets)
        kept.append(panel.found["trak"])
    torch.testing.assert_close(kept[0], kept[1])


def test_a_peer_without_scores_of_its_own_is_refused(panel):
    """`methods` may list one that `peers` does not have yet."""
    with pytest.raises(ValueError, match=r"peers=astrology has no scores, expected a method of validation/peers.py"):
        panel._tried("astrology")
