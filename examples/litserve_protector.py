"""LitServe puts requests together; a batch of mixed people is one call of the Protector."""

import base64

import litserve as ls
import numpy as np
from fastapi import HTTPException
from from_environment import protector


class Protect(ls.LitAPI):
    def setup(self, device):
        self.veils = protector("cpu" if device in ("cpu", "mps") else device)

    def decode_request(self, request):
        photo = np.frombuffer(base64.b64decode(request["photo"]), np.uint8)
        if request["person"] not in self.veils or photo.size != 3 * np.prod(self.veils.bank.size):
            raise HTTPException(422, "wanted a person who has a veil, and a photo of the bank's size")
        return request["person"], photo.reshape(*self.veils.bank.size, 3)

    def batch(self, inputs):
        people, photos = zip(*inputs, strict=True)
        return list(people), np.stack(photos)

    def predict(self, batch):
        people, photos = batch
        return self.veils.protect(photos, people, layout="NHWC")

    def unbatch(self, output):
        return list(output)

    def encode_response(self, photo):
        return {"photo": base64.b64encode(photo.tobytes()).decode()}


def server() -> ls.LitServer:
    return ls.LitServer(Protect(max_batch_size=64, batch_timeout=0.002), accelerator="auto")


if __name__ == "__main__":
    server().run(port=8000, generate_client_file=False)
