"""Metrics for Prometheus. Nothing here has a name of a person, a photo or a key; routes are templates, never URLs."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # where several worker processes add up theirs (prometheus_client)


class Metrics:
    """One set a process (`METRICS`): counters and histograms that workers add up, gauges of each worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("veilkern_requests", "Answers by route and status.", ["route", "status"], registry=r)
        self.errors = Counter("veilkern_errors", "Problems by route and code.", ["route", "code"], registry=r)
        self.photos = Counter("veilkern_photos", "Photos by what was done to them.", ["task"], registry=r)
        self.seconds = Histogram(
            "veilkern_request_seconds",
            "From a request's head to its answer's end.",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self.batch = Histogram("veilkern_batch_photos", "Photos of one batch.", ["task"], buckets=_PHOTOS, registry=r)
        self.reloads = Counter("veilkern_bank_reloads", "Banks read, by outcome.", ["outcome"], registry=r)
        self.jobs = Counter("veilkern_jobs", "Jobs by kind and end.", ["kind", "status"], registry=r)
        self.in_flight = Gauge("veilkern_in_flight", "Requests being served.", multiprocess_mode="livesum", registry=r)
        self.waiting = Gauge(
            "veilkern_waiting_photos", "Photos that wait for a batch.", multiprocess_mode="livesum", registry=r
        )
        self.bank = Gauge("veilkern_bank_veils", "Veils of the bank in use.", multiprocess_mode="livemax", registry=r)

    def exposition(self) -> tuple[bytes, str]:
        """What /metrics answers, of all worker processes, and its media type."""
        if os.environ.get(_DIRECTORY):
            from prometheus_client import multiprocess

            together = CollectorRegistry()
            multiprocess.MultiProcessCollector(together)
            return generate_latest(together), CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


METRICS = Metrics()
