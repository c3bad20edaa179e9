"""Fixtures of these tests."""

from tests.pipelines import _short_blocks, pipeline, pipeline_settings, queue, queue_settings

__all__ = ["_short_blocks", "pipeline", "pipeline_settings", "queue", "queue_settings"]
