"""TensorBoard's "custom scalars" page for a run of our own: each metric's layers in one chart."""

from __future__ import annotations

import re

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from actdiag.write.stock import SITE_METRICS

_METRICS = (*SITE_METRICS, "update_ratio")


def add_layout(summary: Summary, front: str) -> None:
    """Add the layout to a summary. `front` is what stands before all tags of the monitor."""
    charts = [
        layout_pb2.Chart(
            title=metric, multiline=layout_pb2.MultilineChartContent(tag=[f"^{re.escape(front)}actdiag_{metric}/.*"])
        )
        for metric in _METRICS
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title=f"{front}actdiag, layer by layer", chart=charts)])
    summary.value.add(
        tag=metadata.CONFIG_SUMMARY_TAG,
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()]),
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)),
    )
