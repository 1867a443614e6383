"""The status page in a real browser, in front of a real pooler under load.

TRIO_POOL_PICTURES=DIRECTORY keeps what the browser shows there: that is how the pictures of the documentation
are made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Chromedriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.daemon.web.page import page, policy
from trio_pool.daemon.web.snapshot import quantile
from trio_pool.pooling.traffic import BOUNDS
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome

    from trio_pool.cli.postgres import LocalPostgres

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="there is no Chromium with its driver"
)
SECONDS = 30.0
WIDTHS = {"desktop": (1280, 1180), "phone": (390, 844)}
EVIL = "<script>document.title = 'taken over'</script>"
ROWS = "#pool-rows tr"


@pytest.fixture(scope="module")
def pooler(postgres: LocalPostgres) -> Iterator[Pooler]:
    extra = {"http": {"address": "127.0.0.1:0"}, "databases": {"app": {"pool_size": 4}}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as running:
        yield running


@pytest.fixture(params=WIDTHS)
def size(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def browser(size: str, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    dark = getattr(request, "param", None) == "dark"
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    if dark:
        options.add_argument("--force-dark-mode")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Chromedriver(CHROMEDRIVER))
    try:
        width, height = WIDTHS[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def until(browser: Chrome, happened: Callable[[], Any]) -> None:
    """Return when it has; the page may be replaced meanwhile."""

    def look(_: Chrome) -> bool:
        return bool(happened())

    WebDriverWait(browser, SECONDS, 0.1).until(look)


def text(browser: Chrome, name: str) -> str:
    shown: str = browser.execute_script("return document.getElementById(arguments[0]).textContent", name)
    return shown


def figure(browser: Chrome, name: str) -> float:
    shown = text(browser, name)
    return float(shown.replace(",", "")) if re.fullmatch(r"[\d.,]+", shown) else -1.0


def keep(browser: Chrome, name: str) -> None:
    directory = os.environ.get("TRIO_POOL_PICTURES")
    if directory:
        browser.save_screenshot(str(Path(directory) / f"{name}.png"))


@contextlib.contextmanager
def load(postgres: LocalPostgres, pooler: Pooler, clients: int = 16) -> Iterator[None]:
    """pgbench, until the block ends."""
    program = str(postgres.bin("pgbench"))
    where = ["-h", pooler.host, "-p", str(pooler.port), "-U", USER]
    environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"}
    command = [program, "-n", "-c", str(clients), "-T", "120", "-f", "-", *where, "app"]
    script = "begin;\nselect count(*) from pg_class where oid < 2000;\nselect pg_sleep(0.002);\nend;\n"
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    process.stdin.write(script.encode())
    process.stdin.close()
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def client(pooler: Pooler, **parameters: str) -> Iterator[RawClient]:
    one = RawClient.connect((pooler.host, pooler.port))
    try:
        one.sock.settimeout(SECONDS)
        one.send(messages.startup({"user": USER, "database": "app", **parameters}))
        assert one.errors() == []
        yield one
    finally:
        one.sock.close()


@needs_browser
@pytest.mark.parametrize("browser", ["light", "dark"], indirect=True)
def test_the_page_follows_the_load(
    postgres: LocalPostgres, pooler: Pooler, browser: Chrome, size: str, request: pytest.FixtureRequest
) -> None:
    """It shows load when it begins and when it ends, fits the screen, and its console stays empty."""
    address = pooler.ready["http"]
    browser.get(address)
    until(browser, lambda: browser.find_element(By.ID, "state").text == "live")
    with load(postgres, pooler), client(pooler, application_name="invoices") as patient:
        assert patient.run("begin") == []
        assert patient.run("select 'secret'") == []
        until(browser, lambda: figure(browser, "tps") > 10 and figure(browser, "waiting-now") > 0)
        until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ROWS)) == 1)
        until(browser, lambda: "invoices" in text(browser, "lease-rows"))
        until(browser, lambda: len(browser.execute_script("return history")) > 3)
        seen = text(browser, "lease-rows")
        assert "idle in transaction" in seen
        assert "secret" not in seen
        assert overlapping(browser) == []
        wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0
        if "TRIO_POOL_PICTURES" in os.environ:
            WebDriverWait(browser, 90, 1).until(lambda _: len(browser.execute_script("return history")) > 50)
        keep(browser, f"status-page-{size}-{request.node.callspec.params['browser']}")
    until(browser, lambda: figure(browser, "tps") == 0 and figure(browser, "clients") == 0)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def overlapping(browser: Chrome) -> list[str]:
    """Figures that are wider than their place."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('.figures div')]"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    )
    return found


