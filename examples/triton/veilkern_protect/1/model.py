"""Triton Inference Server, Python backend: protects photos uint8 [n, H, W, 3] of the persons named [n, 1].

The requests of a batch, of mixed people, are one call of the Protector; one at fault is answered alone. VEILKERN_BANK
and VEILKERN_KEY_FILE are those of the server's environment.
"""

import os

import numpy as np
import triton_python_backend_utils as pb_utils

import veilkern as vk


class TritonPythonModel:
    def initialize(self, args):
        key_file = os.environ.get("VEILKERN_KEY_FILE")
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        bank = vk.VeilBank.load(os.environ["VEILKERN_BANK"])
        self.veils = vk.Protector(bank, device, key=vk.read_key(key_file) if key_file else None)

    def execute(self, requests):
        taken = [self._taken(request) for request in requests]
        right = [one for one in taken if not isinstance(one, str)]
        hidden = iter(())
        if right:
            photos, people = np.concatenate([p for p, _ in right]), [name for _, names in right for name in names]
            found = self.veils.protect(photos, people, layout="NHWC")
            hidden = iter(np.split(found, np.cumsum([len(p) for p, _ in right])[:-1]))
        return [self._answer(one, hidden) for one in taken]

    def _taken(self, request):
        """Photos and names of a request, or what is wrong with it."""
        photos = pb_utils.get_input_tensor_by_name(request, "PHOTO").as_numpy()
        names = [n.decode() for n in pb_utils.get_input_tensor_by_name(request, "PERSON").as_numpy().ravel()]
        if photos.shape != (len(names), *self.veils.bank.size, 3):
            return f"PHOTO must be [{len(names)}, {self.veils.bank.size[0]}, {self.veils.bank.size[1]}, 3]"
        if any(name not in self.veils for name in names):
            return "PERSON: nobody of that name has a veil"
        return photos, names

    def _answer(self, taken, hidden):
        if isinstance(taken, str):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(taken))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("PROTECTED", next(hidden))])
