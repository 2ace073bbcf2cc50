"""How the course's figures look: fonts, and panels that are legible on a dark page."""

from ..palette import BLACK as BLACK
from ..palette import BLUE as BLUE
from ..palette import COLOURS as COLOURS
from ..palette import GREEN as GREEN
from ..palette import ORANGE as ORANGE
from ..palette import PALE, SERIES
from ..palette import PINK as PINK
from ..palette import RED as RED
from ..palette import SKY as SKY
from ..palette import YELLOW as YELLOW

# An opaque light panel: a figure's black text stays legible where the page is dark.
RC = {
    "figure.figsize": (7.0, 4.0),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": PALE,
    "font.size": 10.5,
    "axes.titlesize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "figure.autolayout": True,
}


def use() -> None:
    """Draw matplotlib's figures in the course's style from here on; in a notebook with twice the
    pixels, shown at the same size, so that they are sharp on a fine screen and a projector."""
    import matplotlib
    from cycler import cycler
    from IPython import get_ipython

    matplotlib.rcParams.update(RC)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=SERIES)
    if get_ipython():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")
