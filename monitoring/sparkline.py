"""Small charts as inline SVG without any style or script of their own: `static/dashboard.css` colours them."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from markupsafe import Markup
from pygal import XY, PluginImportFixer

# pygal hooks into every import, for plug-ins that aren't used here; Python 3.11 warns about such an old hook each time
# that a module is not found. (pygal/__init__.py, 3.1.3)
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, PluginImportFixer)]

WIDTH, HEIGHT = 240, 48  # user units; the page stretches the chart to its place
USUAL, HEADROOM = 0.9, 2.0  # nine of ten values are at most the usual one; the top shows up to twice that
_KEPT = {"svg": {"xmlns", "viewBox"}, "g": {"class", "transform"}, "path": {"class", "d"}}  # elements, attributes

Point = tuple[int, float]


def sparkline(values: Sequence[float | None], label: str) -> Markup:
    """An area chart of evenly spaced values from 0 up; None leaves a gap. `label` is what a screen reader says."""
    top = ceiling(values)
    chart = XY(xrange=(0, len(values) - 1), range=(0, top), disable_xml_declaration=True, no_prefix=True)
    for run in runs([None if value is None else min(value, top) for value in values]):
        chart.add("", run, fill=True)
        chart.add("", run)
    chart.add_xml_filter(lambda root: _plain(root, label))
    svg = chart.render_sparkline(width=WIDTH, height=HEIGHT, margin=0, explicit_size=False)
    return Markup(svg)  # noqa: S704 - paths out of numbers, and a label that the XML writer has escaped


def ceiling(values: Sequence[float | None]) -> float:
    """The value at the chart's top: the largest one, or less where a rare peak would press the rest to the ground."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return 1.0
    usual = ordered[int(USUAL * (len(ordered) - 1))]
    return min(ordered[-1], HEADROOM * usual) or ordered[-1] or 1.0


def runs(values: Sequence[float | None]) -> Iterator[list[Point]]:
    """The unbroken stretches as points: neither a line nor an area may span a gap."""
    points = ((place, value) for place, value in enumerate(values))
    for missing, stretch in groupby(points, key=lambda point: point[1] is None):
        if not missing:
            run = [(place, value) for place, value in stretch if value is not None]
            yield run if len(run) > 1 else [*run, *run]  # a lone point is a line of no length, drawn as a dot


def _plain(root: Element, label: str) -> Element:
    """The chart's groups and paths alone; its styles and scripts are what the page's content policy refuses."""
    _prune(root)
    root.attrib.update({"class": "sparkline", "role": "img", "aria-label": label, "preserveAspectRatio": "none"})
    return root


def _prune(element: Element) -> None:
    for name in set(element.attrib) - _KEPT[str(element.tag)]:
        del element.attrib[name]
    for child in list(element):
        if child.tag in _KEPT:
            _prune(child)
        if child.tag not in _KEPT or (child.tag == "g" and not len(child)):
            element.remove(child)
