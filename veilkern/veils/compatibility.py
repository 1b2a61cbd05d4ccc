"""Which veils may lie in one bank: those of one network, size, key and, but for when to stop, configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veilkern.veils.bank import VeilBank

# What decides when a person's steps end, or how many photos are worked on at a time: veils that differ in these alone
# may lie in one bank. The seed is a key, and compared as one.
_NO_DIFFERENCE = ("early_stop", "stop_distance", "stop_improvement", "patience", "photos_in_flight", "seed")

# What a configuration written before these fields were there meant.
_BEFORE = {"scheme": "blend", "levels": 64, "rounds": 20, "robust": "none", "precision": "float32"}
_RENAMED = {"variance": "block_form"}  # since


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of whatever version, by the fields of this one."""
    return _BEFORE | {_RENAMED.get(name, name): value for name, value in config.items()}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The fields in which two configurations (as_dict) give different veils, with both values."""
    before, now = current(before), current(now)
    return [
        f"{name} {before.get(name, 'absent')} (now {now.get(name, 'absent')})"
        for name in sorted({*before, *now})
        if name not in _NO_DIFFERENCE and before.get(name) != now.get(name)
    ]


def begun_as(bank: VeilBank) -> dict[str, Any]:
    """What the veils of a bank were begun with, as a journal's header has it."""
    return {
        "network": bank.model.get("name"),
        "fingerprint": bank.model.get("fingerprint", ""),
        "size": list(bank.size),
        "config": bank.config,
        "key_id": bank.key_id,
        "key": bank.key,
    }


def refuse_differences(where: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """ValueError unless veils begun as `before` and as `now` say (see `describe`) may lie in one bank. It names what
    differs, with both values."""
    found = [
        f"{label} {before[name]} (now {now[name]})"
        for name, label in (("size", "photo size"), ("key_id", "key id"))
        if before[name] != now[name]
    ]
    if before["fingerprint"] != now["fingerprint"]:
        found.append(
            f"network {before['network']} {before['fingerprint'][:12]} (now {now['network']} {now['fingerprint'][:12]})"
        )
    if found := found + differences(before["config"], now["config"]):
        raise ValueError(f"{where}: crafted with another {', '.join(found)}")
