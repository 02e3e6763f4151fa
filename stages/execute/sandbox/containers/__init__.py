"""Jobs in containers of the machine's own Docker daemon."""

from __future__ import annotations
