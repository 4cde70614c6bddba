"""What somebody does with the status page in a browser, each a law; the first argument says which.

The server's address is in POLYLORA_URL, its key (where it has one) in POLYLORA_KEY, the browser and its driver in
POLYLORA_CHROMIUM and POLYLORA_CHROMEDRIVER. With POLYLORA_SCREENSHOTS, a folder, pictures of the page are left there.
"""

import base64
import contextlib
import json
import math
import os
import sys
import tempfile
import time
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

URL = os.environ["POLYLORA_URL"]
KEY = os.environ.get("POLYLORA_KEY", "")
PICTURES = os.environ.get("POLYLORA_SCREENSHOTS", "")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
]
DESKTOP, PHONE, SMALL_PHONE = (1280, 900), (390, 844), (360, 740)
# The page rounds to four places.
TOLERANCE = 1e-4
# What a stuck page is given up after; nothing waits so long when all is well.
PATIENCE = 120
TEXTS = ("chest pain radiating to the left arm", "breach of contract by the seller")


@contextlib.contextmanager
def browser():
    """A fresh browser, whose console must be empty at the end but for what `expect_console` took out."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = os.environ["POLYLORA_CHROMIUM"]
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(os.environ["POLYLORA_CHROMEDRIVER"]))
        try:
            yield driver
            assert console(driver) == [], "the console has errors"
        except BaseException:
            picture(driver, "failed")
            print(driver.find_element(By.TAG_NAME, "body").text, console(driver))
            raise
        finally:
            driver.quit()


def console(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def resize(driver, size, dark=False):
    width, height = size
    phone = size != DESKTOP
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def picture(driver, name):
    if PICTURES:
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        with open(os.path.join(PICTURES, f"{name}.png"), "wb") as file:
            file.write(base64.b64decode(shot["data"]))


def text(driver, name):
    return driver.find_element(By.ID, name).text


def until(driver, what, holds):
    WebDriverWait(driver, PATIENCE, poll_frequency=0.1).until(lambda _: holds(), message=what)


def request(path, body=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {KEY}"} if KEY else {})
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(URL + path, data, headers), timeout=PATIENCE) as reply:
        return reply.read().decode()


def embed(model, texts):
    body = {"input": list(texts)} | ({"model": model} if model else {})
    return [item["embedding"] for item in json.loads(request("/v1/embeddings", body))["data"]]


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def adapters():
    return [adapter["name"] for adapter in json.loads(request("/api/status"))["adapters"]["listed"]]


def plain_adapters():
    """Two adapters whose names are words."""
    first, second, *_ = (name for name in adapters() if name.isalnum() and len(name) < 40)
    return first, second


def traffic_of(driver, name):
    """The requests that the page shows for an adapter."""
    rows = driver.execute_script(
        "return [...document.querySelectorAll('#domains tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return next((int(requests.replace(",", "")) for head, _, requests, _ in rows if head == name), None)


def wait_for_numbers(driver):
    """Waits until the page is alive; a server that nobody asked lately has no latency to show, so somebody asks."""
    until(driver, "the page says that the server is ready", lambda: text(driver, "state") == "ready")
    embed("", TEXTS)
    until(driver, "a latency is shown", lambda: text(driver, "p99").endswith("ms"))


def compare(driver, a, b, texts=TEXTS):
    """Fills the form in and sends it; the three cosines."""
    for name, value in zip(("text-1", "text-2"), texts):
        field = driver.find_element(By.ID, name)
        field.clear()
        field.send_keys(value)
    for name, value in (("choice-a", a), ("choice-b", b)):
        Select(driver.find_element(By.ID, name)).select_by_value(value)
    driver.find_element(By.ID, "compare-button").click()
    done = lambda: driver.find_element(By.ID, "compared").is_displayed() or text(driver, "compare-problem")
    until(driver, "the comparison is answered", done)
    assert text(driver, "compare-problem") == "", text(driver, "compare-problem")
    return [float(text(driver, name)) for name in ("cosine-a", "cosine-b", "cosine-across")]


def expected(a, b):
    of_a, of_b = embed(a, TEXTS), embed(b, TEXTS)
    return [cosine(*of_a), cosine(*of_b), cosine(of_a[0], of_b[1])]


def assert_close(found, wanted):
    for x, y in zip(found, wanted, strict=True):
        assert abs(x - y) <= TOLERANCE, (found, wanted)


def assert_fits(driver):
    """Nothing reaches beyond the window's right edge."""
    beyond = driver.execute_script("""
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth > width) return [`the page is ${document.documentElement.scrollWidth} wide`];
        const all = [...document.querySelectorAll("body *")].filter((element) => !element.closest(".unseen, option"));
        const beyond = all.filter((element) => element.getBoundingClientRect().right > width + 0.5);
        return beyond.map((element) => `${element.tagName} ${element.id} ${element.textContent.slice(0, 60)}`);
    """)
    assert beyond == [], beyond


