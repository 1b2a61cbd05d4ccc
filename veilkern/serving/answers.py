"""Answers: photos as PNG, several of them as multipart/form-data, raw ones with their shape in headers."""

from __future__ import annotations

import secrets

import numpy as np
from starlette.responses import Response

Part = tuple[str, str, bytes]  # name of the field, of the file, its bytes


def photos(parts: list[Part]) -> Response:
    """One photo as image/png, with its name; several as multipart."""
    if len(parts) == 1:
        _, name, data = parts[0]
        return Response(data, media_type="image/png", headers={"content-disposition": f"inline; {_filename(name)}"})
    return multipart(parts)


def multipart(parts: list[Part]) -> Response:
    """multipart/form-data of PNG files (RFC 7578), as browsers read with response.formData()."""
    boundary = secrets.token_hex(16)  # 128 random bits: in no photo
    body = bytearray()
    for field, name, data in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{_quoted(name)}"\r\n'
        body += head.encode() + b"Content-Type: image/png\r\n\r\n" + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return Response(bytes(body), media_type=f"multipart/form-data; boundary={boundary}")


def raw(array: np.ndarray) -> Response:
    """The bytes of photos [n, H, W, 3], little-endian."""
    data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    headers = {"x-shape": ",".join(map(str, data.shape)), "x-dtype": str(array.dtype)}
    return Response(data.tobytes(), media_type="application/octet-stream", headers=headers)


def png_name(name: str) -> str:
    """The name of what is made of an upload of that name."""
    name = name.replace("\\", "/").rpartition("/")[2] or "photo"
    return name if name.lower().endswith(".png") else f"{name}.png"


def _quoted(name: str) -> str:
    """As browsers write names into multipart (WHATWG): quotes and line ends escaped."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _filename(name: str) -> str:
    """For a header: ASCII as it is, all else by RFC 5987."""
    from urllib.parse import quote

    plain = name.isascii() and name.isprintable() and not set(name) & set('"\\')
    return f'filename="{name}"' if plain else f"filename*=UTF-8''{quote(name, safe='')}"
