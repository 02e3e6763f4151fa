from __future__ import annotations

from pathlib import Path

from deployments.settings_page import settings_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_settings_page_is_what_the_settings_say() -> None:
    """Mended by: millrace settings > docs/settings.md."""
    assert PAGE.read_text() == settings_page()
