"""A route of a FastAPI service that answers a protected photo, raw uint8 [H, W, 3] in and out."""

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from from_environment import protector

app, veils = FastAPI(), protector()


@app.post("/protect/{person}")
async def protect(person: str, request: Request) -> Response:
    body = await request.body()
    if person not in veils or len(body) != 3 * np.prod(veils.bank.size):
        raise HTTPException(422, "wanted a person who has a veil, and a photo of the bank's size")
    photo = np.frombuffer(body, np.uint8).reshape(1, *veils.bank.size, 3)
    return Response(veils.protect(photo, person, layout="NHWC").tobytes())
