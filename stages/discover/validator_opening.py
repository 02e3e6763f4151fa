"""The PoC validator as the settings describe it."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

from millrace.errors import Permanent
from millrace.settings import Settings
from protocols.computechain.keystore import Keystore
from protocols.http_json import mask_keys_in
from protocols.validator.link import WEBSOCKET_SCHEMES, OpenLink, authorization, validator_label
from protocols.validator.polling import base_of, polling_link
from protocols.validator.websocket import websocket_link
from stages.discover.validator import Inbox
from stages.discover.validator_conversation import Conversation
from stages.drain import DrainMark
from stages.submit.validator import Answers

_logger = logging.getLogger(__name__)


def open_conversation(settings: Settings, inbox: Inbox, answers: Answers) -> Conversation:
    """The conversation with the validator, not yet begun. Raises Permanent for a setting that is missing or wrong."""
    return Conversation(
        link_of(settings),
        inbox,
        answers,
        validator=validator_label(settings.validator.url),
        worker_address=address_of(settings),
        backlog=settings.validator.backlog,
        clock=time.time,
        draining=DrainMark(settings.data_dir).is_set,
    )


def link_of(settings: Settings) -> OpenLink:
    """How a link to the validator is opened. Raises Permanent for a setting that is missing or wrong."""
    own = settings.validator
    address, token = address_of(settings), own.token.get_secret_value() if own.token else ""
    validator_label(own.url)
    mask_keys_in(own.url)
    authorization(token)
    if token and urlsplit(own.url).username is not None:
        raise Permanent(
            "MILLRACE_VALIDATOR__URL names a user, and MILLRACE_VALIDATOR__TOKEN is set: a validator reads one of them",
            hint="leave one of them out",
        )
    scheme = own.url.partition(":")[0].lower()
    if token and scheme in ("ws", "http"):
        _logger.warning("the validator's token travels in clear: %s:// is not encrypted, %ss:// is", scheme, scheme)
    if scheme in WEBSOCKET_SCHEMES:
        return lambda: websocket_link(own.url, token, ping_seconds=own.ping_seconds)
    base_of(own.url)
    return lambda: polling_link(own.url, token, worker_address=address, poll_seconds=own.poll_seconds)


def folder_of(settings: Settings) -> Path:
    """Where the jobs and answers of this validator and address are: another one's ids say nothing about them."""
    name = f"{validator_label(settings.validator.url)}/{address_of(settings)}"
    return settings.data_dir / "validator" / hashlib.sha256(name.encode()).hexdigest()[:16]


def address_of(settings: Settings) -> str:
    """The address that answers are given for. Raises Permanent if there is none."""
    if settings.validator.worker_address:
        return settings.validator.worker_address
    compute = settings.computechain
    if not compute.key_name:
        raise Permanent(
            "there is no address to answer the validator for",
            hint="set MILLRACE_VALIDATOR__WORKER_ADDRESS, or MILLRACE_COMPUTECHAIN__KEY_NAME for the key's",
        )
    return Keystore(compute.keystore).load(compute.key_name).address
