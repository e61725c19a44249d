"""Results as one page of HTML that needs no network: tables, charts, images, commands.

`gathering` reads what was given into frozen records, `axes` and `charts` draw them as SVG, and `rendering` writes the
page. Names, labels and captions come from other people, and are text wherever they go.
"""

from genbench.page.gathering import Page, gathered
from genbench.page.rendering import rendered

__all__ = ["Page", "gathered", "rendered"]
