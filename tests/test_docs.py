"""The documentation site: its pages run, are all reachable, and its reference has every public name once."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import mirrored_pages
import plain_docstrings
import public_api
import pytest
from pages import ROOT, Block, blocks_of, run_page

import bpnet as bp

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.stem not in mirrored_pages.MIRRORED)
# Two programs side by side, and a package with its test: tests/test_nnfs.py and tests/test_readme.py run them.
RUN_ELSEWHERE = ("from-nnfs", "write-a-backend")
RUN = [page for page in PAGES if blocks_of(page) and page.stem not in RUN_ELSEWHERE]
# Importing some modules needs what an extra brings; their examples are tested where it is there.
MODULES = sorted(
    each.name for each in pkgutil.walk_packages(bp.__path__, "bpnet.") if not each.name.startswith("bpnet.commands")
)
SHOW_BY_EXAMPLE = ("Sequential", "Dense", "Trainer", "SoftmaxCrossEntropy", "Adam", "Dataset", "predict", "load")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path) -> None:
    for extra in re.findall(r"^<!-- needs: (\w+) -->$", page.read_text("utf-8"), flags=re.MULTILINE):
        pytest.importorskip(extra)
    for block, printed in run_page(page, tmp_path):
        if block.expected is not None:
            assert printed == block.expected, f"{block.place}; python tests/pages.py docs/{page.name} writes it anew"


def test_a_page_that_says_something_else_or_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\nprint(x)\n```\n\n```text\n2\n```\n\nand\n\n```python\nprint(x + 1)\n```\n")
    (first, printed), (second, later) = run_page(page, tmp_path)
    assert isinstance(first, Block)
    assert (first.expected, printed) == ("2\n", "1\n")
    assert (second.expected, later) == (None, "2\n")
    page.write_text("words\n\n```python\nraise ValueError('broken')\n```\n")
    with pytest.raises(AssertionError, match="(?s)page.md, line 4.*ValueError: broken"):
        run_page(page, tmp_path)


def test_every_page_stands_in_a_table_of_contents() -> None:
    found = set()
    for index in (DOCS / "index.md", DOCS / "reference" / "index.md"):
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", index.read_text("utf-8"), flags=re.M | re.S):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            found |= {(index.parent / f"{name}.md").resolve() for name in names}
    assert found == set(DOCS.rglob("*.md")) - {DOCS / "index.md"} - set((DOCS / "_build").rglob("*.md"))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    if DOCS / "_build" in page.parents:
        return
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name}: {target}"


def test_every_public_name_stands_in_the_reference_once() -> None:
    shown: list[str] = []
    for page in (DOCS / "reference").glob("*.md"):
        for group in re.findall(r"^\.\. public:: (\w+)$", page.read_text("utf-8"), flags=re.MULTILINE):
            assert group == page.stem
            shown += public_api.members(group)
    assert len(shown) == len(set(shown))
    objects = [id(public_api.entries()[name][2]) for name in shown]
    assert len(objects) == len(set(objects))
    for name in bp.__all__:
        value = getattr(bp, name)
        if not isinstance(value, ModuleType):
            assert id(value) in objects, name
        else:
            names = public_api.names_of(value)
            assert names, name
            assert {id(getattr(value, each)) for each in names} <= set(objects), name


@pytest.mark.parametrize(
    ("line", "rst"),
    [
        ("x : (N, I); W : (I, O)", ["``x``", "    (N, I)", "``W``", "    (I, O)", ""]),
        ("n_in, n_out : sizes, at least 1", ["``n_in``, ``n_out``", "    sizes, at least 1", ""]),
        ("The `Dense` of `W` and x_; |x| * 2.", [":py:obj:`Dense <bpnet.Dense>` of ``W`` and x\\_; \\|x\\| \\* 2."]),
        ("Raises ShapeError, or what not.", ["Raises :py:obj:`ShapeError <bpnet.ShapeError>`, or what not.", ""]),
        (">>> x_ * 2", [">>> x_ * 2"]),
    ],
)
def test_plain_docstrings_become_markup(line: str, rst: list[str]) -> None:
    made = plain_docstrings.as_rst([line])
    assert made[: len(rst)] == rst or rst[0] in made[0]


def test_a_definition_goes_on_over_several_lines() -> None:
    lines = ["loss : what is", "       made small; x : (N, C)", "Raises nothing."]
    assert plain_docstrings.as_rst(lines) == [
        *("``loss``", "    what is made small", "``x``", "    (N, C)", ""),
        *("Raises nothing.", ""),
    ]


def test_a_definition_goes_on_in_small_letters() -> None:
    made = plain_docstrings.as_rst(["x : (N, C), one for each", "of the rows", "The rest."])
    assert made == ["``x``", "    (N, C), one for each of the rows", "", "The rest.", ""]


def test_lines_that_were_meant_as_lines_stay_lines() -> None:
    long = "word " * 21 + "w"
    assert plain_docstrings.as_rst([long, "of a paragraph"]) == [f"{long} of a paragraph", ""]
    assert plain_docstrings.as_rst(["m += g", "v += g^2"]) == ["| m += g", "| v += g^2", ""]


def test_terms_one_below_the_other_share_their_definition() -> None:
    made = plain_docstrings.as_rst(["Known are", '"mnist",', '"fashion-mnist" : images'])
    assert made == ["Known are", "", '``"mnist"``, ``"fashion-mnist"``', "    images", ""]


def test_links_between_the_repository_and_the_site_are_translated() -> None:
    def translated(text: str, folder: str, page: str) -> str:
        return mirrored_pages.rewritten(text, ROOT / folder, page)

    assert translated("[why](../backends/README.md)", "docs", "design") == "[why](backends.md)"
    assert translated("[why](../backends/README.md#x)", "docs", "a/b") == "[why](../backends.md#x)"
    assert translated("[p](../docs/design.md)", "backends", "backends") == "[p](design.md)"
    assert translated("[c](https://x.org/y)", "docs", "design") == "[c](https://x.org/y)"
    assert translated("[b](../benchmarks/README.md)", "docs", "x") == "b (`benchmarks/README.md` in the repository)"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "bpnet.__main__":
        return
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"an extra is not installed: {error}")
    monkeypatch.chdir(tmp_path)
    with bp.use_backend("numpy"):
        assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", SHOW_BY_EXAMPLE)
def test_what_a_reader_meets_first_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(bp, name).__doc__ or "")
