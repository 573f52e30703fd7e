"""The built site: no broken link, nothing loaded from elsewhere, all pages there."""

import html.parser
import re
import urllib.parse

import pytest
from paths import ROOT

pytestmark = pytest.mark.site
SITE = ROOT / "site"


class Page(html.parser.HTMLParser):
    """The targets, links and loaded files of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(attrs["href"])
        if tag in ("img", "script", "iframe", "video") and attrs.get("src"):
            self.loaded.append(attrs["src"])


@pytest.fixture(scope="module")
def pages():
    # 404.html is shown at any address: its links are absolute.
    paths = [path for path in SITE.rglob("*.html") if path.name != "404.html"]
    assert paths, "run `make docs` first"
    return {path: Page(path) for path in paths}


def test_links_lead_somewhere(pages):
    for path, page in pages.items():
        for link in page.links + page.loaded:
            address = urllib.parse.urlsplit(link)
            if address.scheme:
                continue
            target = path
            if address.path:
                target = (path.parent / urllib.parse.unquote(address.path)).resolve()
            assert target.exists(), f"{path}: {link}"
            if target in pages and address.fragment not in ("", "__tabbed"):
                anchor = urllib.parse.unquote(address.fragment)
                assert anchor in pages[target].ids, f"{path}: {link}"


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        for address in page.loaded:
            assert not urllib.parse.urlsplit(address).netloc, f"{path}: {address}"


def test_pages_of_the_navigation_are_built():
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    entries = re.findall(r"- (?:.*: )?(\S+)\.md$", settings, re.MULTILINE)
    assert len(entries) > 20
    for entry in entries:
        assert (SITE / f"{entry}.html").exists(), entry
