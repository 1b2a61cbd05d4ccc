"""What /openapi.json says of the routes: FastAPI cannot read bodies that are taken in by hand off their functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from veilkern.serving.problems import MEDIA_TYPE, STATUS

DESCRIPTION = "Protects photos of people with their veils, and recovers them. docs/serving.md tells all of it."
_PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_MULTIPART = {"multipart/form-data": {"schema": {"type": "string", "format": "binary"}}}
_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FORM = {
    "type": "object",
    "required": ["person", "photo"],
    "properties": {
        "person": {"type": "array", "items": {"type": "string"}, "description": "one a photo, or one for all"},
        "photo": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}
_UPLOAD: dict[str, Any] = {
    "multipart/form-data": {"schema": _FORM, "example": {"person": ["Ada"], "photo": ["(bytes of a.png)"]}}
}
_FEATURES = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "features": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            },
            "required": ["features"],
        },
        "example": {"names": ["Eve"], "features": [[0.12, -0.7, 0.33]]},
    }
}
_TRUTH = {"type": "boolean", "default": False}
_JOB = {
    "job": "8f1d0c5e9a7b4632",
    "kind": "add",
    "status": "running",
    "done": 40,
    "total": 80,
    "people": [{"name": "Eve", "status": ""}],
    "detail": "",
}


def _query(name: str, schema: dict[str, Any], description: str, example: Any = None) -> dict[str, Any]:
    found = {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
    return found if example is None else found | {"example": example}


_RESIZE = [
    _query("resize", _TRUTH, "bring photos of another size to the bank's"),
    _query("convert", _TRUTH, "turn greyscale, RGBA and 16-bit photos into 8-bit RGB"),
]
_PERSON = _query(
    "person", {"type": "array", "items": {"type": "string"}}, "of raw photos: one a photo, or one for all", ["Ada"]
)
_QUERIES = {
    "protect": [_query("lossless", _TRUTH, "16 bits a value, recovered exactly"), *_RESIZE, _PERSON],
    "recover": [
        _query("gaussian_sigma", {"type": "number"}, "smooth the result, pixels", 0.8),
        _query("force", _TRUTH, "do not look at mark and tag"),
        _query("dtype", {"enum": ["uint8", "uint16"], "default": "uint8"}, "of raw photos"),
        _PERSON,
    ],
    "explore": [
        _query("scheme", {"enum": ["blend", "sealed"]}, "default: the bank's"),
        _query("alpha", {"type": "number", "minimum": 0, "maximum": 1}, "of blend", 0.2),
        _query("levels", {"enum": [16, 32, 64, 128]}, "of sealed", 64),
        *_RESIZE,
    ],
    "list_veils": [
        _query("after", {"type": "string"}, "the last name of the page before"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000}, "persons of a page"),
    ],
    "add_veils": _RESIZE,
    "rotate_veil": _RESIZE,
    "remove_veil": [_query("confirm", {"type": "string"}, "the name again", "Eve")],
}
_BODIES = {
    "protect": _UPLOAD | _OCTETS,
    "recover": _UPLOAD | _OCTETS,
    "explore": _UPLOAD,
    "add_veils": _UPLOAD | _FEATURES,
    "rotate_veil": _UPLOAD | _FEATURES,
}
_ANSWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "protect": (200, _PNG | _MULTIPART | _OCTETS),
    "recover": (200, _PNG | _MULTIPART | _OCTETS),
    "explore": (200, _MULTIPART),
    "list_veils": (
        200,
        {
            "application/json": {
                "example": {
                    "veils": 1,
                    "people": [{"name": "Ada", "status": "converged", "generation": 0}],
                    "next": None,
                }
            }
        },
    ),
    "add_veils": (202, {"application/json": {"example": _JOB}}),
    "rotate_veil": (202, {"application/json": {"example": _JOB | {"kind": "rotate"}}}),
    "list_jobs": (200, {"application/json": {"example": {"jobs": [_JOB]}}}),
    "show_job": (200, {"application/json": {"example": _JOB}}),
    "cancel_job": (202, {"application/json": {"example": _JOB}}),
    "remove_veil": (200, {"application/json": {"example": {"removed": "Eve", "veils": 41}}}),
}
_OF_UPLOADS = ("malformed", "slow", "conflict", "too_large", "media_type", "bad_photo", "busy", "deadline")
_PROBLEMS = {
    "protect": (*_OF_UPLOADS, "unknown_person"),
    "recover": (*_OF_UPLOADS, "unknown_person"),
    "explore": (*_OF_UPLOADS, "unknown_person"),
    "add_veils": (*_OF_UPLOADS, "storage"),
    "rotate_veil": (*_OF_UPLOADS, "unknown_person", "storage"),
    "list_veils": ("malformed", "unknown_person"),
    "list_jobs": (),
    "show_job": ("not_found",),
    "cancel_job": ("not_found", "conflict"),
    "remove_veil": ("malformed", "unknown_person", "storage"),
}


def about(function: Callable[..., Any], path: str, role: str, protect_wants_token: bool) -> dict[str, Any]:
    """Arguments of FastAPI's add_api_route for this route."""
    name = function.__name__
    needs_token = role != "protect" or protect_wants_token
    codes = list(_PROBLEMS.get(name, _PROBLEMS["protect"])) + (["no_token"] if needs_token else [])
    status, content = _ANSWERS.get(name, (200, {"application/json": {}}))
    problems: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        one = problems.setdefault(STATUS[code], {"description": "", "content": {MEDIA_TYPE: {}}})
        one["description"] = f"{one['description']}, {code}".strip(", ")
    inside = [
        {"name": part, "in": "path", "required": True, "schema": {"type": "string"}}
        for part in re.findall(r"{(\w+)}", path)
    ]
    extra: dict[str, Any] = {"parameters": inside + _QUERIES.get(name, [])}
    if name in _BODIES:
        extra["requestBody"] = {"required": True, "content": _BODIES[name]}
    if needs_token:
        extra["security"] = [{"token": []}]
    return {
        "tags": [role],
        "status_code": status,
        "responses": {status: {"description": "done", "content": content}, **problems},
        "openapi_extra": extra,
        "response_model": None,
    }


def documented(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """For app.openapi: the document, saying what the token is."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        found = plain()
        schemes = found.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer", "description": "that of VEILKERN_TOKEN"}
        return found

    return document
