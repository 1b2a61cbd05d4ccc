"""The Protector that other examples serve: VEILKERN_BANK names the bank, VEILKERN_KEY_FILE the key of a sealed one."""

import os

import veilkern as vk


def protector(device: str = "cpu") -> vk.Protector:
    key_file = os.environ.get("VEILKERN_KEY_FILE")
    bank = vk.VeilBank.load(os.environ["VEILKERN_BANK"])
    return vk.Protector(bank, device, key=vk.read_key(key_file) if key_file else None)