@needs_browser
@pytest.mark.parametrize("size", ["desktop"], indirect=True)
def test_what_clients_say_is_text(pooler: Pooler, browser: Chrome) -> None:
    """The name of an application is shown letter by letter, and never run."""
    with client(pooler, application_name=EVIL) as patient:
        assert patient.run("begin") == []
        assert patient.run("select 1") == []
        browser.get(pooler.ready["http"])
        until(browser, lambda: EVIL in text(browser, "lease-rows"))
        assert browser.find_elements(By.CSS_SELECTOR, "main script") == []
        assert browser.title == "trio-pool"
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


@needs_browser
@pytest.mark.parametrize("size", ["desktop"], indirect=True)
def test_the_page_is_for_everybody(pooler: Pooler, browser: Chrome) -> None:
    """Its parts have names, its tables headings, its first stop on the keyboard leads to the contents."""
    browser.get(pooler.ready["http"])
    until(browser, lambda: browser.find_element(By.ID, "state").text == "live")
    nameless = browser.execute_script(
        """
        const label = node => node.getAttribute("aria-labelledby");
        const named = node => node.getAttribute("aria-label") || node.textContent.trim()
            || (label(node) && document.getElementById(label(node)).textContent);
        return [...document.querySelectorAll("section, table, svg, a, button, input, th")]
            .filter(node => !named(node)).length;
        """
    )
    assert nameless == 0
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    unscoped = browser.find_elements(By.CSS_SELECTOR, "th:not([scope])")
    assert unscoped == []
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the pools"


@needs_browser
@pytest.mark.parametrize("size", ["desktop"], indirect=True)
def test_a_pooler_that_is_gone_is_missed(postgres: LocalPostgres, browser: Chrome) -> None:
    """The page says that it has no connection rather than show old figures as if they were new."""
    extra = {"http": {"address": "127.0.0.1:0"}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as running:
        browser.get(running.ready["http"])
        until(browser, lambda: browser.find_element(By.ID, "state").text == "live")
    until(browser, lambda: "no connection" in browser.find_element(By.ID, "state").text)
    assert browser.find_elements(By.CSS_SELECTOR, "main.old")


def test_the_snapshot_is_what_has_happened(postgres: LocalPostgres, pooler: Pooler) -> None:
    """The same as JSON, for programs: pools, leases with statements that show no constants."""
    with client(pooler, application_name="patient") as patient:
        assert patient.run("begin") == []
        assert patient.run("select 'secret'") == []
        while True:
            answer = urllib.request.urlopen(pooler.ready["http"] + "/snapshot.json", timeout=SECONDS).read()
            now = json.loads(answer)
            if now["leases"]:
                break
        assert b"secret" not in answer
        (lease,) = now["leases"]
        assert (lease["database"], lease["user"], lease["application_name"], lease["doing"]) == (
            "app",
            USER,
            "patient",
            "idle in transaction",
        )
        (pool,) = [pool for pool in now["pools"] if pool["leased"]]
        assert (pool["database"], pool["size"], pool["leased"], pool["waiting"]) == ("app", 4, 1, 0)
        assert now["totals"]["clients"] == 1
        assert [origin["reachable"] for origin in now["origins"]] == [True]
        assert now["origins"][0]["origin"].endswith(f"/{DATABASE}") or DATABASE in now["origins"][0]["origin"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """One file; the policy allows its own script and style by their hashes, and nothing else."""
    assert not re.findall(r"""(?:src|href)=["'](?!data:|metrics|#)[^"']*["']""", page())
    assert not re.findall(r"https?://(?!www\.w3\.org)", page())
    assert "unsafe" not in policy()
    assert policy().count("sha256-") == 2


PAIRS = [("text", "card"), ("waiting", "card"), ("bad", "card"), ("quiet", "ground"), ("accent", "ground")]


@pytest.mark.parametrize(("foreground", "background"), PAIRS)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_palette_can_be_read(scheme: int, foreground: str, background: str) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3)."""
    blocks = re.findall(r":root \{(.*?)\}", page(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))
    lighter, darker = sorted((_luminance(colours[name]) for name in (foreground, background)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_quantiles_of_a_histogram() -> None:
    """Between two bounds times are spread evenly; nothing is known of no observation."""
    counts = [0] * (len(BOUNDS) + 1)
    assert quantile(counts, 0.5) is None
    counts[1] = 10  # of 0.5 to 1 ms
    assert quantile(counts, 0.5) == pytest.approx(0.00075)
    counts[0] = 30
    assert quantile(counts, 0.5) == pytest.approx(0.0005 * 20 / 30)
    counts[-1] = 1000
    assert quantile(counts, 0.99) == BOUNDS[-1]
