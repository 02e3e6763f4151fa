"""Imported by the fork server of a worker that serves OffchainVM: flow runs then find the WASM runtime started."""

from __future__ import annotations

import logging

from flows.networks import networks
from flows.wasm import warm_up
from millrace.errors import MillraceError
from millrace.redaction import redact
from millrace.settings import load_settings

try:
    _settings = load_settings()
    if networks()["offchainvm"].configured(_settings):
        warm_up(_settings)
except MillraceError as error:
    # Nothing is lost: the first execution starts one, or says what is in the way.
    logging.getLogger(__name__).warning("the WASM runtime is not warm: %s", redact(str(error)))
