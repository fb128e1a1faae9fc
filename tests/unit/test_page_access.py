"""The page by keyboard, for screen readers, in both themes, on all screens, with 256 nodes."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser

from ai_how.monitoring.model import Finding
from made_up_life import MovingLife, ToldClusters
from seen_page import Seen, chromium, seen, served

FINDING = Finding(
    id="node-drained",
    severity="warning",
    subject="compute-02",
    text="compute-02 is drained",
    since=1.7e9,
    evidence=("State=IDLE+DRAIN",),
    remedy="ai-how hpc check --heal",
)

OTHERS = [(390, 844), (768, 1024), (1280, 800), (1920, 1080)]

# WCAG's contrast of each text against what is behind it, worst first.
CONTRAST = """() => {
    const parse = (text) => {
        const found = text.match(/[0-9.]+/g).map(Number);
        return { rgb: found.slice(0, 3), alpha: found[3] ?? 1 };
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((one) => one / 255)
            .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = parse(getComputedStyle(one).backgroundColor);
            if (colour.alpha > 0.99) return colour.rgb;
        }
        return [255, 255, 255];
    };
    const found = new Map();
    for (const element of document.querySelectorAll('body *')) {
        const isSvg = element.namespaceURI.endsWith('svg');
        const text = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
        if (!text || element.tagName === 'title' || !element.getClientRects().length) continue;
        if (element.closest('.hidden, noscript, :disabled')) continue;
        // Letters on a user's colour stand on a bar, which is a neighbour in the picture.
        const style = getComputedStyle(element);
        const bar = element.matches('.on-hue, .on-hue ~ .end')
            ? element.parentElement.querySelector('.hue') : null;
        const ground = bar ? parse(getComputedStyle(bar).fill).rgb : behind(element);
        const ink = parse(isSvg ? style.fill : style.color).rgb;
        const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const name = `${element.tagName}.${element.getAttribute('class')} ${ink} on ${ground}`;
        if (ratio < 4.5) found.set(name, ratio);
    }
    return [...found];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    life = MovingLife(name="made-up", findings=(FINDING,), has_gpus=True)
    drained = {"states": ("idle", "drain"), "reason": "a test of disks"}
    life.change = lambda now: replace(
        now,
        nodes=tuple(
            replace(one, slurm=replace(one.slurm, **drained)) if one.name == "compute-02" else one
            for one in now.nodes
        ),
    )
    with served(ToldClusters(life, MovingLife(name="other", nodes=1))) as one:
        yield one.address


def wait_for_all(page: Seen) -> None:
    page.wait("() => document.querySelectorAll('#jobs-table tbody tr').length > 1")
    page.wait("() => document.querySelectorAll('#charts .plot canvas').length > 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, address, scheme):
    with seen(browser, address, color_scheme=scheme) as page:
        wait_for_all(page)
        assert page.page.evaluate(CONTRAST) == []
        ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) > 128) == (scheme == "light")
        # The button goes on from the system's to light, to dark, and stays so when loaded again.
        page.page.locator("#theme").click()
        page.page.locator("#theme").click()
        page.page.reload()
        wait_for_all(page)
        assert page.page.get_by_role("button", name="Colours: dark").count() == 1
        ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert int(re.findall(r"\d+", ground)[0]) < 128


def focused(page: Seen) -> str:
    return page.page.evaluate(
        """() => {
            const one = document.activeElement;
            const ring = getComputedStyle(one);
            const box = one.querySelector?.(':scope > .box, :scope > .hit');
            const near = one.nextElementSibling ? getComputedStyle(one.nextElementSibling) : ring;
            const isSeen = ring.outlineStyle !== 'none' || near.outlineStyle !== 'none'
                || (box && parseFloat(getComputedStyle(box).strokeWidth) >= 2);
            const name = one.getAttribute('aria-label') || one.textContent || one.value || '';
            const text = name.trim().replace(/\\s+/g, ' ').slice(0, 50);
            const where = one.closest('svg')?.parentElement.id || one.id || one.tagName;
            return `${isSeen ? '' : 'UNSEEN '}${where} ${text}`;
        }"""
    )


