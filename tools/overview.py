"""Draws the README's picture, ``book/_static/overview.png``: ``python tools/overview.py`` (half a minute)."""

import matplotlib.pyplot as plt
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.files import repository
from avo_lib.kernels import GatedKernel
from avo_lib.objectives import avo
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.show import figures
from avo_lib.targets import energy

PICTURE = repository("book") / "_static" / "overview.png"
STEPS, UPDATES = 5, 2000
SHOWN = (0, 1, 3, 5)  # more panels are too small on a phone


def main() -> None:
    """Train AVO on the four-mode energy, and show each target above what the chain has made of it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures.use_style()
    plt.rcParams.update({"font.size": 12, "axes.titlesize": 13})
    base, target = Gaussian(torch.zeros(2), torch.ones(2)), energy("d")
    path = GeometricPath(base.log_prob, target.log_density, linear_alphas(STEPS))
    kernels = torch.nn.ModuleList(GatedKernel(2, 64) for _ in range(STEPS))
    chain = Chain(base, list(kernels), path)
    optimiser = torch.optim.Adam(kernels.parameters(), 1e-3, fused=True)
    for _ in range(UPDATES):
        optimiser.zero_grad()
        (-avo(chain.sample((256,), detach=True)).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        zs = chain.sample((4000,)).z
    figure, rows = plt.subplots(2, len(SHOWN), figsize=(6, 3.4), sharex=True, sharey=True)
    for t, (above, below) in zip(SHOWN, rows.T, strict=True):
        title = f"$\\alpha_{t} = {t / STEPS:g}$"
        figures.show_density(above, lambda z, t=t: path.log_density(t, z), box=4.5, title=title)
        below.scatter(*zs[t].T, s=0.6, alpha=0.4, color=figures.COLOURS["avo"], linewidths=0)
        below.set_aspect("equal")
        for axes in (above, below):
            axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    rows[0, 0].set_ylabel("target $f_t$")
    rows[1, 0].set_ylabel("draws of $z_t$")
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
