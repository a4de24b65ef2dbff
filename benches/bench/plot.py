"""Pictures, as SVG written by hand: bars for a run's pairs, curves for growth; scales are logarithmic."""

import math
from html import escape

from .images import SUITES
from .network import DIRECT
from .peers import OURS, PEERS
from .report import number, titled
from .results import build_total, update_middle

ROW, BAR, LABEL, COLUMN, GAP, HEAD = 22, 14, 134, 270, 34, 78
OUR_COLOUR, PEER_COLOUR, GRID, INK, FAINT = "#1f6f8b", "#b9a27a", "#dddddd", "#222222", "#777777"
COLUMNS = (
    ("bytes on the wire, MB", lambda pair, peer: scaled(update_middle(pair, DIRECT.name, peer, "wire"), 1e6)),
    ("node, wall time with sync, s", lambda pair, peer: update_middle(pair, DIRECT.name, peer, "wall")),
    ("build, cold page cache, s", lambda pair, peer: build_total(pair["builds"].get(peer), "wall")),
)


def scaled(value, by):
    return None if value is None else value / by


def plot(results):
    """The text of the SVG."""
    drawn, top = [], 34
    for suite, pairs in results["suites"].items():
        for name, pair in pairs.items():
            peers = [peer for peer in PEERS if any(value(pair, peer) is not None for _, value in COLUMNS)]
            if peers:
                drawn.append(block(f"{SUITES.get(suite, suite)}: {titled(name)}", pair, peers, top))
                top += HEAD + ROW * len(peers) + 26
    return sheet(LABEL + len(COLUMNS) * (COLUMN + GAP), top + 24, drawn, results["machine"])


def sheet(width, height, drawn, machine):
    """The whole file, with the machine at its foot."""
    where = f"{machine['processor']}, {machine['filesystem']}, kernel {machine['kernel']}, {machine['date']}"
    foot = f"{where}; logarithmic scales, less is better"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *drawn,
        text(16, height - 16, foot, size=10, fill=FAINT),
        "</svg>",
        "",
    ])  # fmt: skip


def text(x, y, words, size=12, anchor="start", fill=INK, weight="normal"):
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def block(title, pair, peers, top):
    """A pair: its title, the peers' names, the columns."""
    parts = [text(16, top, title, size=16, weight="bold")]
    for row, peer in enumerate(peers):
        weight = "bold" if peer in OURS else "normal"
        parts.append(text(LABEL - 8, top + HEAD + ROW * row - 10, peer, anchor="end", weight=weight))
    for place, (title, value) in enumerate(COLUMNS):
        left = LABEL + place * (COLUMN + GAP)
        parts.append(column(title, [value(pair, peer) for peer in peers], peers, left, top + 28))
    return "\n".join(parts)


def column(title, values, peers, left, top):
    known = [value for value in values if value]
    parts = [text(left, top, title, weight="bold")]
    if not known:
        return "\n".join(parts)
    low = 10.0 ** math.floor(math.log10(min(known)) - 0.15)
    high = 10.0 ** math.ceil(math.log10(max(known)))
    # room for the figure behind the longest bar
    per_decade = (COLUMN - 52) / max(1.0, math.log10(high / low))

    def across(value):
        return left + math.log10(value / low) * per_decade

    bottom = top + 50 + ROW * len(values) - 22
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = across(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{top + 24}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(text(x, top + 18, f"{10.0**power:g}", size=10, anchor="middle", fill=FAINT))
    for row, (value, peer) in enumerate(zip(values, peers)):
        middle = top + 36 + ROW * row
        if value:
            fill = OUR_COLOUR if peer in OURS else PEER_COLOUR
            end = across(value)
            size = f'width="{max(end - left, 1):.1f}" height="{BAR}"'
            parts.append(f'<rect x="{left}" y="{middle - BAR / 2}" {size} fill="{fill}"/>')
            parts.append(text(max(end, left) + 5, middle + 4, number(value), size=11))
        else:
            parts.append(text(left + 5, middle + 4, "–", size=11, fill=FAINT))
    return "\n".join(parts)


PANEL, PANEL_HEIGHT, PER_LINE = 300, 210, 3
LINES = ("#8cc0cf", "#1f6f8b", "#123c4a", "#b9a27a")


def curves(panels, across, machine):
    """Panels of curves: {title: {name of the curve: [(x, y), ...]}}, all with the same kind of x."""
    drawn = []
    for place, (title, named) in enumerate(panels.items()):
        left = 60 + (place % PER_LINE) * (PANEL + 60)
        top = 40 + (place // PER_LINE) * (PANEL_HEIGHT + 80)
        drawn.append(panel(title, named, across, left, top))
    names = next(iter(panels.values()), {})
    rows = -(-len(panels) // PER_LINE)
    left, top = 60 + (len(panels) % PER_LINE) * (PANEL + 60), 40 + (rows - 1) * (PANEL_HEIGHT + 80)
    for row, (name, colour) in enumerate(zip(names, LINES)):
        drawn.append(f'<circle cx="{left}" cy="{top + 20 + 22 * row}" r="5" fill="{colour}"/>')
        drawn.append(text(left + 14, top + 24 + 22 * row, name))
    return sheet(40 + PER_LINE * (PANEL + 60), 60 + rows * (PANEL_HEIGHT + 80), drawn, machine)


def decades(values):
    """The powers of ten around VALUES, as exponents; at least one decade."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def panel(title, named, across, left, top):
    points = [(x, max(y, 1e-3)) for curve in named.values() for x, y in curve]
    parts = [text(left - 40, top - 12, title, weight="bold")]
    if not points:
        return parts[0]
    (x_low, x_high), (y_low, y_high) = (decades([point[axis] for point in points]) for axis in (0, 1))

    def place(x, y):
        across = left + (math.log10(x) - x_low) / (x_high - x_low) * PANEL
        return across, top + PANEL_HEIGHT - (math.log10(max(y, 1e-3)) - y_low) / (y_high - y_low) * PANEL_HEIGHT

    for power in range(x_low, x_high + 1):
        x, _ = place(10.0**power, 10.0**y_low)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + PANEL_HEIGHT}" stroke="{GRID}"/>')
        parts.append(text(x, top + PANEL_HEIGHT + 14, f"{10**power:,}", size=10, anchor="middle", fill=FAINT))
    for power in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + PANEL}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 6, y + 4, f"{10.0**power:g}", size=10, anchor="end", fill=FAINT))
    parts.append(text(left + PANEL, top + PANEL_HEIGHT + 28, across, size=10, anchor="end", fill=FAINT))
    for curve, colour in zip(named.values(), LINES):
        placed = [place(x, y) for x, y in sorted(curve)]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in placed]
    return "\n".join(parts)
