"""Colours and fonts of the course's figures: safe for colour blindness, legible on a dark page."""

# The hues of Okabe and Ito's palette, https://jfly.uni-koeln.de/color/ (2002). Orange, sky and
# yellow are darker: lines need a contrast of 3 to white (WCAG 2.1, 1.4.11). Blue and red are
# darker than these, so that lightness still tells them apart where hue does not.
BLUE, ORANGE, GREEN = "#005A9C", "#B27A00", "#009E73"
PINK, SKY, RED, YELLOW, BLACK = "#CC79A7", "#2A8FC9", "#AA3F00", "#8A8000", "#222222"

SERIES = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, YELLOW)

# One colour a part, the same in every figure.
COLOURS = {
    "embedding": PINK,
    "attention": BLUE,
    "mlp": ORANGE,
    "norm": GREEN,
    "head": RED,
    "router": SKY,
    "parameters": BLUE,
    "gradients": ORANGE,
    "optimizer": GREEN,
    "activations": PINK,
    "logits": RED,
    "temporary": SKY,
}

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
    "grid.color": "#dddddd",
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
