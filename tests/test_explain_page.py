"""The page of `bp.explain`, in a browser: stepped through by key, click and tap, on a desk and on a phone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_explain import chapter_layer, neuron

import bpnet as bp

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def one_neuron() -> bp.Layer:
    model: bp.Layer = neuron()
    return model


def neuron_page() -> str:
    return bp.explain(one_neuron(), [[1.0, -2.0, 3.0]], dvalues=[[1.0]]).html()


def layers_page() -> str:
    """Three samples, two layers, softmax and a loss; neuron 1 is off for sample 1."""
    model = chapter_layer(None, bp.ReLU(), bp.Dense(3, 3))
    x = [[1.0, 2.0, 3.0, 2.5], [2.0, 5.0, -1.0, 2.0], [-1.5, 2.7, 3.3, -0.8]]
    return bp.explain(model, x, bp.SoftmaxCrossEntropy(), [0, 1, 1]).html()


def large_page() -> str:
    model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dropout(0.2), bp.Residual(bp.Dense(32, 32), bp.Tanh()))
    model.initialize()
    return bp.explain(model, np.random.default_rng(0).normal(size=(8, 64))).html()


def mixed_page() -> str:
    """Boxes, branches, sums and chains, with numbers of every size."""
    rng = np.random.default_rng(0)
    layers = [
        bp.Normalize(4).fit(rng.normal(2, 3, (50, 4))),
        bp.GLU(),
        bp.Concatenate(bp.Dense(2, 2), bp.Sigmoid()),
        bp.Residual(bp.Dense(4, 4), bp.Softplus()),
        bp.Dense(4, 3),
        bp.LogSoftmax(),
    ]
    x = rng.normal(size=(2, 4)) * [[1.0], [1e-4]]
    return bp.explain(bp.Sequential(*layers).initialize(), x, bp.NegativeLogLikelihood(), [0, 1]).html()


def failed_page() -> str:
    """A step that stopped a fit: infinities and NaN in the drawing, and what failed above it."""
    x, y = np.linspace(-1, 1, 64)[:, None], np.zeros((64, 1))
    x[37] = 1e30
    model = bp.Sequential(bp.Dense(1, 3), bp.Dropout(0.2), bp.ReLU(), bp.Dense(3, 1))
    trainer = bp.Trainer(model, bp.MeanSquaredError(), bp.SGD(0.1), backend="numpy")
    with pytest.raises(bp.NonFiniteError) as caught:
        trainer.fit(x, y, progress=False)
    text = caught.value.bundle.explain().html()
    assert '<p class="warning">the loss was NaN or infinite in step' in text
    return str(text)


# --- without a browser ---


@pytest.mark.parametrize("make", [neuron_page, layers_page, large_page, mixed_page, failed_page])
def test_the_page_names_no_address_and_is_small(make: Callable[[], str]) -> None:
    text = make()
    assert re.findall(r"(?:https?:)?//[a-z]", text) == []
    assert "default-src &#x27;none&#x27;" in text
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "@@" not in text
    assert len(text) < 1_500_000


def test_the_page_is_written_whole_or_refused(tmp_path: Path) -> None:
    explanation = bp.explain(one_neuron(), [[1.0, -2.0, 3.0]])
    explanation.page(tmp_path / "neuron.html")
    assert (tmp_path / "neuron.html").read_text("utf-8") == explanation.html()
    with pytest.raises(bp.CheckpointError, match="cannot write"):
        explanation.page(tmp_path)


def test_what_a_model_is_called_cannot_end_the_script() -> None:
    class Odd(bp.ReLU):
        def __repr__(self) -> str:
            return "</script><script>alert(1)</script>@@DATA@@"

    text = bp.explain(bp.Sequential(Odd()).initialize(), [[1.0]]).html()
    assert "<script>alert(1)" not in text
    assert text.count("</script>") == 2


def test_a_notebook_gets_the_page_in_a_frame() -> None:
    frame = bp.explain(one_neuron(), [[1.0, -2.0, 3.0]])._repr_html_()
    assert frame.startswith("<iframe title=")
    assert 'srcdoc="&lt;!doctype html&gt;' in frame


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: neither chromium nor google-chrome is on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a page; at the end nothing may have been complained of, and nothing asked for but the file."""
    heard: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(text: str, *, viewport: dict[str, int] = DESK, **settings: Any) -> Any:
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(text, "utf-8")
        context = browser.new_context(viewport=viewport, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def visible(page: Any, kind: str) -> list[str]:
    """The labels of the drawing that can be seen, from top to bottom as they stand in it."""
    found = page.eval_on_selector_all(
        f"#figure svg text.{kind}",
        "all => all.filter(e => e.getBoundingClientRect().width && !e.classList.contains('later'))"
        ".map(e => e.textContent)",
    )
    return list(found)


def steps_of(page: Any) -> int:
    return int(page.get_attribute("#slider", "max"))


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_arrow_keys_lead_through_the_neuron_to_dx(visit: Callable[..., Any], viewport: dict[str, int]) -> None:
    page = visit(neuron_page(), viewport=viewport)
    seen = []
    for _ in range(12):
        seen.append((page.text_content("#op"), len(visible(page, "value")), len(visible(page, "gradient"))))
        page.keyboard.press("ArrowRight")
    assert [op for op, _, _ in seen] == [
        *("mul", "mul", "mul", "sum", "ReLU", "upstream", "ReLU", "sum", "mul", "mul", "mul", "result")
    ]
    assert [values for _, values, _ in seen] == [8, 9, 10, 11, 12, 12, 12, 12, 12, 12, 12, 12]
    assert [gradients for _, _, gradients in seen] == [0, 0, 0, 0, 0, 1, 2, 6, 8, 10, 12, 12]
    assert "dx = [−3, −1, 2], dweight = [1, −2, 3], dbias = 1" in page.text_content("#words")
    assert visible(page, "value") == ["1", "−3", "−3", "−2", "−1", "2", "3", "2", "6", "1", "6", "6"]
    assert visible(page, "gradient") == ["−3", "1", "1", "−1", "−2", "1", "2", "3", "1", "1", "1", "1"]
    assert page.is_disabled("#next")
    page.keyboard.press("Home")
    assert page.text_content("#where").startswith("Step 1 of 12, forward")
    assert visible(page, "gradient") == []
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#where").startswith("Step 11 of 12, backward")


def test_buttons_the_slider_and_the_nodes_lead_there_too(visit: Callable[..., Any]) -> None:
    page = visit(neuron_page())
    page.click("#next")
    assert page.text_content("#where").startswith("Step 2 ")
    page.click("#back")
    assert page.text_content("#where").startswith("Step 1 ")
    page.click("#figure svg.wide .node[data-node=ReLU]")
    assert page.text_content("#op") == "ReLU"
    page.focus("#slider")
    page.keyboard.press("End")
    assert page.text_content("#op") == "result"
    page.click("#figure svg.wide .node[data-node=sum]")
    assert page.text_content("#where").startswith("Step 8 of 12, backward")
    rows = page.eval_on_selector_all("#rows tbody tr", "all => all.map(r => r.innerText.split(/\\s*\\t\\s*/))")
    assert rows[0] == ["x[0] × weight[0, 0]", "1", "1", "1"]


def test_a_tap_works_on_a_phone_and_nothing_is_wider_than_it(visit: Callable[..., Any]) -> None:
    for text in (neuron_page(), layers_page(), large_page(), failed_page()):
        for width in (320, 390, 768):
            page = visit(text, viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
            for _ in range(steps_of(page)):
                page.tap("#next")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.is_visible("#figure svg.tall") == (width < 640)
            sizes = page.eval_on_selector_all(
                "#figure svg text", "all => all.map(e => e.getBoundingClientRect().height).filter(h => h)"
            )
            assert min(sizes) > 9


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("make", [layers_page, large_page, mixed_page, failed_page])
def test_nothing_of_a_drawing_is_cut_off(
    visit: Callable[..., Any], make: Callable[[], str], viewport: dict[str, int]
) -> None:
    page = visit(make(), viewport=viewport, reduced_motion="reduce")
    for sample in page.locator("#choices button[aria-label^=Sample]").all_text_contents() or [None]:
        if sample is not None:
            page.click(f"#choices [aria-label='Sample {sample}']")
        page.keyboard.press("Home")
        for _ in range(steps_of(page) + 1):
            outside = page.evaluate("""() => {
                const box = document.getElementById("figure").getBoundingClientRect();
                return [...document.querySelectorAll("#figure text, #figure rect")].filter((e) => {
                    const r = e.getBoundingClientRect();
                    return r.width && (r.left < box.left || r.right > box.right || r.top < box.top
                                       || r.bottom > box.bottom);
                }).map((e) => e.textContent);
            }""")
            assert outside == []
            page.keyboard.press("ArrowRight")


def test_the_walk_goes_through_softmax_and_loss_and_back_through_every_layer(visit: Callable[..., Any]) -> None:
    page = visit(layers_page())
    ops = []
    for _ in range(steps_of(page) + 1):
        ops.append(page.text_content("#op"))
        page.keyboard.press("ArrowRight")
    forward = [*("mul",) * 4, "sum", "ReLU", *("mul",) * 3, "sum", "softmax", "loss"]
    backward = ["upstream", "loss", "softmax", "sum", *("mul",) * 3, "result"]
    assert ops == forward + backward + ["upstream", "ReLU", "sum", *("mul",) * 4, "result"]


def test_samples_and_neurons_are_chosen_and_a_zero_says_why(visit: Callable[..., Any]) -> None:
    page = visit(layers_page())
    page.click("text='1' >> nth=0")  # sample 1
    assert "sample 1" in page.text_content("#where")
    page.click("#choices [aria-label='Neuron 1']")
    assert "neuron 1, sample 1" in page.text_content("#where")
    assert page.get_attribute("#choices [aria-label='Neuron 1']", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Neuron 1"
    page.keyboard.press("End")
    assert page.text_content("#op") == "result"
    zero = page.locator("#figure svg.wide [data-why]").first
    zero.focus()
    page.keyboard.press("Enter")
    assert "the ReLU '1' is off at neuron 1 for sample 1: z = −1.81 is not above 0" in page.text_content(
        "#zeros .answer"
    )
    page.click("#zeros button >> nth=1")
    assert "The gradient of weight[0, 1] is 0 here" in page.text_content("#zeros .answer")
    page.click("#layers button >> nth=1")
    assert page.get_attribute("#layers button >> nth=1", "aria-current") == "step"


CONTRAST = """() => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = color; probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (e) => {
    const rect = e.closest(".node, .leaf")?.querySelector("rect");
    if (rect) return rgb(getComputedStyle(rect).fill);
    for (let p = e; p; p = p.parentElement) {
      const found = rgb(getComputedStyle(p).backgroundColor);
      if (found[3]) return found;
    }
  };
  const low = [];
  for (const e of document.querySelectorAll("h1, h2, p, button, small, span, th, td, caption, summary, svg text")) {
    if (!e.textContent.trim() || !e.getBoundingClientRect().width || e.closest("button:disabled")) continue;
    if (e.closest(".later")) continue;
    const style = getComputedStyle(e), own = rgb(e.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [a, b] = [light(own), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push([e.textContent, (a + 0.05) / (b + 0.05)]);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_in_light_and_dark(visit: Callable[..., Any], scheme: str) -> None:
    page = visit(layers_page(), color_scheme=scheme, reduced_motion="reduce")
    for _ in range(steps_of(page)):
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("ArrowRight")


def test_a_screen_reader_is_told_every_step_and_the_focus_goes_from_top_to_bottom(visit: Callable[..., Any]) -> None:
    page = visit(layers_page())
    assert page.get_attribute("#said", "aria-live") == "polite"
    assert page.get_attribute("html", "lang") == "en"
    order = []
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate("[document.activeElement.getBoundingClientRect().top, document.activeElement.id]"))
    tops = [top for top, _ in order]
    assert tops[:9] == sorted(tops[:9])
    assert [name for _, name in order if name] == ["slider", "next"]  # there is no step back from the first
    page.keyboard.press("End")
    names = page.evaluate(
        "[...document.querySelectorAll('button, input, [role=button], svg[role]')]"
        ".map(e => e.getAttribute('aria-label') || e.textContent.trim())"
    )
    assert all(names)
    page.keyboard.press("Home")
    hidden = page.eval_on_selector_all("#figure .gradient", "all => all.every(e => e.getAttribute('aria-hidden'))")
    assert hidden
    assert page.get_attribute("#slider", "aria-valuetext") == "Step 1 of 28: forward, mul"


def test_motion_is_reduced_where_that_is_asked_and_no_script_shows_all(visit: Callable[..., Any]) -> None:
    still = visit(neuron_page(), reduced_motion="reduce")
    assert still.evaluate("getComputedStyle(document.querySelector('#figure .gradient')).transitionDuration") == "0s"
    plain = visit(neuron_page(), java_script_enabled=False)
    assert plain.is_visible("#figure svg.wide")
    assert plain.locator("#figure svg.wide .later").count() == 0
    assert not plain.is_visible("#controls")
    assert "dx = [-3, -1, 2]" in plain.text_content("details pre")


def test_the_frame_of_a_notebook_works(visit: Callable[..., Any]) -> None:
    page = visit(f"<!doctype html><title>notebook</title>{bp.explain(one_neuron(), [[1.0, -2.0, 3.0]])._repr_html_()}")
    frame = page.frames[1]
    frame.click("#next")
    assert frame.text_content("#where").startswith("Step 2 of 12")
