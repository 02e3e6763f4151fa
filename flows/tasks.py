"""The stages as tasks: the names that the Prefect UI shows, bound to the functions that do the work."""

from __future__ import annotations

from typing import Any

from flows.stage import Stage
from millrace.receipt import Receipt
from stages.admit import admit_job
from stages.execute import python
from stages.fetch.ipfs import Fetched, fetch_content
from stages.submit.record import settle_and_record
from stages.upload.documents import Published, publish_documents, publish_text
from stages.upload.ipfs import Uploaded

admit: Stage[Any] = Stage("admit", admit_job, cached=False)
fetch: Stage[Fetched] = Stage("fetch", fetch_content)
execute_python: Stage[python.Execution] = Stage("execute", python.execute_python)
upload: Stage[Published] = Stage("upload", publish_documents)
publish: Stage[Uploaded] = Stage("upload", publish_text)
settle: Stage[Receipt] = Stage("settle", settle_and_record, cached=False)
