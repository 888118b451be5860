"""A linear-Gaussian encoder, for which divergence, activity and information are known in closed form."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from avo_lib.chain import Gaussian
from avo_lib.collapse import active_units, activity, kl_per_unit, mutual_information
from avo_lib.testing import assert_bracket, assert_mean


@dataclass(frozen=True)
class LinearEncoder:
    """x ~ N(0, diag(variance)), z | x ~ N(V x, diag(std²)); the aggregate of all z is Gaussian too."""

    V: Tensor
    std: Tensor
    variance: Tensor

    def proposal(self, images: int, generator: torch.Generator) -> Gaussian:
        x = self.variance.sqrt() * torch.randn(images, len(self.variance), generator=generator)
        return Gaussian(x @ self.V.T, self.std.expand(images, -1))

    @property
    def signal(self) -> Tensor:
        return self.V @ self.variance.diag() @ self.V.T

    def kl(self) -> Tensor:
        return 0.5 * (self.signal.diag() + self.std**2 - 1) - self.std.log()

    def information(self) -> float:
        return 0.5 * torch.logdet(self.signal + self.std.square().diag()).item() - self.std.log().sum().item()


ENCODER = LinearEncoder(
    V=torch.tensor([[0.7, 0.1, 0.0], [-0.2, 0.5, 0.3], [0.0, 0.0, 0.04]], dtype=torch.float64),
    std=torch.tensor([0.8, 0.7, 1.0], dtype=torch.float64),
    variance=torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64),
)


def test_kl_per_unit(generator):
    assert_mean(kl_per_unit(ENCODER.proposal(100_000, generator)), ENCODER.kl(), resolution=0.003)


def test_kl_per_unit_is_the_average_log_ratio(generator):
    """Against draws: with the two swapped, or without the log, the answer would differ."""
    q = Gaussian(torch.tensor([1.0]), torch.tensor([0.5]))
    z, log_q = q.sample((200_000,), generator=generator)
    prior = Gaussian(torch.zeros(1), torch.ones(1))
    assert_mean(log_q - prior.log_prob(z), kl_per_unit(q).sum(), resolution=0.005)


def test_activity_and_active_units(generator):
    mean = ENCODER.proposal(100_000, generator).mean
    torch.testing.assert_close(activity(mean), ENCODER.signal.diag(), rtol=0.02, atol=0)
    torch.testing.assert_close(activity(mean), mean.var(0))
    assert active_units(mean).tolist() == [True, True, False]  # the third has activity 0.0008
    assert active_units(mean, threshold=1e-4).tolist() == [True, True, True]


def test_halves_cancel_the_noise_of_draws(generator):
    """Two draws a half: their noise would switch the idle third unit on; repeats give the z-test."""
    found = []
    for _ in range(100):
        z, _ = ENCODER.proposal(1000, generator).sample((4,), generator=generator)
        one, other = z[:2].mean(0), z[2:].mean(0)
        found.append(activity(one, other))
    assert_mean(torch.stack(found), ENCODER.signal.diag(), resolution=0.02)
    assert activity(one)[2] > 0.3 and abs(found[-1][2]) < 0.1


@pytest.mark.parametrize("rows", [7, 200])
def test_information_lies_in_the_bracket(rows, generator):
    bracket = mutual_information(ENCODER.proposal(3000, generator), rows=rows, generator=generator)
    assert_bracket(bracket.lower, ENCODER.information(), bracket.upper, width=0.3)
    assert bracket.lower.value < bracket.upper.value


def test_the_bracket_is_a_bound_from_both_sides_on_average(generator):
    """With 10 images the bias is large; the exact value lies between the two means by many standard errors."""
    brackets = [mutual_information(ENCODER.proposal(10, generator), generator=generator) for _ in range(2000)]
    for sign, values in ((1, [b.lower.value for b in brackets]), (-1, [b.upper.value for b in brackets])):
        difference = sign * (ENCODER.information() - torch.tensor(values))
        assert difference.mean() > 5 * difference.std() / len(values) ** 0.5


def test_its_standard_error_is_the_spread_over_repeats(generator):
    brackets = [mutual_information(ENCODER.proposal(300, generator), generator=generator) for _ in range(300)]
    for side in ("lower", "upper"):
        values = torch.tensor([getattr(b, side).value for b in brackets])
        stated = torch.tensor([getattr(b, side).stderr for b in brackets]).mean().item()
        assert stated == pytest.approx(values.std().item(), rel=0.25)


def test_codes_that_do_not_overlap_give_log_n(generator):
    """The lower bound never says more than log N; the KL, from above, is finite where the other bound says nothing."""
    far = Gaussian(100.0 * torch.arange(20)[:, None], torch.ones(20, 1))
    bracket = mutual_information(far, generator=generator)
    assert bracket.lower.value == pytest.approx(math.log(20)) and bracket.upper.value > 1000


def test_hoffman_and_johnson_decomposition(generator):
    """Average KL = information + KL of the aggregate, here between two Gaussians."""
    aggregate = ENCODER.signal + ENCODER.std.square().diag()
    surplus = 0.5 * (aggregate.trace() - len(aggregate) - torch.logdet(aggregate)).item()
    assert ENCODER.kl().sum().item() == pytest.approx(ENCODER.information() + surplus, abs=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="at least two images"):
        activity(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least two images"):
        activity(torch.zeros(4, 3), torch.zeros(5, 3))
    for spoilt in (math.nan, math.inf):
        mean = torch.tensor([[1.0, spoilt], [-1.0, 0.0]])
        with pytest.raises(ValueError, match="NaN or infinite: whether its unit is active cannot be said"):
            active_units(mean)
        with pytest.raises(ValueError, match="NaN or infinite"):
            activity(torch.zeros(2, 2), mean)
    with pytest.raises(ValueError, match="a threshold must be a number, not NaN"):
        active_units(torch.zeros(4, 3), threshold=math.nan)
    with pytest.raises(ValueError, match="at least three images"):
        mutual_information(Gaussian(torch.zeros(2, 1), torch.ones(2, 1)))
