"""Traces by OpenTelemetry (extra `otel`): a span a request, by its route's template, without the URL and its names."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

WITH_NAMES = ("http.url", "http.target", "url.full", "url.path", "url.query")
_NEEDED = (
    "--otel needs opentelemetry-sdk, opentelemetry-instrumentation-fastapi and opentelemetry-exporter-otlp-proto-http: "
    "pip install 'veilkern[otel]'"
)


def trace(app: FastAPI) -> None:
    """A span for each request of this application. ValueError where the packages are missing."""
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    except ImportError as error:
        raise ValueError(_NEEDED) from error
    # Where headers are asked for, the token is not among them.
    os.environ.setdefault("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "authorization,cookie")
    FastAPIInstrumentor.instrument_app(app, server_request_hook=_without_names, exclude_spans=["receive", "send"])


def export() -> None:
    """Send this process's spans where OTEL_EXPORTER_OTLP_ENDPOINT says, unless the program around has set something up
    already. ValueError where the packages are missing."""
    try:
        from opentelemetry import trace as api
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(_NEEDED) from error
    if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        api.set_tracer_provider(provider)


def _without_names(span: Any, scope: Any) -> None:
    if span is not None and span.is_recording():
        for name in WITH_NAMES:
            span.set_attribute(name, "")
