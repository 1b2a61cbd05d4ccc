"""Crafting: configuration, photo sampler, batch of identities, journal."""
