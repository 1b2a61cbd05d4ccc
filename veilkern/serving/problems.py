"""What goes wrong in a request, as the client is told: problem+json (RFC 9457), with a code for programs."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

STATUS = {
    "malformed": 400,
    "no_token": 401,
    "not_found": 404,
    "unknown_person": 404,
    "method": 405,
    "slow": 408,
    "conflict": 409,
    "too_large": 413,
    "media_type": 415,
    "bad_photo": 422,
    "failed": 500,
    "busy": 503,
    "deadline": 504,
    "storage": 507,
}
MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """code: of `STATUS`. detail: for people. problems: of each photo that is at fault, by its place in the request.
    headers: of the answer."""

    def __init__(self, code: str, detail: str, problems: list[dict[str, Any]] | None = None, **headers: str):
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.problems = code, detail, problems or []
        self.status = STATUS[code]
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code == "no_token":
            self.headers["www-authenticate"] = 'Bearer realm="veilkern"'

    def body(self) -> bytes:
        """The answer's JSON."""
        about: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.problems:
            about["problems"] = self.problems
        return json.dumps(about).encode()
