"""What a map method is to the rest of the package: one entry, read wherever methods differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from motorpool.kernels.maps.landmarks import Kernel

if TYPE_CHECKING:
    from motorpool.kernels.maps.layouts import LayOut

#: That of t-SNE, 1 / (1 + d^2), for methods without one of their own.
KERNEL = Kernel()


@dataclass(frozen=True)
class MapMethod:
    """A way to make maps, as `registry` keeps it. ``name`` is that of configs and tables, ``title`` the report's.

    - ``lay_out``: places a sample of the rows; all others go where `Landmarks` puts them by ``kernel``, that of the
      method's own objective. None: all rows are placed by their first principal axes.
    - ``default``: whether a config that names no methods asks for it.
    - ``settings``: keys of the section ``projections`` that places depend on. The seed is one for all methods.
    - ``least_rows``: with fewer rows the method is left out.
    - ``cost``: how long a layout takes, relative to others: the dearest start first.
    - ``package``: the module that it imports and the distribution that brings it, where that is an optional one.
    - ``turns``: whether its map is the first choice for the report's turning picture in three dimensions.
    """

    name: str
    title: str
    lay_out: LayOut | None = None
    kernel: Kernel = KERNEL
    default: bool = False
    settings: tuple[str, ...] = ()
    least_rows: int = 1
    cost: float = 1.0
    package: tuple[str, str] | None = None
    turns: bool = False
