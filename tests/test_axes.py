"""Points that grow an axis on their way would be counted as independent draws: refused where they appear."""

import pytest
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.data import Dataset
from avo_lib.evaluation import ais, average_bound, log_likelihood, reverse_ais
from avo_lib.kernels import HMC, GatedKernel, Langevin
from avo_lib.numerics import log_normal
from avo_lib.objectives import avo, elbo
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas
from avo_lib.smc import smc
from avo_lib.targets import LinearGaussian
from avo_lib.training import TrainConfig, fit


class Odd:
    """A kernel whose points have other axes than those that it moves."""

    def __init__(self, change):
        self.change = change

    def forward(self, z, log_f, context, *, generator):
        moved = self.change(z)
        return moved, torch.zeros(moved.shape[:-1])

    reverse = forward


class Seven:
    """A proposal that draws as many points as it likes."""

    def sample(self, shape=(), *, generator=None):
        z = torch.randn(7, 2, generator=generator)
        return z, log_normal(z)

    log_prob = staticmethod(log_normal)


def of(*kernels, proposal=None):
    path = GeometricPath(log_normal, lambda z: log_normal(z, 1.0), linear_alphas(len(kernels)))
    return Chain(proposal or Gaussian(torch.zeros(2), torch.ones(2)), kernels, path)


WAYS = {
    "sample": lambda chain: chain.sample((5,)),
    "ais": lambda chain: ais(chain, 5),
    "smc": lambda chain: smc(chain, 5),
    "reverse": lambda chain: reverse_ais(chain, torch.zeros(5, 2)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "kernel",
    [
        lambda: Odd(lambda z: z[:, None].expand(-1, 3, -1)),
        lambda: Odd(lambda z: torch.cat([z, z], -1)),
        lambda: Odd(lambda z: z[:2]),
        lambda: Langevin(0.1, batch=(3,)),
        lambda: GatedKernel(2, 4, batch=(3,)),
    ],
    ids=["an axis more", "more coordinates", "fewer points", "steps of three data", "networks of three data"],
)
def test_a_kernel_that_changes_the_axes_is_refused(way, kernel):
    with pytest.raises(ValueError, match=r"kernel 1 (moves|gives)"):
        way(of(kernel()))


@pytest.mark.parametrize("way", [WAYS["sample"], WAYS["ais"], WAYS["smc"]])
def test_a_proposal_that_ignores_what_is_asked_is_refused(way):
    with pytest.raises(ValueError, match="asked for draws"):
        way(of(HMC(0.3), proposal=Seven()))


@pytest.mark.parametrize("kernel", [HMC(0.3), Langevin(0.1)], ids=["HMC", "Langevin"])
def test_one_proposal_for_several_data_is_as_good_as_one_each(kernel, generator):
    """Along the gradient of each datum, not of their sum: the exact evidence, and with a power that shows it."""
    model = LinearGaussian(torch.randn(3, 2, generator=generator), torch.zeros(3), 1.5)
    x = model.sample(4, generator=generator)[1]
    path = AmortisedPath(log_normal, *[lambda z: model.log_likelihood(x, z)] * 2, linear_alphas(8))
    chain = Chain(Gaussian(torch.zeros(1, 2), torch.ones(1, 2)), [kernel] * 8, path)
    with torch.no_grad():
        w = chain.sample((4000,), generator=generator).log_w().exp()
    assert w.shape == (4000, 4)
    errors = w.std(0) / w.mean(0) / 4000**0.5
    assert ((w.mean(0).log() - model.log_z(x)).abs() < 5 * errors).all()
    assert errors.max() < 0.1
    trajectory = chain.sample((3,), detach=True, generator=generator)
    assert trajectory.log_v().shape == (8, 3, 4)
    if kernel != HMC(0.3):
        torch.testing.assert_close(avo(trajectory), elbo(trajectory))


@pytest.mark.parametrize("judge", [ais, smc])
@pytest.mark.parametrize("name", ["none", "HMC", "gated"])
def test_data_that_would_share_draws_are_not_averaged(judge, name):
    """Their estimates err together: with 40 equal data the standard error was 0.00, and the error up to 0.9 nats."""
    kernels = {"none": [], "HMC": [HMC(0.3)], "gated": [GatedKernel(2, 4)]}[name]
    x = torch.ones(40, 2)
    path = AmortisedPath(log_normal, *[lambda z: log_normal(x, z)] * 2, linear_alphas(len(kernels)))
    for rows in (1, 40):
        chain = Chain(Gaussian(torch.zeros(rows, 2), torch.ones(rows, 2)), kernels, path)
        if rows == 1:
            with pytest.raises(ValueError, match="a row for each datum"):
                judge(chain, 16)
        else:
            assert judge(chain, 16).log_w.shape == (16, 40)


class Shared(torch.nn.Module):
    """A model whose prior is the proposal of all data at once, or of each."""

    def __init__(self, rows: tuple[int, ...] | None) -> None:
        super().__init__()
        self.rows, self.mean = rows, torch.nn.Parameter(torch.zeros(2))

    def chain(self, x):
        zero = torch.zeros(*((len(x),) if self.rows is None else self.rows), 2)
        path = AmortisedPath(log_normal, *[lambda z: log_normal(x, z + self.mean)] * 2, linear_alphas(0))
        return Chain(Gaussian(zero, torch.ones_like(zero)), [], path)


@pytest.mark.parametrize("rows", [(), (1,)], ids=["no axis", "one row"])
@pytest.mark.parametrize(
    "judge",
    [
        average_bound,
        lambda model, x: log_likelihood(model, x, 10),
        lambda model, x: log_likelihood(model, x, 40),  # as many draws as data: the axes would fit
        lambda model, x: fit(model, Dataset(x, x), TrainConfig(epochs=1), device="cpu"),
    ],
    ids=["bound", "likelihood", "as many draws as data", "fit"],
)
def test_a_model_whose_data_would_share_draws_is_neither_judged_nor_trained(judge, rows):
    """Of a bound with a standard deviation of 2.4 over seeds the standard error was 0.2."""
    x = torch.ones(40, 2)
    with pytest.raises(ValueError, match=r"a row for each datum, such as mean\.expand\(len\(x\), -1\)"):
        judge(Shared(rows), x)
    judge(Shared(None), x)