def the_page_shows_live_numbers_and_compares_at_desktop_and_phone_size():
    first, second = plain_adapters()
    wanted = expected(first, second)
    assert abs(wanted[0] - wanted[1]) > 10 * TOLERANCE, f"the adapters are too alike to be told apart: {wanted}"
    with browser() as driver:
        for name, size, dark in (
            ("desktop", DESKTOP, False), ("phone", PHONE, False), ("phone-dark", PHONE, True), ("small-phone", SMALL_PHONE, False),
        ):
            resize(driver, size, dark)
            driver.get(URL + "/")
            wait_for_numbers(driver)
            assert driver.execute_script("return innerWidth") == size[0]
            before = traffic_of(driver, second)
            assert before > 0
            embed(second, TEXTS)
            until(driver, "the page counts a new request", lambda: traffic_of(driver, second) > before)
            assert_close(compare(driver, first, second), wanted)
            assert_fits(driver)
            picture(driver, name)
        assert_close(compare(driver, "", second), expected("", second))
        throughput = lambda: float(text(driver, "inputs-per-second").replace(",", ""))
        until(driver, "the throughput is shown", lambda: throughput() > 0)


def names_of_adapters_are_text_whatever_they_contain():
    evil = [name for name in adapters() if "<" in name]
    assert evil, "the server has an adapter with markup in its name"
    with browser() as driver:
        resize(driver, SMALL_PHONE)
        driver.get(URL + "/")
        wait_for_numbers(driver)
        assert_close(compare(driver, evil[0], ""), expected(evil[0], ""))
        names = [head.text for head in driver.find_elements(By.CSS_SELECTOR, "#domains th")]
        options = [option.get_attribute("value") for option in driver.find_elements(By.CSS_SELECTOR, "#choice-a option")]
        for name in evil:
            assert name in names and name in options, (names, options)
        assert driver.find_elements(By.CSS_SELECTOR, "img, b, main script") == []
        assert driver.execute_script("return window.injected") is None
        assert_fits(driver)


def a_refusal_is_told_in_words():
    with browser() as driver:
        driver.get(URL + "/")
        wait_for_numbers(driver)
        driver.execute_script("document.getElementById('text-1').value = 'word '.repeat(2000)")
        driver.find_element(By.ID, "text-2").send_keys("short")
        driver.find_element(By.ID, "compare-button").click()
        until(driver, "the refusal is shown", lambda: "tokens" in text(driver, "compare-problem"))
        # The browser itself notes the status, once for each of the two requests.
        notes = console(driver)
        assert len(notes) == 2 and all("400" in note for note in notes), notes


def nobody_asks_while_nobody_looks():
    asked = lambda: sum(
        float(line.split()[-1])
        for line in request("/metrics").splitlines()
        if line.startswith('polylora_http_requests_total{route="/api/status"')
    )
    with browser() as driver:
        driver.get(URL + "/")
        wait_for_numbers(driver)
        page, before = driver.current_window_handle, asked()
        until(driver, "the page asks again", lambda: asked() > before + 1)
        driver.switch_to.new_window("tab")
        # One that was on its way.
        time.sleep(1)
        before = asked()
        time.sleep(7)
        assert asked() == before, "the hidden page goes on asking"
        driver.close()
        driver.switch_to.window(page)
        until(driver, "the page asks again", lambda: asked() > before)


def a_key_is_asked_for_and_kept_in_the_tab():
    with browser() as driver:
        resize(driver, PHONE)
        driver.get(URL + "/")
        field = driver.find_element(By.ID, "key")
        until(driver, "the page asks for the key", field.is_displayed)
        assert KEY not in driver.page_source
        picture(driver, "key")
        assert_fits(driver)
        field.send_keys("wrong", "\n")
        until(driver, "the wrong key is refused", lambda: "API key" in text(driver, "key-problem"))
        field.send_keys("schlüssel", "\n")
        until(driver, "what cannot be a key is said", lambda: "characters" in text(driver, "key-problem"))
        field.send_keys(KEY, "\n")
        until(driver, "the page is open", lambda: text(driver, "state") == "ready")
        _, second = plain_adapters()
        assert_close(compare(driver, "", second), expected("", second))
        stores = driver.execute_script("return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert stores == [[KEY], [], ""], stores
        assert KEY not in driver.current_url
        driver.refresh()
        wait_for_numbers(driver)
        driver.find_element(By.ID, "forget-key").click()
        until(driver, "the page asks for the key again", lambda: driver.find_element(By.ID, "key").is_displayed())
        assert driver.execute_script("return sessionStorage.length") == 0
        # The browser itself notes each 401.
        notes = console(driver)
        assert notes and all("401" in note for note in notes), notes


if __name__ == "__main__":
    law = sys.argv[1]
    globals()[law]()
    print(f"held: {law}")
