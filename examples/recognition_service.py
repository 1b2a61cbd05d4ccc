"""A face-recognition service as a client sees it: crops go there, embeddings come back. It need not know of veils.

The protocol is that of InsightFace-REST's /extract with embed_only: JSON with base64 images, an embedding `vec` of
each. Protected crops are images like any other, so the unchanged service recognises the person by them.
"""

import base64
import json
import urllib.request

import numpy as np


class RecognitionService:
    """url: of the service, such as http://127.0.0.1:18081."""

    def __init__(self, url: str, timeout: float = 30.0):
        self._url, self._timeout = f"{url.rstrip('/')}/extract", timeout

    def embeddings(self, crops: list[bytes]) -> np.ndarray:
        """float32 [n, d], L2-normalised, of image files (PNG, JPEG) of n aligned crops. RuntimeError where one of them
        could not be read there."""
        asked = {"images": {"data": [base64.b64encode(crop).decode() for crop in crops]}, "embed_only": True}
        request = urllib.request.Request(
            self._url, json.dumps(asked).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self._timeout) as answer:
            entries = json.load(answer)["data"]
        found = []
        for place, entry in enumerate(entries):
            faces = entry.get("faces", [entry])
            if entry.get("status", "ok") != "ok" or len(faces) != 1 or faces[0].get("vec") is None:
                raise RuntimeError(f"image {place}: {entry.get('traceback') or 'no embedding'}")
            found.append(faces[0]["vec"])
        vectors = np.asarray(found, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Gallery:
    """Who is enrolled, and who is like a probe: what the service's database does."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._templates: list[np.ndarray] = []

    def enrol(self, name: str, embeddings: np.ndarray) -> None:
        """A person by the mean of these embeddings [n, d]."""
        mean = embeddings.mean(0)
        self._names.append(name)
        self._templates.append(mean / np.linalg.norm(mean))

    def identify(self, embeddings: np.ndarray) -> list[tuple[str, float]]:
        """Of each probe [n, d] the person most like it, and the cosine."""
        cosines = embeddings @ np.stack(self._templates).T
        return [(self._names[best], float(row[best])) for row, best in zip(cosines, cosines.argmax(1), strict=True)]
