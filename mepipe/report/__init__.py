"""Pages and pictures. Drawing libraries load on first use.

report_run(ws, run)                     write RUN/report.html
report_corpus(ws, corpus)               write WORKSPACE/prepared/<corpus>/report.html
report_pair(ws, first, second)          write FIRST/against-SECOND.html
report_table(ws, table)                 write WORKSPACE/tables/<table>.html
flow_picture(flow, limit)               flow in px -> RGB picture, direction = hue, length = saturation
prediction_picture(...)                 one clip and its probabilities, PNG
overview_picture(clips)                 some clips in one PNG
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "FlowClip": "compositions",
    "arrows_picture": "flowpictures",
    "colour_picture": "flowpictures",
    "confusion_picture": "plots",
    "curves_picture": "plots",
    "flow_legend": "flowpictures",
    "flow_picture": "colours",
    "magnitude_picture": "flowpictures",
    "overview_picture": "compositions",
    "prediction_picture": "compositions",
    "report_corpus": "corpus",
    "report_pair": "pair",
    "report_run": "page",
    "report_table": "table",
}
__all__ = [
    "FlowClip",
    "arrows_picture",
    "colour_picture",
    "confusion_picture",
    "curves_picture",
    "flow_legend",
    "flow_picture",
    "magnitude_picture",
    "overview_picture",
    "prediction_picture",
    "report_corpus",
    "report_pair",
    "report_run",
    "report_table",
]

if TYPE_CHECKING:
    from mepipe.report.colours import flow_picture
    from mepipe.report.compositions import FlowClip, overview_picture, prediction_picture
    from mepipe.report.corpus import report_corpus
    from mepipe.report.flowpictures import arrows_picture, colour_picture, flow_legend, magnitude_picture
    from mepipe.report.page import report_run
    from mepipe.report.pair import report_pair
    from mepipe.report.plots import confusion_picture, curves_picture
    from mepipe.report.table import report_table


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"mepipe.report.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'mepipe.report' has no attribute {name!r}")
