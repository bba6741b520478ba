"""The documentation builds without a warning, names the whole interface, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import REPOSITORY, blocks, pages

import convexcnn
from convexcnn.solvers.registry import BETA_SOLVERS, RIDGE_SOLVERS

pytestmark = pytest.mark.thorough


DOCS = REPOSITORY / "docs"
API = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]+?src=["'](?!data:)([^"']+)""")
STYLED = re.compile(
    r"""<link[^>]+?rel=["'](?:stylesheet|preload|icon)["'][^>]*?href=["']([^"']+)"""
)
LINK = re.compile(r"""<a[^>]+?href=["']([^"'#]+)(#[^"']*)?["']""")


@pytest.mark.parametrize("name", sorted(set(convexcnn.__all__) - {"__version__"}))
def test_every_public_name_has_an_entry(name: str) -> None:
    assert re.search(rf"^\.\. auto\w+:: convexcnn\.{name}$", API, re.M), f"docs/api lacks {name}"


@pytest.mark.parametrize("name", [*RIDGE_SOLVERS, *BETA_SOLVERS])
def test_every_solver_has_an_entry(name: str) -> None:
    assert f"\n### {name}\n" in API, f"docs/api/solvers.md lacks {name}"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {"index"}
    for page in pages():
        for block in blocks(page):
            if block.language == "{toctree}":
                folder = page.parent.relative_to(DOCS)
                names = (line for line in block.code.split() if not line.startswith(":"))
                listed |= {str(folder / name) for name in names}
    found = {
        str(page.relative_to(DOCS).with_suffix("")) for page in pages() if DOCS in page.parents
    }
    assert found <= listed, f"add to a toctree: {found - listed}"


def test_the_readme_links_the_documentation() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for page in ("index", "tutorial", "choosing", "certificates", "mathematics", "teaching"):
        assert f"(docs/{page}.md" in readme, f"README.md does not link docs/{page}.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run([*build, DOCS, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.timeout(600)
def test_the_site_builds_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for target in (*LOADED.findall(text), *STYLED.findall(text)):
            assert ":" not in target, f"{page.name} loads {target}"
            assert (page.parent / unquote(target.partition("?")[0])).is_file(), (page, target)


@pytest.mark.timeout(600)
def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            if ":" not in target:
                assert (page.parent / unquote(target)).exists(), f"{page.name} links {target}"


@pytest.mark.timeout(600)
def test_formulas_are_mathml_and_the_notebook_is_shown(site: Path) -> None:
    mathematics = (site / "mathematics.html").read_text(encoding="utf-8")
    assert mathematics.count("<math") > 50
    assert not re.search(
        r"\\(frac|sum|min|text)\b", re.sub(r"<annotation.*?</annotation>", "", mathematics)
    )
    teaching = (site / "teaching.html").read_text(encoding="utf-8")
    assert teaching.count("data:image/png") >= 3
