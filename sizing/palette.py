"""The colours of every figure, safe for colour blindness: calculators, drawings, the report.

The hues of Okabe and Ito's palette, https://jfly.uni-koeln.de/color/ (2002). Orange, sky and yellow
are darker: lines need a contrast of 3 to white (WCAG 2.1, 1.4.11). Blue and red are darker than
these, so that lightness still tells them apart where hue does not.
"""

BLUE, ORANGE, GREEN = "#005A9C", "#B27A00", "#009E73"
PINK, SKY, RED, YELLOW = "#CC79A7", "#2A8FC9", "#AA3F00", "#8A8000"
BLACK, GREY, PALE = "#222222", "#888888", "#dddddd"

SERIES = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, YELLOW)

# One colour per part, the same in every figure.
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
