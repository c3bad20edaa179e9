"""Fixtures of these tests."""

from tests.pipelines import pipeline, pipeline_settings, queue, queue_settings

__all__ = ["pipeline", "pipeline_settings", "queue", "queue_settings"]
