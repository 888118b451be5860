"""Annealed variational inference: one importance weight, and every method that follows from it.

A method is a choice of *path* (:mod:`avo_lib.paths`), *proposal* (:mod:`avo_lib.proposals`), *kernels*
(:mod:`avo_lib.kernels`) and *objective* (:mod:`avo_lib.objectives`). Start with :mod:`avo_lib.chain`. The code that
makes the book's results is in :mod:`avo_lib.experiments`, the code that draws in :mod:`avo_lib.show`; each has an extra
of its own.

The package's names are listed in ``__init__.pyi``. A module is imported when one of its names is first asked for, so
that the command line can be interrupted while torch is being read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
