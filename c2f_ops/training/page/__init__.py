"""An evaluation as one HTML page."""

from .html import write_page

__all__ = ["write_page"]
