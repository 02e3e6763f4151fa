from __future__ import annotations


class Tools:
    """A workbench whose tools are given."""

    def __init__(self, **tools: object) -> None:
        self.tools = tools
        self.stage_seconds: dict[str, float] = {}
        self.worked_seconds = 0.0
        self.reused: set[str] = set()

    async def tool(self, name: str) -> object:
        return self.tools[name]