def test_everything_is_reached_by_keyboard_with_a_visible_focus(browser, address):
    with seen(browser, address) as page:
        wait_for_all(page)
        page.page.keyboard.press("Tab")
        assert "Skip to the cluster" in focused(page)
        stops = []
        for _ in range(120):
            page.page.keyboard.press("Tab")
            stops.append(focused(page))
            if stops[-1].startswith(("BODY", "UNSEEN BODY")) and len(stops) > 5:
                break
        assert [one for one in stops if one.startswith("UNSEEN") and "BODY" not in one] == []
        text = "\n".join(stops)
        for wanted in (
            "tab-made-up",
            "theme",
            "Copy the remedy",
            "picture controller",
            "subject",
            "gantt Job",
            "As a table",
            "jobs-filter",
            "nodes-filter",
            "jobs-table",
            "nodes-table",
        ):
            assert wanted in text or wanted.replace("As a", "as a") in text, wanted
        # One stop for all nodes of the picture, and one for all bars.
        assert text.count("\npicture ") == 1
        assert text.count("\ngantt ") == 1


def test_arrow_keys_go_through_tabs_and_nodes_and_enter_opens(browser, address):
    with seen(browser, address) as page:
        wait_for_all(page)
        page.page.locator("#picture .node").first.focus()
        page.page.keyboard.press("ArrowRight")
        assert "picture compute-01" in focused(page)
        page.page.keyboard.press("End")
        assert "picture compute-03" in focused(page)
        page.page.keyboard.press("Enter")
        assert page.text("#drawer-title") == "compute-03"
        page.page.keyboard.press("Escape")
        page.wait("() => !document.querySelector('#drawer').open")
        # The focus is back where it was.
        assert "picture compute-03" in focused(page)
        page.page.locator("#tab-made-up").focus()
        page.page.keyboard.press("ArrowRight")
        page.wait("() => document.querySelector('#cluster-name').textContent === 'other'")
        assert "tab-other" in focused(page)


def test_what_a_screen_reader_finds(browser, address):
    with seen(browser, address) as page:
        wait_for_all(page)
        page.wait(
            "() => document.querySelector('#charts .plot').ariaLabel.includes('compute-01: now')"
        )
        tree = page.page.locator("body").aria_snapshot()
        for wanted in (
            "- banner:",
            "- main:",
            "- contentinfo:",
            '- tab "made-up 1 finding" [selected]',
            '- heading "made-up" [level=1]',
            '- region "Health"',
            '- table "Nodes"',
            '- table "Jobs"',
            '- columnheader "CPUs busy"',
            '- rowheader "compute-01"',
            '- radio "1 h" [checked]',
            'img "CPU, of its own. host: now',
            '- button "compute-02, idle+drain',
            '- searchbox "Show only jobs with"',
        ):
            assert wanted in tree, f"{wanted}\n{tree}"
        # Nothing that can be pressed or filled has no name.
        nameless = re.findall(
            r"- (?:button|link|combobox|searchbox|radio|tab)(?: \[.*\])?:?$", tree, re.M
        )
        assert nameless == []


@pytest.mark.parametrize(("width", "height"), [(360, 740), (390, 844), (1280, 800), (3840, 2160)])
def test_no_screen_is_too_small_or_too_large(browser, address, width, height):
    with seen(browser, address, viewport={"width": width, "height": height}) as page:
        wait_for_all(page)
        wide = page.page.evaluate(
            """() => [...document.querySelectorAll('main *')]
                .filter((one) => !one.closest('.scroll, .event-list, .journal, .hidden, svg'))
                .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
                .map((one) => one.tagName + '#' + one.id + '.' + one.className)"""
        )
        assert wide == []
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_256_nodes_are_small_cells_of_one_picture(browser):
    life = MovingLife(name="made-up", nodes=256, count=200)
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.wait("() => document.querySelectorAll('#picture .node').length === 257")
        page.wait("() => document.querySelectorAll('#nodes-table tbody tr').length === 257")
        height = page.page.evaluate("document.querySelector('#picture svg').clientHeight")
        assert height < 800
        page.page.locator("#picture .node").last.focus()
        assert "picture compute-256" in focused(page)
        # The lines are those of the busiest, and the host's.
        page.wait(
            "() => document.querySelectorAll('#charts .chart:first-child .legend li').length === 8"
        )


def test_no_motion_for_who_wants_none_and_paper_shows_all(browser, address):
    with seen(browser, address, reduced_motion="reduce", color_scheme="dark") as page:
        wait_for_all(page)
        moving = page.page.evaluate("document.getAnimations().length")
        assert moving == 0
        page.page.emulate_media(media="print")
        ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert page.page.locator("#theme").is_hidden()
        assert page.page.evaluate(CONTRAST) == []
