"""CloudMesh jobs from chain to chain, with real processes that are really killed."""

from __future__ import annotations

import json
import signal

import httpx
import pytest

from flows.reconcile import reconcile
from tests_stack import Stack
