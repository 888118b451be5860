"""Locally masked convolutions: exact likelihoods in any order, and dependence just where the order allows it."""

import itertools

import pytest
import torch

from avo_lib.evaluation import log_likelihood
from avo_lib.models import VAE, VAEConfig
from avo_lib.models.masked import MaskedBernoulli, MaskedConvolution, patch_mask, s_curve
from avo_lib.models.parts import Bernoulli
from avo_lib.numerics import log_normal
from avo_lib.objectives import AVO, ELBO
from avo_lib.testing import assert_mean

SHAPES = ((2, 2), (3, 3), (2, 4))
ORDERS = {
    "rows": lambda h, w: torch.arange(h * w),
    "s_curve": s_curve,
    "random": lambda h, w: torch.randperm(h * w, generator=torch.Generator().manual_seed(h + w)),
}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
WINDOWS = ((1,), (3,), (3, 3), (5, 1, 3), (1, 1))


def wild(shape, windows, order, channels=6, maps=2, factor=4.0) -> MaskedBernoulli:
    """A likelihood far from its small initial weights; the same ones at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = MaskedBernoulli(*shape, windows, channels=channels, maps=maps, order=order(*shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def all_images(pixels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)))


def test_pixels_may_be_bytes(generator):
    model, given = wild((3, 3), (3, 3), s_curve), torch.randn(20, 2 * 9, generator=generator)
    x = torch.rand(20, 9, generator=generator).round()
    assert torch.equal(model(x.byte(), given), model(x, given))


@every_order
@every_shape
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_probabilities_sum_to_one(shape, windows, order, generator):
    """Over all images, for each of three codes; a pixel that saw itself or a later one would break this."""
    pixels = shape[0] * shape[1]
    model = wild(shape, windows, order)
    given = 3 * torch.randn(3, 1, 2 * pixels, generator=generator)
    images = all_images(pixels)
    log_p = model(images, given.expand(3, len(images), -1))
    assert log_p.shape == (3, 2**pixels)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(3), atol=1e-10, rtol=0)


def test_the_sum_would_notice_a_pixel_that_sees_itself(generator):
    """The power of the test above."""
    model = wild((3, 3), (3, 3), s_curve)
    model.mask0 = patch_mask(model.order, 3, 3, 3, itself=True)
    images = all_images(9)
    given = torch.randn(1, 18, generator=generator).expand(len(images), -1)
    assert model(images, given).logsumexp(0).abs() > 0.1


def reaches(shape, windows, order) -> torch.Tensor:
    """Which pixel may reach which, ``(to, from)``, by following the masks' definition step by step."""
    height, width = shape
    rank = {pixel: i for i, pixel in enumerate(order(*shape).tolist())}
    place = [divmod(pixel, width) for pixel in range(height * width)]

    def near(a, b, window):
        return all(abs(p - q) <= window // 2 for p, q in zip(place[a], place[b], strict=True))

    pixels = range(height * width)
    seen = torch.tensor([[near(a, b, windows[0]) and rank[b] < rank[a] for b in pixels] for a in pixels]).double()
    for window in windows[1:]:
        passed = [[a == b or (near(a, b, window) and rank[b] < rank[a]) for b in pixels] for a in pixels]
        seen = torch.tensor(passed).double() @ seen
    return seen > 0


@every_order
@pytest.mark.parametrize("windows", [*WINDOWS, (3, 3, 3)], ids=str)
def test_the_jacobian_is_that_of_the_order(windows, order, generator):
    """Exactly zero where the order or the windows forbid it, and nonzero everywhere else."""
    shape, pixels = (4, 5), 20
    model = wild(shape, windows, order, channels=16)
    given = torch.randn(2 * pixels, generator=generator)
    x = torch.rand(pixels, generator=generator).round()
    jacobian = torch.autograd.functional.jacobian(lambda x: model.logits(x, given), x)
    rank = torch.empty(pixels)
    rank[order(*shape)] = torch.arange(pixels, dtype=rank.dtype)
    assert (jacobian[rank[:, None] <= rank] == 0).all()
    assert torch.equal(jacobian != 0, reaches(shape, windows, order))


def test_one_set_of_weights_serves_every_order(generator):
    """Masks are no part of the state, and only they differ between orders."""
    first = wild((3, 3), (3, 3), s_curve)
    second = MaskedBernoulli(3, 3, (3, 3), channels=6, maps=2, order=ORDERS["random"](3, 3))
    second.load_state_dict(first.state_dict())
    x, given = torch.rand(5, 9, generator=generator).round(), torch.randn(5, 18, generator=generator)
    assert not torch.allclose(first(x, given), second(x, given))
    first.reorder(second.order)
    assert torch.equal(first(x, given), second(x, given))
    assert all("mask" not in name and "order" not in name for name in first.state_dict())


def test_another_order_is_another_model():
    """No weights tell it, and a checkpoint compares what a model's repr says."""
    model = wild((3, 3), (3, 1), ORDERS["random"])
    own = repr(model)
    model.reorder(range(9))
    assert repr(model) != own and "windows=(3, 1), order=row by row" in repr(model)
    model.reorder(range(8, -1, -1))
    assert "row by row" not in repr(model) and len(model.extra_repr()) < 60


def test_windows_of_one_see_no_pixel(generator):
    """The plain decoder is a special case: independent pixels given z, whatever the order."""
    model = wild((3, 3), (1, 1, 1), s_curve)
    given, x = torch.randn(9 * 2, generator=generator), torch.rand(20, 9, generator=generator).round()
    odds = model.logits(x, given.expand(20, -1))
    assert torch.equal(odds, odds[:1].expand(20, -1))
    torch.testing.assert_close(model(x, given.expand(20, -1)), Bernoulli()(x, odds[0]))


@every_order
def test_samples_have_the_exact_probabilities(order, generator):
    """All 2⁴ images, each a comparison at five standard errors; independent pixels would fail it."""
    model = wild((2, 2), (3, 3), order, factor=2.0).requires_grad_(False)
    given = torch.linspace(-1, 1, 8)
    images = all_images(4)
    exact = model(images, given.expand(16, -1)).exp()
    drawn = model.sample(given.expand(40_000, -1), generator=generator)
    hits = (drawn[:, None] == images).all(-1).to(exact)
    assert_mean(hits, exact, resolution=0.003)
    marginal = (exact[:, None] * images).sum(0)
    independent = torch.where(images == 1, marginal, 1 - marginal).prod(1)
    assert (independent - exact).abs().max() > 0.03


def test_a_patch_and_its_mask_by_hand():
    """The product of the source, written out pixel by pixel with loops."""
    h, layer = torch.randn(2, 3, 3, 4), MaskedConvolution(3, 5, 3)
    mask = patch_mask(s_curve(3, 4), 3, 4, 3, itself=True)
    rank = s_curve(3, 4).argsort().reshape(3, 4)
    found = layer(h, mask)
    kernel = layer.weight.reshape(5, 3, 3, 3)
    for row, column in itertools.product(range(3), range(4)):
        expected = layer.bias.expand(2, 5)
        for i, j in itertools.product(range(3), range(3)):
            r, c = row + i - 1, column + j - 1
            if 0 <= r < 3 and 0 <= c < 4 and rank[r, c] <= rank[row, column]:
                expected = expected + h[:, :, r, c] @ kernel[:, :, i, j].T
        torch.testing.assert_close(found[:, :, row, column], expected)


def masked_vae(T=0) -> VAE:
    config = VAEConfig(pixels=9, hidden=(8,), latent=2, T=T, kernel_hidden=4, batch_norm=False)
    return VAE(config, likelihood=MaskedBernoulli(3, 3, (3, 3), channels=6, maps=2))


@pytest.mark.parametrize(("T", "objective"), [(0, ELBO()), (3, ELBO()), (3, AVO(1.0))], ids=["vae", "hvi", "avo"])
def test_it_is_a_likelihood_of_the_vae(T, objective, generator):
    """Every objective trains it, and AVO's intermediate targets leave it alone."""
    model = masked_vae(T)
    x = torch.rand(6, 9, generator=generator).round()
    objective(model, x, generator=generator).mean().backward()
    for name, parameter in model.likelihood.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    if T:
        path = model.chain(x).path
        z = torch.randn(2, 6, 2, generator=generator)
        torch.testing.assert_close(path.log_likelihood(z), path.log_likelihood_frozen(z))
        assert not path.log_likelihood_frozen(z).requires_grad


def test_no_images_are_a_batch_too():
    model = masked_vae()
    assert model.chain(torch.zeros(0, 9)).sample((4,)).log_w().shape == (4, 0)
    assert model.likelihood.sample(model.decode(torch.zeros(0, 2))).shape == (0, 9)


def test_importance_sampling_finds_the_likelihood(generator):
    """A code of two numbers can be integrated on a grid: p(x) of all 2⁹ images sums to one, and IS agrees."""
    model = masked_vae().requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in model.likelihood.parameters():
            parameter.mul_(2)
    axis = torch.linspace(-6, 6, 49)
    grid = torch.cartesian_prod(axis, axis)
    prior = log_normal(grid).softmax(0)
    images = all_images(9)
    log_p = torch.stack([model.likelihood(images, model.decode(z).expand(512, -1)) for z in grid])
    exact = (log_p + prior.log()[:, None]).logsumexp(0)
    torch.testing.assert_close(exact.exp().sum(), torch.ones(()))
    found = log_likelihood(model, images[100:110], 20_000, generator=generator)
    error = (1 / found.ess - 1 / 20_000).sqrt()
    assert ((found.log_p - exact[100:110]).abs() < 5 * error + 1e-3).all()
    assert error.max() < 0.1


def test_the_order_is_its_own():
    """What draws and what masks must not drift apart when the caller's tensor changes; and bytes are indices too."""
    order = s_curve(2, 2).to(torch.uint8)
    likelihood = MaskedBernoulli(2, 2, (3,), order=order)
    order.copy_(order.flip(0))
    assert likelihood.order.tolist() == [0, 1, 3, 2]
    assert torch.equal(likelihood.mask0, patch_mask([0, 1, 3, 2], 2, 2, 3, itself=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: patch_mask([0, 1, 2, 2], 2, 2, 3, itself=False), "each of the 4 pixels"),
        (lambda: patch_mask(range(3), 2, 2, 3, itself=False), "each of the 4 pixels"),
        (lambda: patch_mask([0.0, 1.0, 2.0, 3.0], 2, 2, 3, itself=False), "as whole numbers"),
        (lambda: patch_mask([False, True], 1, 2, 3, itself=False), "as whole numbers"),
        (lambda: patch_mask(range(4), 2, 2, 2, itself=False), "odd side, not 2"),
        (lambda: MaskedBernoulli(2, 2, ()), "at least one window"),
        (lambda: MaskedBernoulli(2, 2, (3,), maps=0), "at least 1"),
        (lambda: MaskedBernoulli(2, 2, (3,), maps=1)(torch.ones(5, 4), torch.ones(5, 8)), "got 4 and 8"),
        (lambda: MaskedBernoulli(2, 2, (3,), maps=1)(torch.ones(5, 5), torch.ones(5, 4)), "got 5 and 4"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mean_in_closed_form_is_refused():
    with pytest.raises(NotImplementedError, match="use sample"):
        masked_vae().sample_images(3)


def test_grey_pixels_are_refused():
    with pytest.raises(ValueError, match="Binarise first"):
        masked_vae().chain(torch.full((2, 9), 0.5))


def test_an_own_decoder_gives_what_the_likelihood_asks_for():
    config = VAEConfig(pixels=9, hidden=(8,), latent=2, batch_norm=False)
    model = VAE(config, decoder=torch.nn.Linear(2, 9), likelihood=MaskedBernoulli(3, 3, (3,), maps=2))
    with pytest.raises(ValueError, match=r"should give \(5, 18\) numbers"):
        model.decode(torch.zeros(5, 2))
