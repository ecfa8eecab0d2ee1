"""The page in a browser: what a person does with it, by keys and clicks, in light and dark, on any screen."""

import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from pages import Made, given_pictures, made

from ddattr.attribution.methods import SUPPORT
from ddattr.data.tables import unit_table
from ddattr.files import load_tensors, save_table
from ddattr.tracking.report import write_report

pytestmark = pytest.mark.slow
EVIL = "<script>alert(1)</script>"
OPEN = "#explorer:not([hidden])"
FIVE = "#/default/5"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Made:
    """A run in RGB with two query sets, whose units' names would be markup; of one unit the null was kept."""
    run = made(tmp_path_factory.mktemp("made"), shape=(3, 8, 8))
    given_pictures(run, ["a b.png", "<b>.png", "c.png"])
    table = unit_table(run.data)
    save_table(run.root / "units.parquet", table.assign(name=[f"{EVIL} {unit}" for unit in table.unit]))
    nulls = run.table("nulls.parquet")
    save_table(run.folder / "nulls.parquet", nulls[(nulls["query"] == 5) & (nulls.unit == best(run, 5)[0])])
    write_report(run.root, "made", run.data)
    return run


def best(run: Made, query: int, method: str = SUPPORT) -> list[int]:
    """Units in the order of the explorer: those that pass, then the others, each by score."""
    table = run.table("influence.parquet")
    rows = table[(table["query"] == query) & (table.method == method) & (table.measure != "norm")]
    passing = run.table("attributions.parquet").query("query == @query").unit
    order = rows.assign(first=rows.unit.isin(passing)).sort_values(["first", "score"], ascending=False).unit
    return order.tolist()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("the page in a browser: install Debian's package `chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play, closing(play.chromium.launch(executable_path=path, args=["--no-sandbox"])) as found:
        yield found


@pytest.fixture
def visit(browser, run) -> Iterator[Callable]:
    """Opens the page; at the end, nothing must have been said on its console or asked of anywhere."""
    said, asked, contexts = [], [], []

    def visit(fragment: str = "", root: Path = run.root, wait: str = OPEN, **options):
        contexts.append(browser.new_context(reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{(root / 'report.html').as_uri()}{fragment}")
        page.wait_for_selector(wait)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:", "blob:"))] == []
    assert len([url for url in asked if not url.startswith("data:")]) == len(contexts)


def surest(run: Made) -> tuple[str, int]:
    """The query that the page opens with, and what it owes itself to."""
    table = run.table("attributions.parquet").sort_values(["q_value", "support"], ascending=[True, False])
    return f"seed {table['query'].iloc[0]}", table.unit.iloc[0]


def query(page) -> str:
    return page.text_content("#query h3")


def units(page) -> list[int]:
    """Of the list, in order, by the numbers in their names."""
    return [int(name.split()[-1]) for name in page.locator("#list .name").all_text_contents()]


def pixels(page, canvas: str) -> np.ndarray:
    address = page.eval_on_selector(canvas, "it => it.toDataURL()")
    return (matplotlib.image.imread(BytesIO(b64decode(address.partition(",")[2])))[..., :3] * 255).round()


def test_every_picture_has_words_and_nothing_of_the_data_runs(visit):
    page = visit()
    images = page.eval_on_selector_all("img", "all => all.map(it => it.alt)")
    assert len(images) > 50
    assert all(images)
    assert page.eval_on_selector_all("canvas", "all => all.filter(it => !it.ariaLabel).length") == 0
    assert page.text_content("#detail-name").startswith(EVIL)
    assert page.locator("script").count() == 2


def test_keys_go_from_query_to_query(visit):
    page = visit(FIVE)
    assert query(page) == "seed 5"
    for key, wanted in {"j": 6, "ArrowRight": 7, "ArrowLeft": 6, "k": 5}.items():
        page.keyboard.press(key)
        page.wait_for_selector(f"#query h3:text('seed {wanted}')")
    page.keyboard.press("k")  # there is none before the first
    assert query(page) == "seed 5"
    page.focus("#filter")
    page.keyboard.type("jk")
    assert page.input_value("#filter") == "jk"
    assert query(page) == "seed 5"


def card(page) -> str:
    return page.inner_text("#card")


def image(page, selector: str) -> np.ndarray:
    address = page.get_attribute(selector, "src")
    return (matplotlib.image.imread(BytesIO(b64decode(address.partition(",")[2])))[..., :3] * 255).round()


def test_the_card_is_the_same_whether_a_script_draws_it_or_not(visit, run):
    served, drawn = visit(java_script_enabled=False, wait="#card"), visit()
    assert card(served) == card(drawn)
    assert served.get_attribute("#card", "class") == drawn.get_attribute("#card", "class") == "sure"
    assert served.locator("#card img").count() == drawn.locator("#card img").count() == 5
    for place in range(5):
        one, other = (image(page, f"#card img >> nth={place}") for page in (served, drawn))
        assert np.abs(one - other).max() <= 2  # half a step of what the script is given


def test_a_picture_above_the_card_is_chosen_by_click_and_keys_and_the_explorer_follows(visit, run):
    page = visit()
    assert page.text_content("#card-name") == surest(run)[0]
    page.click("#faces > :nth-child(1)")
    page.wait_for_selector("#card-name:text('seed 5')")
    page.click("#faces > :nth-child(2)")
    page.wait_for_selector("#card-name:text('seed 6')")
    assert query(page) == "seed 6"
    assert page.get_attribute("#faces > :nth-child(2)", "aria-selected") == "true"
    page.focus("#faces > :nth-child(2)")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#card-name:text('seed 7')")
    assert page.evaluate("document.activeElement === document.querySelector('#faces').children[2]")
    assert page.get_attribute("#card", "class") == "unsure"
    assert "nothing that can be named" in card(page)
    assert page.is_hidden("#card-other")
    page.keyboard.press("k")
    page.wait_for_selector("#card-name:text('seed 6')")
    assert page.is_visible("#card-other")
    assert page.evaluate("scrollY") == 0
    assert page.locator("#faces [role=option][tabindex='0']").count() == 1


def test_the_card_leads_to_its_numbers_in_the_explorer(visit, run):
    page = visit()
    page.click("#card-record")
    page.wait_for_function("document.getElementById('explorer').getBoundingClientRect().top < 100")
    asked, unit = surest(run)
    assert page.text_content("#detail-name") == f"{EVIL} {unit}" == page.text_content("#card-owed")
    assert query(page) == page.text_content("#card-name") == asked


def test_one_of_every_list_takes_the_focus_and_arrows_move_it(visit, run):
    page = visit()
    page.click("#strip > :nth-child(2)")
    page.wait_for_selector("#query h3:text('seed 6')")
    page.locator("#list [aria-selected=true]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.item") == str(best(run, 6)[2])
    assert page.text_content("#detail-name").startswith(f"{EVIL} {best(run, 6)[2]}")
    for where in ("#faces", "#strip", "#list"):
        assert page.locator(f"{where} [role=option][tabindex='0']").count() == 1
        assert page.locator(f"{where} [aria-selected=true]").count() == 1
    page.keyboard.press("j")
    page.wait_for_selector("#query h3:text('seed 7')")
    assert page.evaluate("document.activeElement.dataset.item") == str(best(run, 7)[0])  # and stays in the list
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#list')") is None


def test_what_passes_stands_apart_and_methods_reorder(visit, run):
    page = visit(FIVE)
    passing = run.table("attributions.parquet").query("query == 5").unit.tolist()
    assert units(page) == [unit for unit in best(run, 5) if unit in units(page)]
    assert [
        int(item) for item in page.locator("#list .pass .row").evaluate_all("all => all.map(it => it.dataset.item)")
    ] == [unit for unit in best(run, 5) if unit in passing]
    headings = page.locator("#list h3").all_text_contents()
    assert headings == [
        f"{len(passing)} units pass the test (q ≤ 0.05)",
        "Do not pass: nothing may be claimed",
    ]
    page.select_option("#method", label="pixel similarity")
    assert units(page) == [unit for unit in best(run, 5, "pixel") if unit in units(page)]
    assert units(page) != [unit for unit in best(run, 5) if unit in units(page)]
    page.select_option("#sort", label="p")
    table = run.table("influence.parquet").query("query == 5 and method == 'denoised_gls'").set_index("unit").p_value
    assert table[units(page)].is_monotonic_increasing
    page.check("#passes")
    assert set(units(page)) == set(passing)


def test_a_filter_keeps_what_is_called_so(visit):
    page = visit(FIVE)
    page.fill("#filter", "SCRIPT> 12")
    assert units(page) == [12]
    page.fill("#filter", "no such name")
    assert units(page) == []
    assert page.is_hidden("#detail")


def test_sets_are_listed_beside_the_units(visit, run):
    page = visit()
    page.check("#tabs [value=sets]")
    assert {"nearest 1", "nearest 2", "nearest 5"} <= set(page.locator("#list .name").all_text_contents())
    assert page.is_hidden("#compare")
    assert "as one" in page.text_content("#detail-rank")
    assert 'run.sets["default"].sets' in page.text_content("#commands")


def test_the_pictures_are_those_of_the_replay_and_the_slider_amplifies(visit, run):
    tensors = load_tensors(run.folder / "queries.safetensors")
    unit = tensors["refined_units"][0, 0].item()
    page = visit(f"#/default/5/{unit}")
    shown = {}
    for view in ("factual", "exact", "first"):
        page.check(f"#views [value={view}]")
        shown[view] = pixels(page, "#picture")
    for view, true in (("factual", tensors["factual"][0]), ("exact", tensors["refined"][0, 0])):
        wanted = ((true.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0)
        assert np.abs(shown[view] - wanted.numpy()).max() <= 1.5
    assert (shown["first"] != shown["exact"]).any()
    page.check("#views [value=exact]")
    before, scale = pixels(page, "#difference"), page.text_content("#brighter")
    page.fill("#amplify", "6")
    after = pixels(page, "#difference")
    assert (before != after).any()
    assert page.text_content("#brighter") != scale
    assert page.text_content("#amplified") == "\N{MULTIPLICATION SIGN} 64"
    page.fill("#amplify", "0")
    gentle = pixels(page, "#difference")
    moved = (tensors["refined"][0, 0] - tensors["factual"][0]).mean(0)
    neutral = np.array([0xF5, 0xF5, 0xF4])
    far = np.abs(gentle - neutral).sum(-1)
    assert np.corrcoef(far.flatten(), moved.abs().flatten())[0, 1] > 0.9
    brown = gentle[..., 0] - gentle[..., 2]
    assert np.corrcoef(brown.flatten(), moved.flatten())[0, 1] > 0.9


def test_what_was_not_replayed_has_the_command_that_does_it(visit, run):
    replayed = load_tensors(run.folder / "queries.safetensors")["refined_units"][:, 0].tolist()
    unit = next(unit for unit in best(run, 5) if unit not in replayed)
    page = visit(f"#/default/5/{unit}")
    assert page.text_content("#replay") == ""
    page.check("#views [value=exact]")
    assert f"codewords(torch.tensor([{unit}]))" in page.text_content("#replay")
    assert page.is_hidden("#picture")


def test_commands_name_the_folder_that_the_page_lies_in(visit, run):
    page = visit(FIVE)
    command, python = page.locator("#commands code").all_text_contents()
    assert command == f"ddattr attribute {run.root}"
    assert f'ddattr.load("{run.root}")' in python
    assert "run.best(query=5)" in python
    page.locator("#commands button").first.click()
    page.wait_for_selector("#commands button:text('copied')")


def test_a_null_is_drawn_with_the_units_mark_or_its_absence_said(visit, run):
    page = visit(f"#/default/5/{best(run, 5)[0]}")
    (counts,) = run.table("nulls.parquet").counts
    assert page.locator("#null rect").count() == (counts > 0).sum()
    assert f"{sum(counts):,} codewords that no unit holds" in page.text_content("#null")
    assert page.locator("#null .mark").count() == 1
    z = run.table("attributions.parquet").set_index(["query", "unit"]).z[5, best(run, 5)[0]]
    assert page.text_content("#null .here").startswith(f"z = {z:.2f}")
    page.click("#list [role=option] >> nth=1")
    assert page.locator("#null rect").count() == 0
    assert "was not kept" in page.text_content("#null")


def test_an_address_leads_back(visit, run):
    page = visit(FIVE)
    page.keyboard.press("j")
    page.wait_for_selector("#query h3:text('seed 6')")
    page.click("#list [role=option] >> nth=3")
    address = page.evaluate("location.hash")
    assert address == f"#/default/6/{best(run, 6)[3]}"
    other = visit(address)
    assert query(other) == "seed 6"
    assert other.text_content("#detail-name") == page.text_content("#detail-name")
    for broken in ("#/no%20such/9/9", "#/%", "#/default/99/x"):
        assert query(visit(broken)) == surest(run)[0]


def test_what_is_surest_leads_to_where_the_explorer_has_it(visit, run):
    page = visit()
    link = page.locator("a.pairing >> nth=1")
    link.click()
    page.wait_for_selector("#query h3:text('seed 6')")
    assert page.evaluate("location.hash") == link.get_attribute("href")
    assert page.evaluate("document.getElementById('explorer').getBoundingClientRect().top") < 100


def test_another_query_set_has_its_own_queries(visit):
    page = visit()
    page.select_option("#set", label="mine")
    page.wait_for_selector("#query h3:text('<b>.png')")
    assert page.is_hidden("#compare")
    assert "no counterfactual" in page.text_content("#no-compare")
    assert "'queries.pictures=[a b.png,<b>.png,c.png]'" in page.text_content("#commands")
    assert 'run.sets["mine"].best(query=6)' in page.text_content("#commands")
    assert page.evaluate("location.hash").startswith("#/mine/6/")


def test_it_is_dark_where_the_screen_is(visit):
    def colours(page) -> list:
        styles = "it => [getComputedStyle(it).backgroundColor, getComputedStyle(it).color]"
        return [*page.eval_on_selector("body", styles), pixels(page, "#legend")[0, 64].tolist()]

    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    for one, other in zip(colours(light), colours(dark), strict=True):
        assert one != other
    light.emulate_media(color_scheme="dark")
    light.wait_for_timeout(100)
    assert colours(light) == colours(dark)


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_screen_scrolls_sideways(visit, width):
    page = visit(viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.check("#views [value=exact]")
    page.check("#tabs [value=sets]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_reads_without_a_script(visit, run):
    page = visit(java_script_enabled=False, wait="#words")
    assert page.is_hidden("#explorer")
    assert page.is_hidden("#faces")
    assert page.is_visible("#card-sure")
    assert page.is_visible("#whose-list li >> nth=0")
    assert "diffusion models" in page.inner_text("#words")


def test_grey_pictures_have_no_colours_to_choose(visit, tmp_path):
    grey = made(tmp_path, shape=(1, 8, 8))
    write_report(grey.root, "grey", grey.data)
    page = visit(root=grey.root)
    assert page.is_hidden("#colours-choice")
    assert (np.diff(pixels(page, "#picture")) == 0).all()
    assert visit().is_visible("#colours-choice")
