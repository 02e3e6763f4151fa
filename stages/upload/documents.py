"""Upload what a job produced: the result its network asks for, and the evidence behind it."""

from __future__ import annotations

import base64

from pydantic import BaseModel, ConfigDict

from protocols.ipfs.content import Content
from stages.upload.ipfs import Uploaded, upload_content


class Published(BaseModel):
    """A job's result and its evidence, each under its CID."""

    model_config = ConfigDict(frozen=True)

    result: Uploaded
    evidence: Uploaded


async def publish_documents(name: str, result: str, evidence: str, *, content: Content) -> Published:
    """Upload both documents, the evidence first: a result that people can see has its evidence behind it.

    `name` labels them where a back end shows names. Errors are those of `upload_content`.
    """
    behind = await publish_text(evidence, f"{name}-evidence.json", content=content)
    return Published(result=await publish_text(result, f"{name}-result.json", content=content), evidence=behind)


async def publish_text(text: str, name: str, *, content: Content) -> Uploaded:
    """Upload one text as UTF-8. Errors are those of `upload_content`."""
    return await upload_content(text.encode(), name, content=content)


async def publish_bytes(name: str, result_base64: str, evidence: str, *, content: Content) -> Published:
    """Upload a result that need not be text, and its evidence, in the order of `publish_documents`."""
    behind = await publish_text(evidence, f"{name}-evidence.json", content=content)
    result = await upload_content(base64.b64decode(result_base64), f"{name}-result", content=content)
    return Published(result=result, evidence=behind)
