"""The Hugging Face hub, before a library asks it for something: what is said, and what happens without a network.

The libraries try for half a minute and more to reach a hub that is not there. So its address is looked up first: if
nobody knows it, they take what this machine has stored, or say at once that there is nothing.
"""

import logging
import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

_LOG = logging.getLogger(__name__)


@cache
def ask_hub(name: str, kind: str = "model") -> None:
    """Say, once, that `name` (a "model" or a "dataset") is fetched; without a network, keep to what is stored here."""
    from huggingface_hub import constants, try_to_load_from_cache

    first = "config.json" if kind == "model" else "README.md"
    if not isinstance(try_to_load_from_cache(name, first, repo_type=kind), str):
        _LOG.warning("%s is not on this machine: asking %s for it", name, constants.ENDPOINT)
    if not _is_known(urlsplit(constants.ENDPOINT).hostname or ""):
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for `datasets`, which reads it when it is imported


def _is_known(host: str) -> bool:
    """Whether the host has an address, or a proxy would know it."""
    if {"http", "https", "all"} & getproxies().keys():
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
